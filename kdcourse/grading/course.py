"""What a course needs around its marks: a notebook's questions, hints, a copy for students, and this machine."""

import functools
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from ..data import folder
from .classroom import Truth
from .notebook import Notebook
from .questions import QUESTIONS
from .runner import Failure
from .spec import Question, shown_in

ROOT = Path(__file__).parents[2]
COPIED = ("kdcourse", "pyproject.toml", "LICENSE", "LICENSE-TEXT")
CONVENTION = "**In this class** another convention is judged: {}. Where the text says otherwise, this sentence holds."
README = """# Exercises

    python3 -m venv .venv && .venv/bin/pip install -e '.[train]' jupyterlab
    .venv/bin/jupyter lab exercises

A cell that ends in `check(...)` says whether an answer is right, and which mistake it makes. Outside the notebook:

    .venv/bin/kdcourse check exercises/04_the_loss.ipynb    # asks all of it, in a clean process
    .venv/bin/kdcourse hint 04.4
    .venv/bin/kdcourse env                                  # what is missing on this machine

What `check` says is advice. A mark is made elsewhere: with fresh inputs, in a sandbox without `kdcourse`.
"""


def questions_of(name: str, raw: bytes) -> list[Question]:
    """All questions of the chapter whose number starts the file's name; else those that its cells check."""
    try:
        Notebook(raw)
    except Failure as failure:
        raise ValueError(f"{name}: {failure.reason}") from None
    number = re.match(r"\d\d(?!\d)", name)
    asked = re.findall(r'check\(\\?["\'](\d\d\.\d+)', raw.decode("utf-8", "replace"))
    found = [question for id, question in QUESTIONS.items() if (id[:2] == number[0] if number else id in asked)]
    if not found:
        raise ValueError(f"{name}: its name starts with no chapter's number, such as 04, and it checks no question")
    return found


def told(raw: bytes) -> Truth:
    """The conventions that a notebook's own checks are told, as `release` writes them."""
    found = re.findall(r'check\(\\"(\d\d\.\d+)\\", \w+, truth=\\"([\w ]+)\\"', raw.decode("utf-8", "replace"))
    return {id: tuple(names.split()) for id, names in found}


def hints(id: str) -> list[str]:
    """The hints to a question: what its exercise's notebook folds away under <details>."""
    if id not in QUESTIONS:
        raise ValueError(f"a question's number stands above its cell, such as 04.4; got {id!r}")
    if not texts(id[:2]):
        raise ValueError(f"there is no notebook {id[:2]}_*.ipynb here or in exercises/, and hints stand in it")
    found = re.findall(r"</summary>\s*(.*?)\s*</details>", texts(id[:2]).get(id, ""), re.S)
    if not found:
        raise ValueError(f"{id} has no hint in its notebook; {shown_in(id)} has what it needs")
    return found


@functools.cache
def texts(chapter: str) -> dict[str, str]:
    """The text of each question, from its heading on: of the course's notebook, else of one here."""
    places = [ROOT / "exercises", Path.cwd() / "exercises", Path.cwd()]
    notebook = next((path for place in places for path in sorted(place.glob(f"{chapter}_*.ipynb"))), None)
    cells = json.loads(notebook.read_bytes())["cells"] if notebook else []
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    parts = re.split(r"^(?=## )", text, flags=re.M)
    return {part.split()[1]: part for part in parts if re.match(r"## \d\d\.\d+ ", part)}


def release(target: Path, truth: Truth) -> list[str]:
    """Write a course's copy, with notebooks made anew: one solved by accident is not handed out. What is in it."""
    import nbformat

    from .make import make

    new_folder(target, "release")
    (target / "exercises").mkdir(parents=True)
    for solution in sorted((ROOT / "solutions").glob("*.md")):
        notebook = make(solution)
        for id, names in truth.items():
            told = f'check("{id}", {QUESTIONS[id].name}'
            here = CONVENTION.format("; ".join(QUESTIONS[id].switches[name].says for name in names))
            for cell in notebook.cells:
                cell.source = cell.source.replace(f"{told})", f'{told}, truth="{" ".join(names)}")')
                if cell.cell_type == "markdown":
                    cell.source = re.sub(rf"^## {re.escape(id)} .*$", rf"\g<0>\n\n{here}", cell.source, flags=re.M)
        (target / f"exercises/{solution.stem}.ipynb").write_text(nbformat.writes(notebook) + "\n", "utf-8")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "sample.py"))
        else:
            shutil.copy(ROOT / name, target / name)
    (target / "README.md").write_text(README, "utf-8")
    (target / ".github/workflows").mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "workflows/feedback.yml", target / ".github/workflows")
    return sorted(path.name for path in target.iterdir())


def new_folder(target: Path, command: str) -> None:
    """What release and sample need: solutions to make notebooks from, and a new folder."""
    if not (ROOT / "solutions").is_dir():
        raise ValueError(f"{command}: needs a clone of the course; there is no {ROOT / 'solutions'}")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{command}: {target} is not empty; name a new folder")


def machine() -> list[tuple[bool, bool, str, str]]:
    """This machine, thing by thing: is it there, is it needed at all, what it is and what for, how to get it."""
    clone = (ROOT / "solutions").is_dir()  # else a student's copy, to be solved and not graded
    pip, data, bwrap = f"{sys.executable} -m pip install", folder(), shutil.which("bwrap") or "false"
    new_enough = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) >= (2, 11)
    trial = [bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true"]
    browsers = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

    def can_import(*names: str) -> bool:
        return all(map(importlib.util.find_spec, names))

    return [
        (sys.version_info >= (3, 11), True, f"Python {platform.python_version()} (3.11 or newer is needed)",
         "sudo apt-get install python3"),
        (new_enough, True, f"PyTorch {torch.__version__} (2.11 or newer is needed)", f"{pip} -U torch"),
        (can_import("ipykernel"), True, "solve: Jupyter's kernel, ipykernel", f"{pip} jupyterlab"),
        (can_import("torchvision", "sklearn", "matplotlib"), clone, "read: torchvision, scikit-learn, matplotlib",
         f"{pip} -e '.[book]'"),
        (hasattr(os, "getuid") and os.getuid() != 0, clone, "grade: an ordinary user",
         "root is refused: runuser -u NAME -- kdcourse grade ..."),
        (bwrap != "false", clone, "grade: bubblewrap (bwrap)",
         "sudo apt-get install bubblewrap (Linux; elsewhere WSL2 or a VM)"),
        (bwrap != "false" and subprocess.run(trial, capture_output=True).returncode == 0, clone,
         "grade: user namespaces",
         "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces=10000"),
        (can_import("jupytext", "nbval"), False, "only to hand out (release, sample) and to test: jupytext, nbval",
         f"{pip} -e '.[grade]'"),
        (any(map(shutil.which, browsers)), False, "only for the book's browser tests: Chromium",
         "sudo apt-get install chromium"),
        ((data / "FashionMNIST").is_dir(), False,
         f"only to run the studies of chapters 05 and 06 again (kdcourse run): Fashion-MNIST in {data}",
         f"python -c \"from torchvision.datasets import FashionMNIST as F; F('{data}', download=True)\""),
    ]  # fmt: skip
