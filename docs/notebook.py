"""Make the notebook of the tour from its script: ``python docs/notebook.py``.

Cells of the script begin with ``# %%``, or ``# %% [markdown]`` for text in comments.
"""

import json
import re
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name('tour.py')


def notebook(script: str) -> dict[str, Any]:
    """The notebook (format 4.5) of a script, without outputs."""
    cells: list[dict[str, Any]] = []
    parts = re.split(r'^# %%(| \[markdown\])\n', script, flags=re.MULTILINE)[1:]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        lines = text.strip('\n').splitlines(keepends=True)
        cell: dict[str, Any] = {'id': f'cell-{len(cells)}', 'metadata': {}}
        if kind:
            source = [re.sub('^# ?', '', line) for line in lines]
            cells.append(cell | {'cell_type': 'markdown', 'source': source})
        else:
            code = {'cell_type': 'code', 'execution_count': None, 'outputs': []}
            cells.append(cell | code | {'source': lines})
    language = {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}
    metadata = {'kernelspec': language, 'language_info': {'name': 'python'}}
    return {'cells': cells, 'metadata': metadata, 'nbformat': 4, 'nbformat_minor': 5}


if __name__ == '__main__':
    made = json.dumps(notebook(SCRIPT.read_text()), indent=1, ensure_ascii=False)
    SCRIPT.with_suffix('.ipynb').write_text(made + '\n')
