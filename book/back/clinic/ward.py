"""Patients: programs with one mistake, each with its cure on the line below it."""

import re
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[3]
CURE = re.compile(r"^( *)\S.*\n *# cure: (.*)$", re.MULTILINE)


def admit(file: str) -> tuple[SimpleNamespace, SimpleNamespace]:
    """The programs of book/`file` as they stand, and the same with each `# cure:` in the place of the line above."""
    path = ROOT / "book" / file
    source = path.read_text("utf-8")
    wards = []
    for name, text in (("sick", source), ("well", CURE.sub(r"\1\2", source))):
        namespace: dict[str, object] = {"__name__": f"{name} {path.stem}"}
        exec(compile(text, str(path), "exec"), namespace)
        wards.append(SimpleNamespace(**namespace))
    return wards[0], wards[1]
