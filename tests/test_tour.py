# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The tour runs, and its notebook is its script."""

import json
import math
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from lightning.pytorch import Trainer

DOCS = Path(__file__).parents[1] / 'docs'
SHRUNK = {
    'SCENES, PAIRS = (60, 20, 20), 60': 'SCENES, PAIRS = (8, 2, 2), 8',
    'GENERATOR_STEPS, NETWORK_STEPS = 500, 150': 'GENERATOR_STEPS, NETWORK_STEPS = 1, 1',
}


def test_the_notebook_is_the_script() -> None:
    notebook = runpy.run_path(str(DOCS / 'notebook.py'))['notebook']
    kept = json.loads((DOCS / 'tour.ipynb').read_text())
    assert kept == notebook((DOCS / 'tour.py').read_text()), 'python docs/notebook.py'
    kinds = [cell['cell_type'] for cell in kept['cells']]
    assert kinds[:3] == ['markdown', 'code', 'markdown'] and len(kinds) > 10


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (DOCS / 'tour.py').read_text()
    for line, short in SHRUNK.items():
        assert script.count(line) == 1
        script = script.replace(line, short)
    (tmp_path / 'tour.py').write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, 'show', lambda: plt.close('all'))
    steps, fit = [], Trainer.fit

    def noted(trainer: Trainer, *arguments: object, **named: object) -> None:
        fit(trainer, *arguments, **named)  # type: ignore[arg-type]
        steps.append(trainer.global_step)

    monkeypatch.setattr(Trainer, 'fit', noted)
    found = runpy.run_path('tour.py')
    assert steps == [1, 1, 1]
    assert found['drawn']['image'].shape == (3, 10, 32, 32)
    assert all(map(math.isfinite, found['scores'].values()))
    assert len([*Path('specdm-tour/pairs/images').iterdir()]) == 8
