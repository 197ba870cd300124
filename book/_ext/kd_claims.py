"""The articles' claims as pages: what book/claims.yml says, where a reader needs it.

- ``{claims} 03`` prints the rows that chapter 03 tests, ``{claims} all`` the ledger, in the order of the ids.
- ``{claim-counts} verdict`` and ``{claim-counts} evidence`` count the rows and say what the words mean.
- ``{statements} C01 C03`` prints claims without their verdict; ``:answers:`` folds the truth below each.

book/_static/claims.js adds the filter and the answering. Without it all of this is a plain list.
"""

import re
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

Row = dict[str, str]
VERDICTS = {
    "right": "it holds as it is said",
    "half right": "it holds in part, or under a condition that is left out",
    "wrong": "something else holds, often the opposite",
    "unverifiable": "neither the article nor this book has what would decide it",
    "meaningless": "no measurement could decide it",
}
EVIDENCE = {
    "computed": "a page of this book runs it, and its cells check what is said",
    "recorded": "a study of this book that takes longer than a page; the record is kept",
    "derived": "it follows by a few lines of algebra on a page of this book",
    "cited": "a publication is named",
    "none": "the row says why there is none",
}
OWN = ("computed", "recorded", "derived")  # the page is the source
NEEDED = ("id", "article", "claim", "zh", "verdict", "truth", "evidence", "chapter")


def mistakes(row: Row) -> list[str]:
    """What a row lacks, in words. Every row has a verdict and says what it rests on."""
    found = [f"no {name}" for name in NEEDED if not row.get(name)]
    if row.get("verdict") not in VERDICTS:
        found.append(f"verdict must be one of {', '.join(VERDICTS)}, got {row.get('verdict')!r}")
    if row.get("evidence") not in EVIDENCE:
        found.append(f"evidence must be one of {', '.join(EVIDENCE)}, got {row.get('evidence')!r}")
    if row.get("evidence") in OWN and not row.get("shown"):
        found.append(f"{row['evidence']}, and no page that shows it")
    if row.get("evidence") == "cited" and not row.get("source"):
        found.append("cited, and no source")
    if row.get("evidence") == "none" and not row.get("why"):
        found.append("no evidence, and no reason why")
    return found


def keys(row: Row) -> list[str]:
    return [row["zh"]] if isinstance(row["zh"], str) else [str(key) for key in row["zh"]]


class FromClaims(SphinxDirective):
    """What the directives below share: the rows, and links to where they stand."""

    def rows(self) -> list[Row]:
        file = Path(self.env.srcdir) / "book" / "claims.yml"
        self.env.note_dependency(str(file))
        rows = yaml.safe_load(file.read_text("utf-8"))
        for row in rows:
            if found := mistakes(row):
                log.warning("claims.yml: %s: %s", row.get("id"), "; ".join(found), location=self.get_location())
        return sorted((row for row in rows if not mistakes(row)), key=lambda row: int(row["id"][1:]))

    def printed(self) -> dict[str, str]:
        """Chapter: the page that prints its rows. A chapter that is not written is not there."""
        pages = {}
        for page in self.env.found_docs:
            for chapter in re.findall(r"^```\{claims\} (\S+)$", Path(self.env.doc2path(page)).read_text("utf-8"), re.M):
                pages[chapter] = page
        return pages

    def link(self, text: str, page: str, row: Row) -> nodes.reference:
        address = self.env.app.builder.get_relative_uri(self.env.docname, page)
        return nodes.reference("", text, refuri=f"{address}#{row['id'].lower()}", internal=True)

    def markdown(self, text: str) -> list[nodes.Node]:
        box = nodes.Element()
        lines = " ".join(text.split())
        self.state.nested_parse(StringList([lines], source="book/claims.yml"), 0, box)
        return box.children

    def truth(self, row: Row) -> list[nodes.Node]:
        text = row["truth"]
        page, _, label = row.get("shown", "").partition("#")
        if f"book/{page}" in self.env.found_docs:
            text += f" [Shown here](#{label})."
        elif page and row["chapter"] in self.printed():
            log.warning("claims.yml: %s: there is no page %s", row["id"], page, location=self.get_location())
        if row.get("source"):
            text += f" {row['source']}"
        return self.markdown(text)


