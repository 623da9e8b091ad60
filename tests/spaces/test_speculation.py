"""Speculative decoding: the tokens of greedy decoding in fewer calls, whatever the drafts are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from causal import VOCABULARY, causal, prompts

from spaces.generation import onnx_decoder
from spaces.generation.onnx_linear import Precision
from spaces.generation.onnx_program import OnnxProgram
from spaces.generation.prefix import PrefixProgram
from spaces.generation.program import CacheFullError, CacheSettings, greedy
from spaces.generation.speculation import DRAFT, Lookup, Speculation, accepted
from spaces.generation.static_program import StaticProgram
from spaces.generation.torch_program import TorchProgram
from spaces.runtime import Context
from spaces.runtimes import onnx

PROMPT, NEW = 9, 22
#: The last token is never read.
SETTINGS = CacheSettings("static", capacity=PROMPT + NEW - 1)
FAMILIES = ("llama", "qwen3", "mistral", "gpt2")

Opener = Callable[[str, Path], Any]


def onnx_program(name: str, folder: Path) -> OnnxProgram:
    path = folder / "graph.onnx"
    onnx_decoder.write(onnx_models.causal(name), Precision.of({"precision": "fp32"}), path)
    return OnnxProgram(onnx.open_session(path, Context(threads=1), onnx.CPU), SETTINGS)


PROGRAMS: dict[str, Opener] = {
    "dynamic": lambda name, _: TorchProgram(causal(name), CacheSettings("dynamic"), "cpu"),
    "static": lambda name, _: TorchProgram(causal(name), SETTINGS, "cpu"),
    "fixed step": lambda name, _: StaticProgram(causal(name), SETTINGS, "cpu", lambda step: step),
    "prefixes": lambda name, _: PrefixProgram(TorchProgram(causal(name), SETTINGS, "cpu"), 10**6),
    "onnx": onnx_program,
}


class Oracle(Lookup):
    """Drafts of the true answer, with each `wrong`-th token of it replaced."""

    def __init__(self, tokens: Sequence[int], answer: np.ndarray, wrong: int) -> None:
        super().__init__(tokens)
        places = np.arange(len(answer))
        self._answer = np.where(places % wrong == wrong - 1, (answer + 1) % VOCABULARY, answer)
        self._prompt = len(tokens)

    def draft(self, most: int) -> list[int]:
        begin = len(self._tokens) - self._prompt
        return [int(token) for token in self._answer[begin : begin + most]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_no_draft_changes_the_output(kind: str, family: str, tmp_path: Path) -> None:
    program = PROGRAMS[kind](family, tmp_path)
    ids, mask = prompts((PROMPT,))
    expected = np.concatenate(list(greedy(program, ids, mask, NEW)))
    assert len(np.unique(expected)) > 3, "an answer of few tokens tells nothing"
    calls = {}
    for wrong in (1, 3, 5, NEW + 1):
        speculation = Speculation(program, functools.partial(Oracle, answer=expected, wrong=wrong))
        tokens = np.concatenate(list(speculation(ids, NEW)))
        np.testing.assert_array_equal(tokens, expected)
        assert speculation.accepted + speculation.calls == NEW - 1
        calls[wrong] = speculation.calls
    assert calls[1] == NEW - 1 and calls[NEW + 1] == -(-(NEW - 1) // (DRAFT + 1))
    plain = Speculation(program)
    np.testing.assert_array_equal(np.concatenate(list(plain(ids, NEW))), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_tokens_read_together_give_the_logits_of_each(kind: str, family: str, tmp_path: Path) -> None:
    """Also after others were read and taken back."""
    program = PROGRAMS[kind](family, tmp_path)
    ids, mask = prompts((PROMPT + 12,))
    rejected = prompts((8,), seed=1)[0]
    _, cache = program.prefill(ids[:, :PROMPT], mask[:, :PROMPT])
    single = [program.decode(ids[:, PROMPT + i], cache)[0] for i in range(12)]
    _, cache = program.prefill(ids[:, :PROMPT], mask[:, :PROMPT])
    program.extend(rejected, cache)
    program.truncate(cache, PROMPT)
    first = program.extend(ids[:, PROMPT : PROMPT + 5], cache)[0]
    program.extend(rejected, cache)
    program.truncate(cache, PROMPT + 5)
    one = program.decode(ids[:, PROMPT + 5], cache)
    rest = program.extend(ids[:, PROMPT + 6 :], cache)[0]
    np.testing.assert_allclose(np.concatenate([first, one, rest]), single, atol=1e-4)
    assert cache.length == PROMPT + 12


def test_a_full_cache_is_an_error(tmp_path: Path) -> None:
    for kind in ("static", "onnx"):
        program = PROGRAMS[kind]("llama", tmp_path)
        _, cache = program.prefill(*prompts((SETTINGS.capacity - 2,)))
        with pytest.raises(CacheFullError, match=rf"{SETTINGS.capacity} tokens .*got {SETTINGS.capacity + 1}"):
            program.extend(prompts((3,))[0], cache)
        assert cache.length == SETTINGS.capacity - 2


@pytest.mark.parametrize("kind", ["int8", "sliding"])
def test_a_cache_that_takes_nothing_back_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"takes back rejected tokens \(dynamic or static\)"):
        Speculation(TorchProgram(causal("llama"), CacheSettings(kind), "cpu"))


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 4, 1], []),  # one token alone says little
        ([1, 2, 3, 4, 1, 2], [3, 4, 1]),
        ([1, 2, 3, 5, 1, 2, 4, 6, 1, 2], [4, 6, 1]),  # the newest occurrence
        ([9, 1, 2, 3, 5, 7, 1, 2, 4, 6, 9, 1, 2], [3, 5, 7]),  # the longest n-gram
        ([7, 8, 7, 8], [7, 8, 7]),  # goes on with itself
    ],
)
def test_the_draft_is_what_followed_the_last_tokens_before(text: list[int], draft: list[int]) -> None:
    assert Lookup(text).draft(3) == draft
    assert Lookup(text).draft(0) == []


def test_tokens_are_accepted_up_to_the_first_wrong_one() -> None:
    assert DRAFT > 2
    assert [accepted([5, 6], np.array(tokens)) for tokens in ([5, 6, 7], [5, 1, 6], [1, 6, 7])] == [2, 1, 0]
