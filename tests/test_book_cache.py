"""An edit of a module re-runs the pages that reach it, and no other."""

import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "book" / "_ext" / "kd_cache.py"
specification = importlib.util.spec_from_file_location("kd_cache", SOURCE)
kd_cache = importlib.util.module_from_spec(specification)
specification.loader.exec_module(kd_cache)

FILES = {
    "kdcourse/__init__.py": "",
    "kdcourse/softmax.py": "import math",
    "kdcourse/losses.py": "from kdcourse.softmax import f",
    "kdcourse/metrics.py": "import kdcourse.softmax",
    "kdcourse/grading/__init__.py": "",
    "kdcourse/grading/live.py": "from . import judge\nfrom ..losses import g",
    "kdcourse/grading/judge.py": "",
    "book/results/sweep.json": "{}",
}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("import torch", set()),
        ("from kdcourse.softmax import f", {"softmax.py"}),
        ("from kdcourse import losses", {"losses.py", "softmax.py"}),
        ("import kdcourse.metrics as m", {"metrics.py", "softmax.py"}),
        (
            "from kdcourse.grading.live import check",
            {"grading/__init__.py", "grading/live.py", "grading/judge.py"} | {"losses.py", "softmax.py"},
        ),
    ],
)
def test_a_page_reaches_what_it_imports(tmp_path, cell, expected):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    package = {"__init__.py"} if expected else set()
    found = kd_cache.reached(cell, tmp_path)
    assert found.keys() == {f"kdcourse/{name}" for name in expected | package}


def test_an_edit_changes_the_digest_and_a_named_file_counts(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    cell = "from kdcourse import losses\nread('results/sweep.json')"
    before = kd_cache.reached(cell, tmp_path)
    (tmp_path / "kdcourse/metrics.py").write_text("edited = 1")
    assert kd_cache.reached(cell, tmp_path) == before
    (tmp_path / "kdcourse/softmax.py").write_text("edited = 1")
    (tmp_path / "book/results/sweep.json").write_text("[]")
    after = kd_cache.reached(cell, tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"kdcourse/softmax.py", "book/results/sweep.json"}
