"""A class to try the grader on: submissions of exercise 04 as they come in, made from its solution.

Two are right, one of them in an unusual way; the others have the common mistakes, are not finished, cannot be read, or
want the mark without the work.
"""

import re
from pathlib import Path

import nbformat

from .make import ROOT, make

EXERCISE = "04_the_loss"
START = '    """One number for each example: [batch]."""\n'
T2 = "    soft = temperature**2 * "
SUM = "    return soft_weight * soft + (1 - soft_weight) * hard\n"
LOOP = """    soft = torch.zeros(len(targets))
    for k in range(log_p.shape[1]):
        soft = soft + temperature**2 * log_p[:, k].exp() * (log_p[:, k] - log_q[:, k])
"""
HANDED_ON = """    return losses.distillation_loss(student_logits, teacher_logits, targets,
        temperature=temperature, soft_weight=soft_weight)
"""

# name -> what was handed in, and how it is made from the solution
STUDENTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "ada": ("all right", []),
    "bao": ("all right, with a loop over the classes", [
        (T2 + "(log_p.exp() * (log_p - log_q)).sum(-1)\n", LOOP),
        ('F.cross_entropy(student_logits, targets, reduction="none")',
         "-student_logits.log_softmax(1)[torch.arange(len(targets)), targets]"),
    ]),
    "chen": ("T² forgotten", [(T2, "    soft = ")]),
    "dora": ("T² forgotten, and the student left at T = 1", [
        (T2, "    soft = "),
        (START + "    log_q = F.log_softmax(student_logits / temperature",
         START + "    log_q = F.log_softmax(student_logits"),
    ]),
    "emil": ("the two weights exchanged", [(SUM, "    return (1 - soft_weight) * soft + soft_weight * hard\n")]),
    "fatima": ("the mean over the classes, not the sum", [("(log_p - log_q)).sum(-1)", "(log_p - log_q)).mean(-1)")]),
    "goran": ("gradients never set to zero", [("        optimizer.zero_grad()\n", "")]),
    "hana": ("T instead of T², and a gradient for the teacher", [
        (".detach() / temperature", " / temperature"), (T2, "    soft = temperature * "),
    ]),
    "ines": ("the notebook as it was handed out", []),
    "jonas": ("two wrong numbers", [("answer_1 = ", "answer_1 = 2 * "), ("answer_2 = ", "answer_2 = 4 * ")]),
    "kofi": ("a cell that is not Python", [("def distillation_loss(", "def distillation_loss(:")]),
    "lena": ("torch.allclose replaced, and zeros returned", [
        (START, START + "    torch.allclose = lambda *a, **k: True\n    return 0.0 * targets\n"),
    ]),
    "mira": ("a function that ends its process", [(START, START + "    import os\n    os._exit(0)\n")]),
    "nils": ("an endless loop", [(START, START + "    while True:\n        pass\n")]),
    "omar": ("a file that is not a notebook", []),
    "pia": ("the package called instead of the answer written", [
        ("import torch\n", "import torch\nfrom kdcourse import losses\n"), (START, START + HANDED_ON),
    ]),
    "quirin": ("an empty folder", []),
}  # fmt: skip


def write(folder: Path) -> None:
    """A folder a student, each with the notebook that was handed in."""
    for name, (_, edits) in STUDENTS.items():
        notebook = make(ROOT / "solutions" / f"{EXERCISE}.md", solved=name != "ines")
        for cell in notebook.cells:
            cell.source = re.sub(r"^ *# (BEGIN|END) SOLUTION\n?", "", cell.source, flags=re.M).rstrip("\n") + "\n"
        for old, new in edits:
            if not any(old in cell.source for cell in notebook.cells):
                raise ValueError(f"write: an edit must fit the solution of {EXERCISE}, got {old!r}")
            for cell in notebook.cells:
                cell.source = cell.source.replace(old, new)
        (folder / name).mkdir(parents=True)
        if name != "quirin":
            text = "This is not a notebook.\n" if name == "omar" else nbformat.writes(notebook)
            (folder / name / f"{EXERCISE}.ipynb").write_text(text, "utf-8")
