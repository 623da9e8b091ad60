"""Bytes on disk, parameters, and the peak of memory."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes import BATCH
from held import open_doubler

from objectives import memory, size
from objectives.bench import open_bench


class Informed:
    """A side that only answers `info`."""

    pid = 1

    def __init__(self, info: dict[str, Any]) -> None:
        self._info = info

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        assert method == "info"
        return self._info

    def pause(self) -> None: ...

    def resume(self) -> None: ...


PEAK = memory.PEAK_MEMORY.name
CUDA = {"device": "cuda", "peak_rss_mb": 900.0, "peak_since": "opened", "cuda_reserved_mb": 64.0}


def test_size_is_the_sum_of_the_files_each_counted_once(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1_500_000))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(bytes(500_000))
    (tmp_path / "tokenizer.json").write_bytes(bytes(99))
    measurement = size.size(tmp_path, ["onnx/model.onnx", "model.safetensors", "model.safetensors"])
    assert measurement.value == 2.0
    assert measurement.interval == (2.0, 2.0)
    assert measurement.conditions["files"] == ["model.safetensors", "onnx/model.onnx"]


def test_a_weight_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        size.size(tmp_path, ["model.safetensors"])


def test_parameters_are_counted() -> None:
    assert size.parameters(22_713_216).value == 22_713_216


def test_memory_a_model_touches_shows_in_the_peak_and_stays_there() -> None:
    touched = 200
    with open_bench(functools.partial(open_doubler, touched)) as bench:
        before = memory.memory(bench)[PEAK]
        bench.call("predict", [BATCH])
        after, later = memory.memory(bench)[PEAK], memory.memory(bench)[PEAK]
    assert touched * 0.95 < after.value - before.value < touched * 1.5
    assert later.value >= after.value
    assert after.conditions["kind"] == "resident"


def test_on_cuda_it_is_the_allocators_peak() -> None:
    measurement = memory.memory(Informed({**CUDA, "cuda_allocated_mb": 48.0}))[PEAK]
    assert (measurement.value, measurement.conditions["reserved_mb"], measurement.conditions["kind"]) == (
        48.0,
        64.0,
        "allocated",
    )


def test_memory_that_the_allocator_did_not_see_is_absent_not_zero() -> None:
    assert memory.memory(Informed({**CUDA, "cuda_allocated_mb": 0.0})) == {}


def test_weights_and_activations_are_told_apart_and_add_up() -> None:
    info = {**CUDA, "cuda_allocated_mb": 48.0, "empty_mb": 0.0, "opened_mb": 40.0}
    figures = memory.memory(Informed(info))
    values = {name: measurement.value for name, measurement in figures.items()}
    assert values == {"peak_memory_mb": 48.0, "weights_memory_mb": 40.0, "activations_memory_mb": 8.0}


def test_what_a_process_touches_when_opening_and_when_called_is_told_apart() -> None:
    with open_bench(functools.partial(open_doubler, 100)) as bench:
        bench.call("predict", [BATCH])
        figures = memory.memory(bench)
    if "activations_memory_mb" not in figures:
        pytest.skip("this kernel cannot forget a peak")
    assert figures["weights_memory_mb"].value < 20  # it opens nothing
    assert 95 < figures["activations_memory_mb"].value < 150


def test_where_the_peak_covers_the_opening_the_parts_are_absent() -> None:
    info = {"device": "cpu", "peak_rss_mb": 900.0, "peak_since": "process start", "empty_mb": 300.0, "opened_mb": 400.0}
    assert set(memory.memory(Informed(info))) == {"peak_memory_mb"}


def test_a_containers_limit_counts_and_its_page_cache_is_free(tmp_path: Path) -> None:
    for name, content in (("memory.max", "4000000000"), ("memory.current", "3000000000")):
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000000\n")
    assert memory.container_limits_mb(tmp_path) == [1500.0]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.container_limits_mb(tmp_path) == [math.inf]
    assert memory.container_limits_mb(tmp_path / "none") == [math.inf]


def test_what_is_available_is_less_than_the_machine_has() -> None:
    free_mb = memory.available_mb("cpu")
    assert free_mb is not None and 0 < free_mb < psutil.virtual_memory().total / 1e6
