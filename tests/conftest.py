"""What every test shares: one thread, repeatable searches, and honest skips."""

import os
from collections.abc import Callable

import hypothesis
import pytest
import torch

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
