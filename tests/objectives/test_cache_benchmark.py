"""The benchmark of caches on a tiny model: what it asks of each cache, and what it promises. Times are not judged."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal import VOCABULARY, stored

from benchmarks import caches
from spaces.cache_settings import CacheSettings
from spaces.generation.cache_size import cache_bytes
from spaces.runtime import Context
from spaces.runtimes import onnx

HEADS, WIDTH = (2, 1), 16  # of the stored model
LENGTH = 128


class Here:
    """A `Remote` without a process, which takes time to start."""

    def __init__(self, factory: functools.partial[Any], **_: Any) -> None:
        self._held = factory()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._held, method)(*arguments)

    def close(self) -> None: ...


def test_every_cache_is_measured_full_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored(tmp_path / "model")
    onnx.Onnx().open(folder, caches.FP32, Context(threads=1))
    monkeypatch.setattr(caches, "Remote", Here)
    text = np.random.default_rng(0).integers(4, VOCABULARY, 2 * LENGTH)
    figures = caches.measure(folder, text, (LENGTH,), (1, 2), 2 * LENGTH, 1)
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
    figures = caches.measure(folder, np.full(300, 5), (300,), (1,), 300, 1)
    assert "perplexity" not in figures[0] and figures[0]["tpot_ms"] > 0


def test_a_case_that_memory_does_not_hold_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(tmp_path / "model")
    monkeypatch.setattr(caches, "Remote", Here)
    monkeypatch.setattr(caches, "DEPLOYMENTS", caches.DEPLOYMENTS[:1])
    figures = caches.measure(folder, np.full(32, 5), (32,), (1, 10**9), 32, 1)
    assert [f["batch"] for f in figures] == [1]
    assert "left out: batch 1000000000 at 32 tokens" in capsys.readouterr().out


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
