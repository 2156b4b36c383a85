# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Documents that are named exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Documents that commands write, not this repository.
WRITTEN = {'study.md', 'faults.md'}
SOURCES = [
    file
    for folder in ('torchgeo_specdm', 'tests', 'experiments')
    for file in sorted((ROOT / folder).rglob('*'))
    if file.suffix in {'.py', '.yaml'}
]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'experiments').glob('*.md'))]
PAGES += sorted((ROOT / 'docs').rglob('*.md'))


def test_sources_name_documents_of_the_repository() -> None:
    named = {
        (str(file.relative_to(ROOT)), name)
        for file in SOURCES
        for name in re.findall(r'[\w./-]+\.md\b', file.read_text())
        if name not in WRITTEN
    }
    assert len(named) > 20
    assert [(f, name) for f, name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r'\]\(([^)#]+)', page.read_text())
    local = [link for link in links if '://' not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
