"""What `list` says, in process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from search.report import listing
from search.space.space import runtime_knob
from search.tasks import TASKS, Task
from spaces import registry


def test_what_has_not_run_on_its_hardware_is_called_experimental_and_nothing_else_is() -> None:
    lines = list(listing.lines())
    marked = [line for line in lines if "(experimental)" in line]
    values = {value for names in registry.EXPERIMENTAL.values() for value in names}
    assert len(marked) == len(values) == 3  # without a GPU no runtime lists the precision among its own
    assert all(any(f"{value} (experimental)" in line for line in marked) for value in values)
    assert any(line.strip().startswith("experimental: ") for line in lines)


def test_int4_is_experimental_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    lines = list(listing.lines())
    begins = lines.index("runtimes on this cuda")
    [eager] = [line for line in lines[begins:] if line.split()[:1] == ["eager"]]
    assert re.search(r"of language models: .*int4 \(experimental\)", eager)
    assert not any("int4 (experimental)" in line for line in lines[:begins])


def test_what_is_called_experimental_exists() -> None:
    knobs = {f"{axis.name}.{knob.name}": knob for axis in registry.axes() for knob in axis.knobs(listing.ANY_SHAPE)}
    knobs[f"runtime.{runtime_knob().name}"] = runtime_knob()
    for name, values in registry.EXPERIMENTAL.items():
        assert set(values) <= set(knobs[name].choices)


def test_the_memory_of_a_token_of_a_cache_is_listed() -> None:
    lines = list(listing.lines())
    formula = "memory of a token: 2 x blocks x key-value heads x head size x bytes of a number"
    assert any(formula in line for line in lines)
    for kind, share in (("int8", "0.27"), ("int4", "0.15")):
        assert any(line.split()[:1] == [kind] and f"about {share} of the bytes of fp32" in line for line in lines)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_keys_of_a_tasks_data_are_listed_and_on_its_page(task: Task) -> None:
    keys = listing.own_keys(task)
    assert keys and any(line.endswith(f"keys of data: {', '.join(keys)}") for line in listing.lines())
    page = (Path(__file__).parents[2] / "docs" / f"{task.name}.md").read_text(encoding="utf-8")
    assert [key for key in keys if not re.search(rf"\b{key}\b", page)] == []
