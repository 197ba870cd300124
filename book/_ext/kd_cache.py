"""Run a page again when the package under it changed.

jupyter-cache keeps the outputs of a page until one of its cells changes. It does not know that
the cells import ``kdcourse``. So this extension reads which modules of the package a page
reaches, directly or through other modules, and which files of the project those modules name in
a string; when the contents of one of them, or the version of a library that makes the numbers,
differ from the last build's, the page's record leaves the cache and the page is run.

Imports must be statements: what ``importlib`` loads by name is not seen.
"""

import ast
import hashlib
import json
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jupytext
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PACKAGE = "kdcourse"
NUMBERS_COME_FROM = ["torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "pandas", "sacrebleu"]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, str]:
    device = "nvidia" if Path("/proc/driver/nvidia/version").exists() else "cpu"
    return {name: _version(name) for name in NUMBERS_COME_FROM} | {
        "device": device,
        "machine": platform.machine(),
    }


def _module_files(root: Path, dotted: str) -> Iterator[Path]:
    """The files that run when ``dotted`` is imported: the packages above it, then itself."""
    parts = dotted.split(".")
    for end in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:end])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that may be modules of the package (``from a import b`` may mean a.b)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _named_files(tree: ast.AST, root: Path) -> Iterator[Path]:
    """Files of the project that a string constant names, such as results/sweep.json."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if 0 < len(node.value) < 100 and node.value.isprintable():
                for place in (root / node.value, root / "book" / node.value):
                    if place.is_file() and place.is_relative_to(root):
                        yield place


def reached(code: str, root: Path) -> dict[str, str]:
    """{file: digest} of everything in the project that this code depends on."""
    queue = [(ast.parse(code), "")]
    found: dict[Path, str] = {}
    while queue:
        tree, package = queue.pop()
        names = [n for n in _imports(tree, package) if n.split(".")[0] == PACKAGE]
        files = {file for name in names for file in _module_files(root, name)}
        for file in files.union(_named_files(tree, root)) - found.keys():
            found[file] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            if file.suffix == ".py":
                parent = ".".join(file.relative_to(root).parent.parts)
                queue.append((ast.parse(file.read_text("utf-8")), parent))
    return {file.relative_to(root).as_posix(): found[file] for file in sorted(found)}


def _code(page: Path) -> str | None:
    """The page's code cells as one program without magics; None for a page of text."""
    text = page.read_text("utf-8")
    if page.suffix not in {".md", ".ipynb"} or not ("{code-cell}" in text or '"cells"' in text):
        return None
    cells = [c.source for c in jupytext.reads(text, page.suffix[1:]).cells if c.cell_type == "code"]
    lines = "\n".join(cells).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def evict(app: Sphinx, env: BuildEnvironment, *_: object) -> list[str]:
    """Sphinx's hook before it reads: drop stale records, name the pages to read again."""
    root = Path(app.srcdir)
    stamp = Path(app.outdir).parent / "kdcourse-imports.json"
    before = json.loads(stamp.read_text()) if stamp.exists() else {}
    now = {}
    for page in sorted(env.found_docs):
        code = _code(Path(env.doc2path(page)))
        if code is not None:
            try:
                now[page] = _machine() | reached(code, root)
            except SyntaxError:  # the page is run as it is, and the build says where it fails
                continue
    stale = [page for page, digests in now.items() if before.get(page) != digests]
    cache = get_cache(app.config.nb_execution_cache_path or root / "_build" / ".jupyter_cache")
    uris = {str(env.doc2path(page)) for page in stale}
    for record in cache.list_cache_records():
        if record.uri in uris:
            cache.remove_cache(record.pk)
    stamp.write_text(json.dumps(now, indent=1))
    return stale


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("env-get-outdated", evict, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
