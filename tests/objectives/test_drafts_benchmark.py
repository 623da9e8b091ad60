"""The benchmark of drafts on a tiny model: agreements, their replay, and the bounds. Times are not judged."""

from __future__ import annotations

import contextlib
import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal import VOCABULARY, causal, stored
from here import Here

from benchmarks import drafts, header, speculation
from benchmarks.drafts import Copy
from benchmarks.replays import Replay, acceptance, replayed
from spaces import base, calibration
from spaces.generation.program import CacheSettings
from spaces.generation.speculation import Lookup, Speculation
from spaces.generation.torch_program import TorchProgram

NEW = 12


class Drafted(Lookup):
    """Drafts whose agreements with the answer are known: each proposed token is the answer's, or the next number."""

    def __init__(self, tokens: Any, answer: list[int], agreements: str, most: int) -> None:
        super().__init__(tokens)
        self._prompt, self._most = len(tokens), most
        self._draft = [token if same == "1" else token + 1 for token, same in zip(answer[1:], agreements, strict=True)]

    def draft(self, most: int) -> list[int]:
        begin = len(self._tokens) - self._prompt - 1
        return self._draft[begin : begin + min(most, self._most)]


def test_a_replay_counts_the_calls_of_speculative_decoding() -> None:
    """One proposed token a call, which the schedule of `Speculation` never changes."""
    program = TorchProgram(causal("llama"), CacheSettings("dynamic"), "cpu")
    ids, choose = np.random.default_rng(0).integers(4, VOCABULARY, (1, 9)), random.Random(0)
    answer = [int(token[0]) for token in Speculation(program)(ids, NEW)]
    for _ in range(5):
        agreements = "".join(choose.choice("01") for _ in answer[1:])
        lookup = functools.partial(Drafted, answer=answer, agreements=agreements, most=1)
        real = Speculation(program, lookup)
        assert [int(token[0]) for token in real(ids, NEW)] == answer
        replay = replayed([agreements], 1, NEW)
        assert (sum(replay.calls.values()), replay.accepted) == (real.calls, real.accepted)
        assert sum(n * count for n, count in replay.calls.items()) == real.proposed


def test_a_replay_accepts_all_nothing_or_runs_up_to_the_first_rejection() -> None:
    assert replayed(["1" * 11], 6, 12) == Replay(11, 9, {6: 1, 3: 1})  # each call gives one token of the target too
    assert replayed(["0" * 11], 3, 12) == Replay(11, 0, {3: 8, 2: 1, 1: 1, 0: 1})
    assert replayed(["1101" + "1" * 20], 2, 96) == Replay(24, 16, {2: 8})
    assert (
        replayed(["11", "0"], 4, 96).run == 1.0
    )  # an answer that ends at an end token: what is proposed after it is not
    assert acceptance(["110", "", "1"]) == 0.75


def test_the_time_of_a_replay_is_that_of_its_calls() -> None:
    replay = replayed(["1" * 11], 6, 12)
    assert replay.ms(2.0, {7: 10.0, 4: 8.0}) == pytest.approx((6 * 2 + 10 + 3 * 2 + 8) / 11)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the whole model, calibration rows beside it."""
    whole = stored(tmp_path / drafts.WHOLE)
    rows = np.random.default_rng(0).integers(4, VOCABULARY, (2, 32))
    calibration.write(whole, {"input_ids": rows, "attention_mask": np.ones_like(rows)})
    monkeypatch.setattr(drafts, "Remote", Here)
    monkeypatch.setattr(speculation, "MOST", NEW)
    return tmp_path


def test_drafts_are_measured_from_the_blocks_to_the_promises(models: Path) -> None:
    blocks = drafts.ranked(models / drafts.WHOLE, (1,))
    assert [len(indices) for indices in blocks.values()] == [1]
    drafts.write_copies(models, blocks)
    drafts.write_copies(models, blocks)
    tokens = np.random.default_rng(1).integers(4, VOCABULARY, (2, 9))
    prompts = {kind: [tokens[:1], tokens[1:, :7]] for kind in speculation.KINDS}
    copies = drafts.drafts_of(blocks)
    assert [copy.name for copy in copies] == ["whole, int8", "1 blocks, fp32", "1 blocks, int8"]
    agreements = drafts.agreements_of(models, [drafts.TARGET, *copies], prompts, frozenset(), 1)
    for by_kind in agreements.values():
        assert {kind: [len(answer) for answer in answers] for kind, answers in by_kind.items()} == dict.fromkeys(
            speculation.KINDS, [NEW - 1] * 2
        )
    assert acceptance([answer for answers in agreements.pop("whole, fp32").values() for answer in answers]) == 1
    times = drafts.times_of(models, copies, True, 1)
    assert [*times] == ["whole, fp32", *agreements]
    assert sorted(times["whole, fp32"]) == ["1", "2", "3", "4", "5", "6", "7"]
    assert len(times["whole, int8"]["1"]) == 3 * 6 and [*times["whole, int8"]] == ["1"]
    bounds = drafts.bounds_of(agreements, times)
    assert all(bound["speedup"] == max(bound["speedups"].values()) for bound in bounds)
    figures = {"agreements": agreements, "times": times, "bounds": bounds}
    assert all(isinstance(promise, header.Promise) for promise in drafts.promises(figures))
    assert (
        len(drafts.told(agreements, times).split("\n\n")) == 6 and len(drafts.told(agreements, {}).split("\n\n")) == 1
    )
    with pytest.raises(SystemExit, match="and has others: name another folder of --models"):
        drafts.write_copies(models, {"1 blocks": [1 - index for index in blocks["1 blocks"]]})


def test_a_shallower_copy_is_the_model_without_its_other_blocks(models: Path) -> None:
    drafts.write_copies(models, {"1 blocks": [1]})
    config, plans = base.read_config(models / "1 blocks")
    assert plans["distill"] == {"blocks": [1]} and config == base.read_config(models / drafts.WHOLE)[0]
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(Copy("1 blocks", "fp32").opened(models, 1))
        assert bench.call("ttft", np.array([[5, 6, 7]])) > 0
        assert len(bench.call("reading", 3, 4, 2)) == 2


def test_agreements_of_another_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser, file = header.options(""), tmp_path / "other.json"
    file.write_text(json.dumps({"figures": {"onnx fp32, copy": {}}}))
    with pytest.raises(SystemExit):
        drafts.read_agreements(parser, file)
    assert f"that --json of this benchmark wrote, got {file}" in capsys.readouterr().err
