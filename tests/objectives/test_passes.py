"""The passes of timed calls, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from objectives.latency_model import GUESS, guess
from objectives.latency_table import LatencyTable
from objectives.passes import Passes
from objectives.roofline import Sizes
from objectives.shapes import Shapes, features

CALL = {"device": "cpu", "batch": 2, "length": 8, "new_tokens": 4}
SIZES = Sizes(
    token_matrices=((16, 16),) * 8 + ((16, 40), (40, 16)) * 2,
    row_matrices=((16, 2),),
    attention=(16, 16),
    tables=(16,),
)


def model() -> Shapes:
    """Two blocks, of which a step reads 5,000 bytes of matrices and 600 of the cache."""
    return replace(Shapes.of(SIZES, hidden=16), step_bytes=np.array([5000.0]), cache_bytes=np.array([600.0]))


def test_the_first_token_comes_from_a_pass_over_the_prompt_alone() -> None:
    passes = Passes.of("ttft_ms", CALL)
    assert passes == Passes(2, 8.0)
    np.testing.assert_array_equal(passes.features(model()), features(model(), 2, 8))


def test_a_later_token_comes_from_one_step_that_reads_bytes() -> None:
    """It attends to the 8 tokens of the prompt, and to 1, 2 or 3 of its own."""
    passes = Passes.of("tpot_ms", CALL)
    assert (passes.first, passes.steps, passes.tokens) == (0, 1, np.mean([9, 10, 11]))
    in_blocks = 8 * 16 * 16 + 4 * 16 * 40
    counted = {
        "call": 1,
        "block": 2,
        "matrix": 8 + 4 + 1,
        "multiply-add": 2 * in_blocks + 2 * 16 * 2,
        "weight": 0,
        "element written": 2 * (8 * 16 + 2 * 40 + 2 * 16),
        "element read": 2 * (8 * 16 + 2 * 16 + 2 * 40),
        "attention score": 2 * 10 * (16 + 16),
        "element of the residual stream": 2 * 16 * 3,
        "byte of the matrices": 5000,
        "byte of the cache": 600,
    }
    assert dict(zip(passes.costs, passes.features(model())[0].tolist(), strict=True)) == counted


@pytest.mark.parametrize("name", ["latency_p50_ms", "generate_ms"])
def test_a_whole_call_is_its_first_token_and_the_later_ones(name: str) -> None:
    first, later = (Passes.of(part, CALL).features(model()) for part in ("ttft_ms", "tpot_ms"))
    whole = Passes.of(name, CALL).features(model())
    np.testing.assert_array_equal(whole, np.pad(first, ((0, 0), (0, 2))) + 3 * later)


@pytest.mark.parametrize("length", [8, "data"])
def test_a_call_that_generates_nothing_is_one_pass(length: object) -> None:
    conditions = {"batch": 2, "length": length}
    assert Passes.of("latency_p50_ms", conditions) == Passes(2, 32.0 if length == "data" else 8.0)
    assert Passes.of("latency_p50_ms", {**conditions, "new_tokens": 1}).steps == 0


def test_the_prior_of_a_step_is_the_time_to_read_its_bytes() -> None:
    whole, step = Passes.of("ttft_ms", CALL), Passes.of("tpot_ms", CALL)
    np.testing.assert_array_equal(guess(whole, 1e-9), GUESS)
    prior = dict(zip(step.costs, guess(step, 1e-9).tolist(), strict=True))
    assert prior["byte of the matrices"] == prior["byte of the cache"] == 1e-9
    assert prior["multiply-add"] < 1e-9 < prior["block"] == GUESS[1]


def test_the_times_of_a_call_are_told_apart_and_those_of_one_pass_keep_their_table(tmp_path: Path) -> None:
    names = ("latency_p50_ms", "ttft_ms", "tpot_ms")
    paths = {LatencyTable(tmp_path, CALL, name).path for name in names}
    assert len(paths) == 3
    classifier = {"batch": 2, "length": 8}
    assert LatencyTable(tmp_path, classifier).path == LatencyTable(tmp_path, classifier, "latency_p50_ms").path


def test_what_a_step_reads_is_kept_with_its_model(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path, CALL, "tpot_ms")
    table.add("onnx/int8", model(), 3.0, 0.01)
    wider = replace(model(), step_bytes=np.array([9000.0]))
    assert table.measured("onnx/int8", model()).all() and not table.measured("onnx/int8", wider).any()
    [ms, more] = [np.exp(table.predict("onnx/int8", shapes)[0][0]) for shapes in (model(), wider)]
    assert ms == pytest.approx(3.0, rel=0.02) and more >= ms
