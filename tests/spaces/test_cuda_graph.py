"""The logic around CUDA graphs, with a recorder that runs the call instead of capturing it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from models import arrays_of, batch_of, logits, subject
from torch import Tensor

from spaces.runtimes.cuda_graph import GraphPredict
from spaces.runtimes.padding import COMPILED_LENGTHS, lengths_of, padded_length

SHORT = (4, 8, 16)


class Recorder:
    """Replays by calling again over the same buffers, into the same output, as a graph does."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.buffers: list[dict[str, int]] = []
        self.seen: list[dict[str, Tensor]] = []
        self.replays = 0

    def __call__(self, call: Any, static: Mapping[str, Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.shapes.append(tuple(static["input_ids"].shape))
        self.buffers.append({name: tensor.data_ptr() for name, tensor in static.items()})
        output = call(**static)

        def replay() -> None:
            self.replays += 1
            self.seen.append({name: tensor.clone() for name, tensor in static.items()})
            assert {name: tensor.data_ptr() for name, tensor in static.items()} in self.buffers
            output.copy_(call(**static))

        return replay, output


def predictor(case: str = "bert", head: str = "mean") -> tuple[GraphPredict, Recorder]:
    original, recorder = subject(case, head), Recorder()
    pad = int(original.base.config["pad_token_id"])
    return GraphPredict(original.model, original.base, "cpu", SHORT, pad, recorder), recorder


@pytest.mark.parametrize(("length", "expected"), [(1, 4), (4, 4), (5, 8), (8, 8), (16, 16), (17, 17), (40, 40)])
def test_a_length_is_padded_to_the_smallest_that_holds_it(length: int, expected: int) -> None:
    assert padded_length(length, SHORT) == expected


@pytest.mark.parametrize("head", ["mean", "native"])
@pytest.mark.parametrize(
    "case", ["bert", "roberta", "mpnet", "distilbert", "llama", "mistral", "gpt2", "modernbert", "deberta-v2"]
)
def test_padding_changes_no_logits(case: str, head: str) -> None:
    original = subject(case, head)
    predict, _ = predictor(case, head)
    for seed, lengths in enumerate([(5,), (3, 2), (7, 4, 7), (17, 9), (1,), (6,), (5,)]):
        output = predict(arrays_of(original.base, lengths, seed))["logits"]
        expected = logits(original.model, batch_of(original.base, lengths, seed)).numpy()
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_a_shape_is_captured_once_and_its_buffers_are_reused() -> None:
    predict, recorder = predictor()
    base = subject().base
    for lengths in ((3,), (4,), (2,), (3, 3), (5,), (7,), (3,), (2, 4)):
        predict(arrays_of(base, lengths))
    assert recorder.shapes == [(1, 4), (2, 4), (1, 8)]
    assert recorder.replays == 8


def test_nothing_of_a_longer_batch_is_left_in_the_buffers() -> None:
    predict, recorder = predictor("roberta")
    base = subject("roberta").base
    pad = base.config["pad_token_id"]
    for lengths in ((8,), (5,)):
        predict(arrays_of(base, lengths))
    last = recorder.seen[-1]
    assert last["input_ids"][0, 5:].tolist() == [pad] * 3
    assert last["attention_mask"][0].tolist() == [1] * 5 + [0] * 3


def test_padded_lengths_stay_within_the_positions_of_the_model() -> None:
    base = subject("bert").base
    assert lengths_of(base) == (16, 32)  # 40 positions
    assert lengths_of(subject("gpt2").base) == (16, 32)
    wide = replace(base, config={**base.config, "max_position_embeddings": 4096})
    assert lengths_of(wide) == COMPILED_LENGTHS


@pytest.mark.parametrize(("head", "some"), [("native", False), ("mean", True)])
def test_a_head_that_reads_the_last_token_is_not_padded_when_no_token_is_padding(head: str, some: bool) -> None:
    base = subject("llama", head).base
    without = replace(base, config={**base.config, "pad_token_id": None})
    assert bool(lengths_of(without)) is some


def test_the_output_is_float32_whatever_the_model_computes_in() -> None:
    original, recorder = subject(), Recorder()

    def half(**inputs: Tensor) -> Tensor:
        return original.model(**inputs).to(torch.bfloat16)

    predict = GraphPredict(half, original.base, "cpu", SHORT, 0, recorder)
    assert predict(arrays_of(original.base, (3,)))["logits"].dtype == np.float32


def test_threads_that_share_a_predictor_each_get_their_own_answer() -> None:
    """Its buffers are shared: two calls at once would read each other's rows."""
    original = subject("bert", "mean")
    batches = [arrays_of(original.base, (3,), seed) for seed in range(8)]
    plain = [logits(original.model, batch_of(original.base, (3,), seed)).numpy() for seed in range(8)]

    def slow(call: Any, static: Mapping[str, Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = call(**static)

        def replay() -> None:
            time.sleep(0.01)  # another thread's turn to overwrite the buffers
            output.copy_(call(**static))
            time.sleep(0.01)

        return replay, output

    predict = GraphPredict(original.model, original.base, "cpu", SHORT, 0, slow)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(predict, batches))
    for answer, wanted in zip(answers, plain, strict=True):
        np.testing.assert_allclose(answer["logits"], wanted, atol=1e-5)
