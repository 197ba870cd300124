"""What the site needs beyond the stock theme: it works from a folder, without a network.

- MathJax is one local script, copied from the package sphinx-mathjax-offline; thebe, which the
  theme loads from a content network though it is switched off, is left out.
- A picture without alt text fails the build.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)

MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"


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


def setup(app: Sphinx) -> dict[str, object]:
    app.add_js_file("widgets.js", loading_method="defer")
    app.connect("builder-inited", copy_scripts)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("doctree-resolved", require_alt_text, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
