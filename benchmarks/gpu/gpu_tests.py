"""The tests that need a GPU, a row for each as it ends."""

from __future__ import annotations

import os

from benchmarks import header
from benchmarks.gpu.run_setup import ROOT, RunSetup
from benchmarks.gpu.tables import Report

COLUMNS = ("test", "outcome", "s", "note")
#: Of a dry run: they are collected, in this process, and skipped for want of a GPU.
DRY = ("-n", "0", "tests/spaces/test_two_of_four.py")


class Recorder:
    """A pytest plugin."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def pytest_runtest_logreport(self, report: object) -> None:
        """One row a test: of its call, or of the phase that failed or skipped it."""
        when, outcome = getattr(report, "when", ""), getattr(report, "outcome", "")
        if when == "call" or outcome != "passed":
            self._report.add(
                test=getattr(report, "nodeid", "").removeprefix("tests/"),
                outcome=outcome,
                s=round(float(getattr(report, "duration", 0.0)), 2),
                note=reason_of(getattr(report, "longrepr", None)),
                trace=str(getattr(report, "longrepr", "")) if outcome == "failed" else "",
            )

    def pytest_collectreport(self, report: object) -> None:
        if getattr(report, "failed", False):
            trace = str(getattr(report, "longrepr", ""))
            self._report.add(test=getattr(report, "nodeid", ""), outcome="failed", note="not collected", trace=trace)


def reason_of(longrepr: object) -> str:
    """The last line of what pytest says of a test that did not pass."""
    if longrepr is None:
        return ""
    if isinstance(longrepr, tuple):  # (file, line, reason) of a skip
        return str(longrepr[2]).removeprefix("Skipped: ")[:160]
    crash = getattr(longrepr, "reprcrash", None)
    text = str(getattr(crash, "message", None) or longrepr)
    return " ".join(text.split())[:160]


def run(setup: RunSetup, report: Report) -> None:
    import pytest

    report.begin("the tests that need a GPU", COLUMNS)
    os.chdir(ROOT)
    chosen = DRY if setup.dry else ("tests",)
    code = pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", *chosen], plugins=[Recorder(report)])
    outcomes = [row["outcome"] for row in report.rows]
    counts = {name: outcomes.count(name) for name in ("passed", "failed", "skipped")}
    report.note(", ".join(f"{count} {name}" for name, count in counts.items()) + f"; pytest ended with {int(code)}")
    if not setup.dry:
        report.goals([header.Promise("tests that failed", counts["failed"], high=0)])
