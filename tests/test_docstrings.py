# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Texts of docstrings can be read alone, as editors and command lines show them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
#: A first line or the text of an argument that says too little alone.
RIDDLE = re.compile(r'(What|Which|How)\b')
LEANING = re.compile(
    r'(Likewise|As|Of|Same|See|The same|Those|Its|Their|In)\b|.*\b(likewise|as above)\b'
)


def docstrings() -> Iterator[tuple[str, str]]:
    for folder in ('torchgeo_specdm', 'experiments'):
        for file in sorted((ROOT / folder).rglob('*.py')):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                    name = getattr(node, 'name', 'module')
                    yield f'{file.relative_to(ROOT)}: {name}', text


def arguments(docstring: str) -> Iterator[str]:
    """Names and texts in the sections of arguments and attributes."""
    sections = re.findall(
        r'^(?:Args|Attributes):\n((?:(?:    .*)?\n?)*)', docstring, re.MULTILINE
    )
    for section in sections:
        for entry in re.split(r'\n(?=    \S)', section):
            yield ' '.join(entry.split())


def test_first_lines_are_no_riddles() -> None:
    assert [(x, text) for x, text in docstrings() if RIDDLE.match(text)] == []


def test_argument_texts_stand_alone() -> None:
    found = [(x, entry) for x, text in docstrings() for entry in arguments(text)]
    assert len(found) > 500
    texts = [(x, entry, entry.partition(': ')[2]) for x, entry in found]
    assert [(x, y) for x, y, z in texts if RIDDLE.match(z) or LEANING.match(z)] == []
