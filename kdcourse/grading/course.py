"""What a course needs around its marks: a notebook's questions, hints, a copy for students, and this machine."""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ..data import folder
from .notebook import Notebook
from .questions import QUESTIONS
from .runner import Failure
from .spec import Question

ROOT = Path(__file__).parents[2]
COPIED = ("kdcourse", "pyproject.toml", "LICENSE", "LICENSE-TEXT")
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


def hints(id: str) -> list[str]:
    """The hints to a question: what its exercise's notebook folds away under <details>."""
    if id not in QUESTIONS:
        raise ValueError(f"a question's number stands above its cell, such as 04.4; got {id!r}")
    texts = _texts(id[:2])
    if not texts:
        raise ValueError(f"there is no notebook {id[:2]}_*.ipynb here or in exercises/, and hints stand in it")
    return re.findall(r"</summary>\s*(.*?)\s*</details>", texts.get(id, ""), re.S)


@functools.cache
def titles(chapter: str) -> dict[str, str]:
    """What stands beside each question's number in the exercise's notebook."""
    return {id: text.partition("\n")[0].removeprefix(f"## {id}").strip() for id, text in _texts(chapter).items()}


def _texts(chapter: str) -> dict[str, str]:
    """The text of each question, from its heading on: of the course's notebook, else of one here."""
    places = [ROOT / "exercises", Path.cwd() / "exercises", Path.cwd()]
    notebook = next((path for place in places for path in sorted(place.glob(f"{chapter}_*.ipynb"))), None)
    cells = json.loads(notebook.read_bytes())["cells"] if notebook else []
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    parts = re.split(r"^(?=## )", text, flags=re.M)
    return {part.split()[1]: part for part in parts if re.match(r"## \d\d\.\d+ ", part)}


def release(target: Path, truth: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Write a course's copy without solutions; the names of what is in it.

    The notebooks are made anew from solutions/, so that one solved by accident is not handed out.
    """
    with _needs_a_clone(target, "release"):
        import nbformat

        from .make import make
    solutions = sorted((ROOT / "solutions").glob("*.md"))
    (target / "exercises").mkdir(parents=True)
    for solution in solutions:
        notebook = make(solution)
        for cell in notebook.cells:
            for id, names in truth.items():
                told = f'check("{id}", {QUESTIONS[id].name}'
                cell.source = cell.source.replace(f"{told})", f'{told}, truth="{" ".join(names)}")')
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


def sample(target: Path) -> list[str]:
    """Write a class to try the grader on; the students' names."""
    with _needs_a_clone(target, "sample"):
        from .sample import STUDENTS, write
    write(target)
    return list(STUDENTS)


@contextmanager
def _needs_a_clone(target: Path, command: str) -> Iterator[None]:
    """What both need: solutions to make notebooks from, the packages that make them, and a new folder."""
    if not (ROOT / "solutions").is_dir():
        raise ValueError(f"{command}: needs a clone of the course; there is no {ROOT / 'solutions'}")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{command}: {target} is not empty; name a new folder")
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{command}: needs {error.name}: pip install 'kdcourse[grade]'") from None


def machine() -> Iterator[tuple[bool, str, str]]:
    """What this machine has, thing by thing: is it there, what and what for, how to get it."""
    pip = f"{sys.executable} -m pip install"
    version = ".".join(map(str, sys.version_info[:3]))
    yield sys.version_info >= (3, 11), f"Python {version} (3.11 or newer is needed)", "sudo apt-get install python3"
    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    yield release >= (2, 11), f"PyTorch {torch.__version__} (2.11 or newer is needed)", f"{pip} -U torch"
    for purpose, names, get in (
        ("notebooks: jupyter's kernel", ("ipykernel",), "jupyterlab"),
        ("the book and its data: torchvision, scikit-learn, matplotlib", ("torchvision", "sklearn", "matplotlib"),
         "-e '.[book]'"),
        ("release, and the tests of notebooks: jupytext, nbval", ("jupytext", "nbval"), "-e '.[grade]'"),
    ):  # fmt: skip
        yield all(map(importlib.util.find_spec, names)), purpose, f"{pip} {get}"
    user = hasattr(os, "getuid") and os.getuid() != 0
    yield user, "grade: an ordinary user", "the sandbox refuses root: runuser -u NAME -- kdcourse grade ..."
    bwrap = shutil.which("bwrap")
    yield bool(bwrap), "grade: bubblewrap (bwrap)", "sudo apt-get install bubblewrap (Linux; elsewhere WSL2 or a VM)"
    trial = [bwrap or "false", "--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true"]
    allowed = bool(bwrap) and subprocess.run(trial, capture_output=True).returncode == 0
    sysctl = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces=10000"
    yield allowed, "grade: user namespaces", sysctl
    browsers = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    yield any(map(shutil.which, browsers)), "the book's browser tests: Chromium", "sudo apt-get install chromium"
    data = folder()
    get = f"python -c \"from torchvision.datasets import FashionMNIST as F; F('{data}', download=True)\""
    yield (data / "FashionMNIST").is_dir(), f"studies (kdcourse run): Fashion-MNIST in {data}", get
