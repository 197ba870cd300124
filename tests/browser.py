"""The system's Chromium for the tests, and a photographer for the README.

python tests/browser.py book/screenshot.png
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from playwright.sync_api import Browser, Error, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
PAGES = [TOC["root"]] + [
    chapter["file"] for part in [TOC, *TOC.get("parts", [])] for chapter in part.get("chapters", [])
]
NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
HOW = "on Debian and Ubuntu: sudo apt-get install chromium"


def executable() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser; sandboxed where kernel and user allow it."""
    with sync_playwright() as driver:
        # Chromium refuses its sandbox to root, and some kernels refuse it to everybody else.
        sandboxes = [False] if os.geteuid() == 0 else [True, False]
        for sandbox in sandboxes:
            try:
                browser = driver.chromium.launch(executable_path=executable(), chromium_sandbox=sandbox)
                break
            except Error:
                if sandbox is sandboxes[-1]:
                    raise
        yield browser
        browser.close()


@contextlib.contextmanager
def without_javascript(browser: Browser, path: Path) -> Iterator[Page]:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    yield page
    context.close()


def photograph(target: Path, page: str = "book/03_temperature.html") -> None:
    source = HTML / page if (HTML / page).exists() else HTML / "book/index.html"
    with chromium() as browser:
        view = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        view.goto(source.as_uri())
        view.wait_for_timeout(1500)  # the formulas are set by then
        slider = view.locator(".kd-temp")
        if slider.count():
            slider.first.evaluate("box => box.scrollIntoView({block: 'center'})")
            view.wait_for_timeout(500)
        view.screenshot(path=target)
    print(f"{target} shows {source.relative_to(HTML)}")


if __name__ == "__main__":
    if executable() is None:
        sys.exit(f"no Chromium found; {HOW}")
    photograph(Path(sys.argv[1]))
