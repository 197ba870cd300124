"""The notebooks: in step with their solutions, solved by them, and failing as shipped."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest
from grading.answers import SOLUTIONS
from nbclient import NotebookClient

from kdcourse.grading.make import main, make, stub
from kdcourse.grading.questions import QUESTIONS
from kdcourse.grading.spec import Choice, Function, Order

ROOT = Path(__file__).parents[1]
CHECK = re.compile(r'^check\("(\d\d\.\d+)", (\w+)\)$', re.M)


def code_cells(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="session")
def nbval(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], str]:
    """Every solution and every stub through nbval in one process: (notebook, code cell) -> what failed, or ""."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in SOLUTIONS.values():
        nbformat.write(make(path, solved=True), folder / f"{path.stem}_solved.ipynb")
        nbformat.write(make(path), folder / f"{path.stem}_stub.ipynb")
    forgetful = make(SOLUTIONS["04"], solved=True)
    keep = [0, *(i for i, c in enumerate(forgetful.cells) if re.search("import torch|distillation_loss", c.source))]
    forgetful.cells = [forgetful.cells[i] for i in keep]
    for cell in forgetful.cells:
        cell.source = cell.source.replace("temperature**2 * ", "")
    nbformat.write(forgetful, folder / "without_T2.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout=120", "-q", "--junitxml=report.xml"]
    result = subprocess.run(
        # away from this repository's own pytest settings, or they would be applied twice
        [*command, "-c", "/dev/null", "--rootdir", str(folder), "-p", "no:cacheprovider", "."],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 1, result.stdout + result.stderr  # the stubs fail
    cells = {}
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        notebook, cell = case.attrib["classname"].removesuffix(".ipynb"), int(case.attrib["name"].split()[-1])
        bad = [part for part in case if part.tag in ("failure", "error")]
        cells[notebook, cell] = "\n".join((part.text or "") + part.attrib.get("message", "") for part in bad)
    return cells


@pytest.mark.parametrize("chapter", SOLUTIONS)
def test_the_solution_passes_every_cell(nbval: dict[tuple[str, int], str], chapter: str) -> None:
    name = f"{SOLUTIONS[chapter].stem}_solved"
    cells = {cell: report for (notebook, cell), report in nbval.items() if notebook == name}
    assert len(cells) == len(code_cells(make(SOLUTIONS[chapter])))
    assert not any(cells.values()), cells


@pytest.mark.parametrize("chapter", SOLUTIONS)
def test_as_shipped_every_check_fails_and_says_not_started(nbval: dict[tuple[str, int], str], chapter: str) -> None:
    for number, source in enumerate(code_cells(make(SOLUTIONS[chapter]))):
        report = nbval[f"{SOLUTIONS[chapter].stem}_stub", number]
        found = CHECK.search(source)
        if found:
            question = QUESTIONS[found[1]]
            title = question.name if isinstance(question, Function) else question.id
            assert f"✗ {title}: not started" in report
        else:
            assert report == "", source  # nothing but a check fails


def test_a_report_carries_what_the_check_said(nbval: dict[tuple[str, int], str]) -> None:
    report = nbval["without_T2", 2]
    assert "✗ distillation_loss: right at T = 1. At T = 4 your value is 0.3591 and should be 0.4665." in report
    assert 'check("04.4", distillation_loss, name=True) names the mistake.' in report
    assert "Traceback (most recent" not in report and "live.py" not in report


def test_a_notebook_shows_two_lines_and_no_traceback() -> None:
    cell = nbformat.v4.new_code_cell('from kdcourse.grading import check\ncheck("01.1", "b")')
    notebook = nbformat.v4.new_notebook(cells=[cell])
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    NotebookClient(notebook, timeout=120, allow_errors=True).execute(env=os.environ | environment)
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "error" and output.ename == "Mistake"
    assert output.traceback == [
        "✗ 01.1: b. That is pruning: it shrinks the network at hand. Distillation trains a network that you chose.",
        "  Where to look: chapter 01, and the hint above if there is one.",
    ]


def test_the_notebooks_are_what_the_solutions_make(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_notebook_out_of_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "solutions").mkdir()
    (tmp_path / "exercises").mkdir()
    (tmp_path / "solutions/01_x.md").write_text("```{code-cell}\n# BEGIN SOLUTION\nanswer_1 = 3\n# END SOLUTION\n```\n")
    monkeypatch.setattr("kdcourse.grading.make.ROOT", tmp_path)
    assert main(["--check"]) == 1
    assert "01_x.ipynb is not what 01_x.md makes" in capsys.readouterr().err
    assert main([]) == 0 and main(["--check"]) == 0
    (tmp_path / "exercises/02_y.ipynb").write_text("{}")
    assert main(["--check"]) == 1
    assert "02_y.ipynb has no solution" in capsys.readouterr().err


@pytest.mark.parametrize("chapter", SOLUTIONS)
def test_no_line_of_a_solution_is_in_its_exercise(chapter: str) -> None:
    solved, exercise = make(SOLUTIONS[chapter], solved=True), make(SOLUTIONS[chapter])
    assert len(solved.cells) == len(exercise.cells)
    for ours, theirs in zip(solved.cells, exercise.cells, strict=True):
        if "BEGIN SOLUTION" not in ours.source:
            assert ours.source == theirs.source
        else:
            for hole in re.findall(r"BEGIN SOLUTION\n(.*?)\n *# END", ours.source, re.S):
                shown = {line.strip() for line in theirs.source.splitlines()}
                assert not {line.strip() for line in hole.splitlines()} & shown


@pytest.mark.parametrize("chapter", SOLUTIONS)
def test_a_notebook_asks_what_the_questions_judge(chapter: str) -> None:
    notebook = make(SOLUTIONS[chapter])
    asked = [found for source in code_cells(notebook) for found in CHECK.findall(source)]
    assert [number for number, _ in asked] == [number for number in QUESTIONS if number[:2] == chapter]
    for number, name in asked:
        question = QUESTIONS[number]
        assert name == question.name and (isinstance(question, Function) or name == f"answer_{int(number[3:])}")
        (text,) = [c.source for c in notebook.cells if c.cell_type == "markdown" and f"## {number} " in c.source]
        letters = re.findall(r"^- \*\*(\w)\*\* ", text, re.M)
        if isinstance(question, Choice):
            assert letters == list(question.options)
        if isinstance(question, Order):
            assert letters == sorted(question.items)
    first = notebook.cells[0].source
    assert re.search(r"About \d+ minutes\. Needs: chapter", first) and "may use torch" in first
    assert max(len(line) for source in code_cells(notebook) for line in source.splitlines()) <= 79
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_the_hole_says_its_size_at_the_markers_indent() -> None:
    source = "def f():\n    # BEGIN SOLUTION\n    # why\n    x = 1\n\n    return x\n    # END SOLUTION\n"
    hole = '    # YOUR CODE HERE (about 2 lines)\n    raise NotImplementedError("about 2 lines")\n'
    assert stub(source) == "def f():\n" + hole
    assert stub("# BEGIN SOLUTION\nanswer_1 = 3\n# END SOLUTION\ncheck(answer_1)") == "answer_1 = ...\ncheck(answer_1)"


@pytest.mark.parametrize(
    "body",
    ["# BEGIN SOLUTION\nx = 1", "x = 1\n# END SOLUTION", "# BEGIN SOLUTION\nx = 1\n  # END SOLUTION",
     "# begin solution\nx = 1\n# end solution"],
)  # fmt: skip
def test_a_marker_that_would_leak_is_refused(tmp_path: Path, body: str) -> None:
    path = tmp_path / "09_x.md"
    path.write_text(f"# Title\n\n```{{code-cell}}\n{body}\n```\n")
    with pytest.raises(ValueError, match=r"make: each BEGIN SOLUTION needs its END SOLUTION .* 09_x.md, cell 1"):
        make(path)
