"""What every test shares: one thread, repeatable searches, a browser, and honest skips."""

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from browser import HOW, HTML, PAGES, chromium, executable

STRICT = os.environ.get("KDCOURSE_STRICT") == "1"

torch.set_num_threads(1)
# The same examples each time, so that a failure can be seen again; no deadline, since the
# machine may be busy with something else.
hypothesis.settings.register_profile("course", derandomize=True, deadline=None)
hypothesis.settings.load_profile("course")


@pytest.fixture(scope="session")
def needs() -> Callable[[bool, str, str], None]:
    """`needs(present, part, how)`: skip, saying which part is missing and how to get it."""

    def check(present: bool, part: str, how: str) -> None:
        if not present:
            pytest.skip(f"needs {part}: {how}")

    return check


@pytest.fixture(scope="session")
def book() -> Path:
    assert (HTML / "index.html").exists(), "the book is not built: make book"
    missing = [page for page in PAGES if not (HTML / f"{page}.html").exists()]
    assert not missing, f"the built book lacks {missing}: make book"
    return HTML


@pytest.fixture(scope="session")
def browser(needs):
    needs(executable() is not None, "Chromium", HOW)
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens a page and notes what the browser complains about and what it asks for."""
    contexts = []

    def open_page(path: Path, width: int = 1280, query: str = ""):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light", offline=True)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:", "blob:"))
                or page.complaints.append(f"asked for {request.url}")
            ),
        )
        page.on("requestfailed", lambda r: page.complaints.append(f"failed: {r.url}"))
        page.goto(path.as_uri() + query)
        return page

    yield open_page
    for context in contexts:
        context.close()


def _strict(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With KDCOURSE_STRICT=1 a skip is a failure; only a GPU may be missing."""
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "needs a GPU" not in reason:
            report.outcome = "failed"
            report.longrepr = f"KDCOURSE_STRICT=1 and nothing may be skipped. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    _strict(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _strict(report)
    return report
