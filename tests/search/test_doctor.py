"""What is missing on a machine, and the command that brings it."""

from __future__ import annotations

import importlib.util

import pytest

from search.cli.main import main
from search.cli.serve import SERVE_INSTALL
from search.report import doctor
from search.serve.harness import HARNESS_INSTALL
from spaces import registry
from spaces.runtime import Context


def test_each_runtime_that_cannot_run_here_has_its_reason() -> None:
    found = dict(doctor.missing())
    for runtime in registry.runtimes():
        why = runtime.missing(Context())
        assert found.get(f"runtime {runtime.name} on this cpu") == why


@pytest.mark.parametrize("part", doctor.OPTIONAL_PARTS, ids=lambda part: part.name)
def test_a_package_that_is_not_installed_has_the_command_that_brings_it(
    part: doctor.OptionalPart, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, absent = importlib.util.find_spec, part.modules[0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else real(name))
    assert main(["doctor"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{part.name}: ")]
    assert absent in line and line.endswith(f" not installed: {part.install}")


def test_the_commands_are_those_that_the_parts_name_themselves() -> None:
    assert {SERVE_INSTALL, HARNESS_INSTALL} <= {part.install for part in doctor.OPTIONAL_PARTS}


def test_where_nothing_is_missing_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "missing", lambda: iter(()))
    assert list(doctor.doctor_lines()) == ["nothing is missing"]
