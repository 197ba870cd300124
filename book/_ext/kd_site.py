"""What the site needs beyond the stock theme: it works from a folder, without a network.

- MathJax is one local script, copied from the package sphinx-mathjax-offline; thebe, which the
  theme loads from a content network though it is switched off, is left out.
- A picture without alt text fails the build.
- ``{claims} 03`` prints the rows of book/claims.yml that belong to a chapter, ``{claims} all``
  prints the ledger.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
VERDICTS = ("right", "half right", "wrong", "unverifiable", "meaningless")
EVIDENCE = ("computed", "derived", "cited", "recorded", "none")
FIELDS = {"id", "article", "claim", "zh", "verdict", "truth", "evidence", "shown", "source"}


def copy_scripts(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    mathjax = distribution("sphinx-mathjax-offline").locate_file(MATHJAX)
    for source, target in [
        (Path(str(mathjax)), static / "mathjax" / "tex-svg.js"),
        (Path(app.srcdir) / "kdcourse" / "widgets.js", static / "widgets.js"),
    ]:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def mend_page(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    def wanted(asset: object) -> bool:
        body = str((getattr(asset, "attributes", None) or {}).get("body", ""))
        return "thebe" not in str(getattr(asset, "filename", asset)).lower() and "THEBE" not in body

    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if wanted(asset)]
    # docutils gives the entries of a bibliography a role that ARIA has withdrawn, inside a list.
    context["body"] = context.get("body", "").replace("doc-biblioentry", "listitem")


def require_alt_text(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            log.warning(
                "a picture without alt text (%s); a cell gives it with the comment lines\n"
                '---\nmystnb:\n  image:\n    alt: "..."\n---',
                Path(image.get("uri", "")).name,
                location=(page, image.line or image.parent.line),
            )


class Claims(SphinxDirective):
    """``{claims} 03``: the claims that chapter 03 tests. ``{claims} all``: all of them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        file = Path(self.env.srcdir) / "book" / "claims.yml"
        self.env.note_dependency(str(file))
        chapter = self.arguments[0]
        claims = yaml.safe_load(file.read_text("utf-8")) or []
        rows = [row for row in claims if chapter in ("all", row.get("chapter"))]
        if not rows:
            log.warning("claims.yml has no claim of chapter %s", chapter, location=self.get_location())
            return []
        listing = nodes.bullet_list(classes=["claims"])
        listing += [self.row(row) for row in rows]
        return [listing]

    def row(self, row: dict[str, str]) -> nodes.list_item:
        lacking = sorted((FIELDS | {"chapter"}) - row.keys() - {"source", "shown"})
        if lacking or row["verdict"] not in VERDICTS or row["evidence"] not in EVIDENCE:
            log.warning(
                "claims.yml: %s: lacks %s, or its verdict or evidence is none of %s, %s",
                *(row.get("id"), lacking, VERDICTS, EVIDENCE),
                location=self.get_location(),
            )
            return nodes.list_item()
        item = nodes.list_item(
            ids=[row["id"].lower()],
            classes=["claim", "verdict-" + row["verdict"].replace(" ", "-")],
        )
        head = self.markdown(row["claim"])
        label = [
            nodes.strong(text=row["id"]),
            nodes.Text(" "),
            nodes.inline(text=row["verdict"], classes=["verdict"]),
            nodes.Text(" "),
        ]
        for node in reversed(label):
            head[0].insert(0, node)
        truth = " ".join(row["truth"].split())
        if row.get("shown"):
            page, _, target = row["shown"].partition("#")
            truth += f" [Shown here](#{target})." if target else f" [Shown](/book/{page}.md)."
        if row.get("source"):
            truth += f" {row['source']}"
        item += [*head, *self.markdown(truth)]
        item += nodes.paragraph(
            text=f"Article {row['article']}, “{row['zh']}”. Evidence: {row['evidence']}.",
            classes=["claim-source"],
        )
        return item

    def markdown(self, text: str) -> list[nodes.Node]:
        box = nodes.Element()
        lines = " ".join(text.split())
        self.state.nested_parse(StringList([lines], source="book/claims.yml"), 0, box)
        return box.children


def setup(app: Sphinx) -> dict[str, object]:
    app.add_directive("claims", Claims)
    app.add_js_file("widgets.js", loading_method="defer")
    app.connect("builder-inited", copy_scripts)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("doctree-resolved", require_alt_text, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
