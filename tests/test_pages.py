"""The sources of the pages: what a phone clips, and what a reader of the built book never sees."""

from pathlib import Path

import jupytext
import pytest

BOOK = Path(__file__).parents[1] / "book"
PAGES = sorted(BOOK.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_cells_fit_a_phone(page):
    for cell in jupytext.read(page).cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert len(lines) <= 15, f"{page.name}: {len(lines)} lines, 15 are the most: {lines[0]}"
            for line in lines:
                assert len(line) <= 72, f"{page.name}: {len(line)} columns, 72 are the most: {line}"
