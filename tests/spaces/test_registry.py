"""The registration lines say of each axis and runtime what it says of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from spaces import registry
from spaces.registry import AXIS_ENTRIES, RUNTIME_ENTRIES, Registration
from spaces.shape import LayerShape, Shape

#: Every axis offers all of its knobs for such a model.
SHAPE = Shape(64, 32, 1, (LayerShape(2, 64),) * 2, prunable_heads=True, prunable_hidden=True, embedding=64)


@pytest.mark.parametrize("entry", AXIS_ENTRIES, ids=lambda entry: entry.name)
def test_an_axis_is_registered_under_its_name_with_all_its_knobs(entry: Registration) -> None:
    axis = registry.axis_named(entry.name)
    assert type(axis).__module__ == entry.module
    assert entry.knobs == tuple(knob.name for knob in axis.knobs(SHAPE))


def test_a_runtime_is_registered_under_its_name() -> None:
    assert [entry.name for entry in RUNTIME_ENTRIES] == [runtime.name for runtime in registry.runtimes()]


def test_what_is_registered_is_imported_when_it_is_asked_for() -> None:
    """A runtime alone: the process that opens a model needs no other."""
    probe = "print(*(name in sys.modules for name in ('torch', 'spaces.runtimes.eager', 'spaces.runtimes.xla')))"
    asked = ("pass", "registry.axes()", "registry.runtime_named('eager')", "registry.runtimes()")
    code = "import sys; from spaces import registry; " + "; ".join(f"{call}; {probe}" for call in asked)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split() for line in answer.stdout.splitlines()] == [
        ["False", "False", "False"],
        ["True", "False", "False"],
        ["True", "True", "False"],
        ["True", "True", "True"],
    ]
