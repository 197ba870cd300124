"""The house stands: every module imports only from its own storey or below."""

import ast
from pathlib import Path

import pytest

import kdcourse

ROOT = Path(kdcourse.__file__).parent
STOREYS = [
    ["softmax", "losses", "schedules", "metrics", "calibration", "methods"],
    ["data", "models", "attention", "networks", "chunks"],
    ["training"],
    ["plotting", "widgets", "conventions", "stand_in", "doctor", "grading", "experiments"],
    ["cli"],
]
FLOOR = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms of the package that this file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {name.name.split(".")[1] for name in node.names if "kdcourse." in name.name}
        elif isinstance(node, ast.ImportFrom):
            above = ("kdcourse", *path.relative_to(ROOT).parent.parts)
            base = above[: len(above) + 1 - node.level] if node.level else ()
            parts = [*base, *filter(None, (node.module or "").split("."))]
            if parts[0] == "kdcourse":
                rooms |= {parts[1]} if parts[1:] else {name.name for name in node.names}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_below(path):
    here = room(path)
    for other in imported(path) - {here}:
        assert FLOOR[other] <= FLOOR[here], f"{here} imports {other} from above"
        if FLOOR[here] == 0:
            order = STOREYS[0]
            assert order.index(other) < order.index(here), f"{here} comes before {other}"
        if here == "training":
            assert other in ("data", "chunks"), f"the loop knows no method, but imports {other}"


def test_the_package_itself_imports_nothing():
    """Or a page that imports one module would depend on all."""
    assert not imported(ROOT / "__init__.py")
