"""The benchmark of caches on a tiny model: what it asks of each cache, and what it promises. Times are not judged."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal import VOCABULARY, stored
from here import Here

from benchmarks import cache_steps, caches
from objectives.process import RemoteDied, RemoteTimeout
from spaces.cache_settings import CacheSettings
from spaces.generation.cache_size import cache_bytes
from spaces.runtime import Context
from spaces.runtimes import onnx

HEADS, WIDTH = (2, 1), 16  # of the stored model
LENGTH = 128


def plenty() -> float:
    """MB of free memory."""
    return 1e6


def test_every_cache_is_measured_full_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored(tmp_path / "model")
    onnx.Onnx().open(folder, caches.FP32, Context(threads=1))
    monkeypatch.setattr(caches, "Remote", Here)
    text = np.random.default_rng(0).integers(4, VOCABULARY, 2 * LENGTH)
    figures = caches.measure(folder, text, caches.Cases((LENGTH,), (1, 2), 2 * LENGTH, 1, plenty))
    assert [(f["batch"], f["cache"]) for f in figures] == [
        (rows, d.name) for rows in (1, 2) for d in caches.DEPLOYMENTS
    ]
    for figure, deployment in zip(figures, 2 * caches.DEPLOYMENTS, strict=True):
        settings = CacheSettings(deployment.cache, capacity=LENGTH + caches.ANSWER)
        expected = figure["batch"] * cache_bytes(LENGTH, HEADS, WIDTH, settings, "fp32")
        assert figure["cache_mb"] == pytest.approx(expected / 1e6)
        assert figure["tpot_ms"] > 0 and figure["peak_mb"] > figure["cache_mb"]
        assert ("perplexity" in figure) == (figure["batch"] == 1)
    scored = {f["cache"]: f["perplexity"] for f in figures if "perplexity" in f}
    for exact in ("eager static", "eager sliding", "onnx shared buffer"):
        assert scored[exact] == pytest.approx(scored["eager dynamic"], rel=1e-4)
    assert scored["eager int8"] != scored["eager dynamic"]
    assert {len(row) for row in caches.rows_of(figures)} == {len(caches.COLUMNS)}


def test_beyond_the_positions_of_the_model_there_is_no_perplexity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored(tmp_path / "model")
    monkeypatch.setattr(caches, "Remote", Here)
    monkeypatch.setattr(caches, "DEPLOYMENTS", caches.DEPLOYMENTS[:1])
    figures = caches.measure(folder, np.full(300, 5), caches.Cases((300,), (1,), 300, 1, plenty))
    assert "perplexity" not in figures[0] and figures[0]["tpot_ms"] > 0


def test_a_case_that_memory_does_not_hold_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(tmp_path / "model")
    monkeypatch.setattr(caches, "Remote", Here)
    monkeypatch.setattr(caches, "DEPLOYMENTS", caches.DEPLOYMENTS[:1])
    figures = caches.measure(folder, np.full(32, 5), caches.Cases((32,), (1, 10**9), 32, 1, plenty))
    assert [f["batch"] for f in figures if "why" not in f] == [1]
    [left_out] = caches.rows_of(figures[1:])
    assert left_out[0].startswith("left out: one cache would take 40") and left_out[1:4] == ("1000000000", "32", "-")
    assert left_out[0].endswith("GB, and 1000.0 are free") and left_out[0] in capsys.readouterr().out


def test_caches_that_do_not_fit_at_once_are_measured_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: set[int] = set()
    most: list[int] = []

    class Counted(Here):
        def __init__(self, factory: functools.partial[Any], **settings: Any) -> None:
            super().__init__(factory, **settings)
            opened.add(id(self))
            most.append(len(opened))

        def close(self) -> None:
            opened.discard(id(self))

    monkeypatch.setattr(caches, "Remote", Counted)
    monkeypatch.setattr(caches, "DEPLOYMENTS", caches.DEPLOYMENTS[:3])
    cases = caches.Cases((32,), (1,), 32, 1, lambda: 1.5 * caches.PROCESS_MB)
    figures = caches.measure(stored(tmp_path / "model"), np.full(32, 5), cases)
    assert [f["cache"] for f in figures] == [d.name for d in caches.DEPLOYMENTS]
    assert most == [1, 1, 1] and all(f["times_dynamic"] > 0 for f in figures)
    assert "batch 1 at 32 tokens, one cache after the other: " in capsys.readouterr().out


def test_no_case_begins_when_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "Remote", Here)
    cases = caches.Cases((32,), (1, 8), 32, 1, plenty, until_s=0.0)
    figures = caches.measure(stored(tmp_path / "model"), np.full(32, 5), cases)
    assert [(f["batch"], f["cache"]) for f in figures] == [(rows, "left out: no time was left") for rows in (1, 8)]
    assert caches.promises(figures) == []


@pytest.mark.parametrize("error", [RemoteDied(-9), RemoteTimeout(600)])
def test_a_process_that_ends_leaves_its_case_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Ending(Here):
        def call(self, method: str, *arguments: Any, **_: Any) -> Any:
            if method == "fill" and arguments[1] == 8:
                raise error
            return super().call(method, *arguments)

    monkeypatch.setattr(caches, "Remote", Ending)
    monkeypatch.setattr(caches, "DEPLOYMENTS", caches.DEPLOYMENTS[:1])
    figures = caches.measure(stored(tmp_path / "model"), np.full(32, 5), caches.Cases((32,), (1, 8), 32, 1, plenty))
    assert [f["cache"] for f in figures] == ["eager dynamic", f"left out: {error}"]


def test_a_long_text_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, text = stored(tmp_path / "model"), np.random.default_rng(0).integers(4, VOCABULARY, (1, 24))
    held = []
    for together in (512, 5):
        monkeypatch.setattr(cache_steps, "TOGETHER", together)
        cache_steps.save_layers(folder, text, tmp_path / "layers.npz")
        with np.load(tmp_path / "layers.npz") as layers:
            held.append(dict(layers))
    whole, parts = held
    assert whole.keys() == parts.keys() and whole["0.key"].shape == (1, 2, 24, WIDTH)
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", ["1", "-5", "many"])
def test_a_context_is_a_number_of_tokens(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        caches.options().parse_args(["--contexts", value])
    assert ended.value.code == 2
    assert f"argument --contexts: must be a whole number of 2 or more, got '{value}'" in capsys.readouterr().err


def test_lengths_and_batches_can_be_chosen() -> None:
    chosen = caches.options().parse_args(["--contexts", "2048", "8192", "--batches", "8"])
    assert (chosen.contexts, chosen.batches, chosen.memory) == ([2048, 8192], [8], 20)


def measured(**changes: dict[str, float]) -> list[dict[str, Any]]:
    """Figures that keep every promise, with these changes by kind of cache."""
    shares = {"int8": 0.3, "int4": 0.2}
    figures = [
        {"cache": d.name, "batch": 1, "tokens": tokens, "perplexity": 20.0, "tpot_ms": 1.0, "cache_mb": share}
        | {**({} if tokens == 128 else changes.get(d.name.split()[1], {}))}
        for tokens in (128, 1024)
        for d in caches.DEPLOYMENTS
        for share in [1.0 if tokens == 128 else shares.get(d.cache, 1.0)]
    ]
    return list(caches.compared(figures))


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"int8": {"cache_mb": 0.6}}, ["int8: share of the bytes, from 1024 tokens"]),
        ({"int4": {"cache_mb": 0.4}}, ["int4: share of the bytes, from 1024 tokens"]),
        ({"int8": {"perplexity": 20.3}}, ["int8: % of perplexity lost"]),
        ({"int4": {"perplexity": 20.5}}, []),
        ({"int4": {"perplexity": 20.7}}, ["int4: % of perplexity lost"]),
        ({"static": {"perplexity": 19.9}}, ["static: % of perplexity, either way"]),
        ({"static": {"tpot_ms": 1.2}}, ["static over dynamic, TPOT at 1024 tokens"]),
    ],
)
def test_promises_are_of_bytes_and_perplexity(changes: dict[str, Any], missed: list[str]) -> None:
    promises = caches.promises(measured(**changes))
    assert [promise.what for promise in promises if not promise.met] == missed