class Claims(FromClaims):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        chapter = self.arguments[0]
        rows = [row for row in self.rows() if chapter in ("all", row["chapter"])]
        if not rows:
            log.warning("claims.yml has no claim of chapter %s", chapter, location=self.get_location())
            return []
        listing = nodes.bullet_list(classes=["claims", *(["ledger"] if chapter == "all" else [])])
        listing += [self.row(row, self.printed() if chapter == "all" else None) for row in rows]
        return [listing]

    def row(self, row: Row, printed: dict[str, str] | None) -> nodes.list_item:
        verdict = "verdict-" + row["verdict"].replace(" ", "-")
        item = nodes.list_item(ids=[row["id"].lower()], classes=["claim", verdict, f"article-{row['article']}"])
        head, truth = self.markdown(row["claim"]), self.truth(row)
        head[0]["classes"].append("claim-text")
        truth[0]["classes"].append("claim-truth")
        head[0][:0] = [
            nodes.strong(text=row["id"]),
            nodes.Text(" "),
            nodes.inline(text=row["verdict"], classes=["verdict"]),
            nodes.Text(" "),
        ]
        foot = nodes.paragraph(classes=["claim-source"])
        foot += nodes.Text(f"Article {row['article']}, ")
        foot += nodes.inline(text=", ".join(f"“{key}”" for key in keys(row)), classes=["claim-keys"])
        foot += nodes.Text(f". Evidence: {row['evidence']}" + (f", {row['why']}." if row.get("why") else "."))
        if printed is not None:
            foot += nodes.Text(" ")
            foot += self.where(row, printed)
        item += [*head, *truth, foot]
        return item

    def where(self, row: Row, printed: dict[str, str]) -> nodes.Node:
        chapter = row["chapter"]
        name = f"Chapter {chapter}" if chapter.isdigit() else chapter.capitalize()
        if chapter in printed:
            return self.link(name, printed[chapter], row)
        return nodes.inline(text=f"{name} is not written yet.", classes=["claim-open"])


class ClaimCounts(FromClaims):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        field = self.arguments[0]
        meaning = {"verdict": VERDICTS, "evidence": EVIDENCE}[field]
        rows = self.rows()
        body = [[word, str(sum(row[field] == word for row in rows)), means] for word, means in meaning.items()]
        body.append(["together", str(len(rows)), ""])
        table, group = nodes.table(classes=["claim-counts"]), nodes.tgroup(cols=3)
        group += [nodes.colspec(colwidth=width) for width in (20, 15, 65)]
        head, lines = nodes.thead(), nodes.tbody()
        for target, line in [(head, [field, "claims", "what it means"]), *((lines, line) for line in body)]:
            row = nodes.row()
            row += [nodes.entry("", nodes.paragraph(text=text)) for text in line]
            target += row
        group += [head, lines]
        table += group
        return [table]


class Statements(FromClaims):
    """Claims to be answered with true or false; only rows whose verdict is right or wrong will do."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"answers": directives.flag}

    def run(self) -> list[nodes.Node]:
        rows = {row["id"]: row for row in self.rows()}
        wanted = self.arguments[0].split()
        unfit = [name for name in wanted if rows.get(name, {}).get("verdict") not in ("right", "wrong")]
        if unfit:
            log.warning("neither right nor wrong: %s", unfit, location=self.get_location())
            return []
        answers = "answers" in self.options
        listing = nodes.enumerated_list(classes=["statements", "answered" if answers else "asked"])
        listing += [self.statement(rows[name], answers) for name in wanted]
        return [listing]

    def statement(self, row: Row, answers: bool) -> nodes.list_item:
        item = nodes.list_item(ids=[f"statement-{row['id'].lower()}"])
        item += self.markdown(row["claim"])
        if answers:
            answer = "true" if row["verdict"] == "right" else "false"
            item["classes"].append(f"answer-{answer}")
            item += nodes.raw("", "<details><summary>The truth</summary>", format="html")
            truth = self.truth(row)
            truth[0][:0] = [nodes.strong(text=answer.capitalize()), nodes.Text(". ")]
            if "all" in self.printed():
                truth[0] += [nodes.Text(" "), self.link(f"Claim {row['id']}", self.printed()["all"], row)]
            item += truth
            item += nodes.raw("", "</details>", format="html")
        return item


def setup(app: Sphinx) -> dict[str, object]:
    app.add_directive("claims", Claims)
    app.add_directive("claim-counts", ClaimCounts)
    app.add_directive("statements", Statements)
    app.add_js_file("claims.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
