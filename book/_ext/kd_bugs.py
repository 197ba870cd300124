"""The articles' bugs as lists: ``{bugs} crash`` prints the rows of book/bugs.yml that show this symptom, and
``{clinic} crash dots_called`` one program.

Each row has an anchor (b33), what the learner sees, the cure, and its program from book/back/clinic, folded.
"""

import ast
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)


class FromClinic(SphinxDirective):
    """What both directives share: the programs of book/back/clinic."""

    def program(self, file: str, name: str) -> nodes.literal_block:
        path = Path(self.env.srcdir) / "book" / "back" / "clinic" / f"{file}.py"
        self.env.note_dependency(str(path))
        text = path.read_text("utf-8")
        lines = text.splitlines()
        (node,) = (part for part in ast.parse(text).body if getattr(part, "name", None) == name)
        end = node.end_lineno
        while end < len(lines) and lines[end].strip().startswith("# cure:"):  # a comment belongs to no statement
            end += 1
        return nodes.literal_block(text="\n".join(lines[node.lineno - 1 : end]), language="python")


class Program(FromClinic):
    """``{clinic} crash dots_called``: one function of book/back/clinic/crash.py."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        return [self.program(*self.arguments)]


class Bugs(FromClinic):
    """``{bugs} crash``: the bugs of one group, each with its message, its cure, its test and its program."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        book = Path(self.env.srcdir) / "book"
        self.env.note_dependency(str(book / "bugs.yml"))
        group = self.arguments[0]
        bugs = yaml.safe_load((book / "bugs.yml").read_text("utf-8"))
        rows = [row for row in bugs if row["group"] == group]
        if not rows:
            log.warning("bugs.yml has no group %s", group, location=self.get_location())
            return []
        listing = nodes.bullet_list(classes=["claims"])
        listing += [self.row(row) for row in rows]
        return [listing]

    def row(self, row: dict) -> nodes.list_item:
        item = nodes.list_item(ids=[row["id"].lower()], classes=["claim"])
        where = f"Article {row['article']}, {row['program']}" if row["article"] else row["program"]
        sees = f"*You see:* {row['sees']}"
        if row.get("torch"):
            sees += f" {'Its kin in PyTorch' if row['kind'] == 'analogue' else 'PyTorch'}: ``{row['torch']}``."
        if row.get("tensorflow"):
            sees += f" TensorFlow, recorded: ``{row['tensorflow'].replace('`', '')}``."
        sees += f" *Cure:* {row['cure']}"
        if row.get("shown"):
            sees += f" [Shown here](#{row['shown']})."
        if row.get("source"):
            sees += f" {row['source']}."
        item += self.markdown(f"**{row['id']}** {row['wrong']}") + self.markdown(sees)
        if row.get("repeats"):
            item[1] += nodes.Text(" As in")
        for other in row.get("repeats", []):
            link = nodes.reference("", other, refuri=f"#{other.lower()}", internal=True)
            item[1] += [nodes.Text(" "), link]
        item += nodes.paragraph(text=f"{where}.", classes=["claim-source"])
        programs = {row["patient"]: row["test"]} | row.get("also", {}) if row.get("patient") else {}
        for patient, test in programs.items():
            title = f"<details><summary>Program, caught by <code>{test}</code></summary>"
            code = self.program(row["group"], patient)
            item += [nodes.raw("", title, format="html"), code, nodes.raw("", "</details>", format="html")]
        return item

    def markdown(self, text: str) -> list[nodes.Node]:
        box = nodes.Element()
        self.state.nested_parse(StringList([" ".join(text.split())], source="book/bugs.yml"), 0, box)
        return box.children


def setup(app: Sphinx) -> dict[str, object]:
    app.add_directive("bugs", Bugs)
    app.add_directive("clinic", Program)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
