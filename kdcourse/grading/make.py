"""Exercise notebooks from their solutions: `python -m kdcourse.grading.make [--check]`.

`solutions/NN_topic.md` is the only source. What stands between `# BEGIN SOLUTION` and `# END SOLUTION` becomes
`NAME = ...` where it is nothing but answers (`answer_3 = "b"`), else a line that says how much is missing and
raises NotImplementedError. All other cells are the same in both.
"""

import re
import sys
import textwrap
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(?P<indent> *)# BEGIN SOLUTION\n(?P<body>.*?)^(?P=indent)# END SOLUTION$", re.M | re.S)
ANSWER = re.compile(r"answer_\w+ = ")
MARKER = re.compile(r"(BEGIN|END)\s+SOLUTION", re.I)


def make(solution: Path, *, solved: bool = False) -> NotebookNode:
    """The exercise of one solution; with `solved`, the solution itself as a notebook."""
    notebook = jupytext.read(solution)
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and not solved:
            cell.source = stub(cell.source)
        if MARKER.search(cell.source) and not solved:
            raise ValueError(f"make: each BEGIN SOLUTION needs its END SOLUTION at the same indent, "
                             f"in a code cell; {solution.name}, cell {index}")  # fmt: skip
        cell.id = f"cell-{index:03d}"  # jupytext's ids are random
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def stub(source: str) -> str:
    """A cell's source with its solutions taken out."""
    return BLOCK.sub(lambda block: textwrap.indent(_hole(textwrap.dedent(block["body"])), block["indent"]), source)


def _hole(body: str) -> str:
    lines = [line for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]
    if all(ANSWER.match(line) for line in lines):
        return "\n".join(line.split(" = ")[0] + " = ..." for line in lines)
    size = f"about {len(lines)} line{'s' * (len(lines) != 1)}"
    return f'# YOUR CODE HERE ({size})\nraise NotImplementedError("{size}")'


def main(arguments: list[str]) -> int:
    """Write every exercise, or with --check say which ones are out of step (exit code 1)."""
    stale, solutions = [], sorted((ROOT / "solutions").glob("*.md"))
    for solution in solutions:
        target = ROOT / "exercises" / f"{solution.stem}.ipynb"
        text = nbformat.writes(make(solution)) + "\n"
        if "--check" not in arguments:
            target.write_text(text, "utf-8")
        elif not target.exists() or target.read_text("utf-8") != text:
            stale.append(f"{target.name} is not what {solution.name} makes")
    known = {solution.stem for solution in solutions}
    stale += [f"{path.name} has no solution" for path in (ROOT / "exercises").glob("*.ipynb") if path.stem not in known]
    if stale:
        print("make: " + "; ".join(stale) + ". Run python -m kdcourse.grading.make", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
