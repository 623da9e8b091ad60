"""Drafts of a second model: what it says itself, read once, and no answer changes by them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from causal import VOCABULARY, causal, prompts
from test_speculation import NEW, PROGRAMS, PROMPT, SETTINGS

from spaces.generation import onnx_decoder
from spaces.generation.draft_model import DraftModel
from spaces.generation.onnx_linear import Precision
from spaces.generation.onnx_program import OnnxProgram
from spaces.generation.program import CacheSettings, greedy
from spaces.generation.speculation import Speculation
from spaces.generation.torch_program import TorchProgram
from spaces.runtime import Context
from spaces.runtimes import onnx

LIMIT = SETTINGS.capacity


def answer(program: Any, text: list[int], count: int) -> list[int]:
    ids = np.array([text], np.int64)
    return [int(token[0]) for token in greedy(program, ids, np.ones_like(ids), count)]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_draft_is_what_its_model_says_after_every_text(kind: str, tmp_path: Path) -> None:
    """However many tokens of the draft before were right."""
    (tmp_path / "other").mkdir()
    program, other = PROGRAMS[kind]("llama", tmp_path), PROGRAMS[kind]("llama", tmp_path / "other")
    text: list[int] = prompts((PROMPT,))[0][0].tolist()
    draft = DraftModel(program, LIMIT, text)
    for count, right in ((4, 4), (3, 0), (2, 1), (4, 2), (1, 1), (0, 0), (2, 2)):
        proposed = draft.draft(count)
        assert proposed == answer(other, text, count)
        for token in [*proposed[:right], (7 * count + right) % VOCABULARY]:
            draft.add(token)
            text.append(token)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("kind", PROGRAMS)
def test_no_draft_model_changes_the_output(kind: str, length: int, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    program, same = PROGRAMS[kind]("llama", tmp_path), PROGRAMS[kind]("llama", tmp_path / "other")
    ids, _ = prompts((PROMPT,))
    expected = answer(program, ids[0].tolist(), NEW)
    for other in (same, PROGRAMS["dynamic"]("qwen3", tmp_path)):
        speculation = Speculation(program, functools.partial(DraftModel, other, LIMIT), (length, length))
        assert [int(token[0]) for token in speculation(ids, NEW)] == expected
        assert speculation.accepted + speculation.calls == NEW - 1
        if other is same:
            assert speculation.accepted == speculation.proposed
            assert speculation.calls == -(-(NEW - 1) // (length + 1))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantised_copy_drafts_for_its_model(precision: str, tmp_path: Path) -> None:
    programs = []
    for name in ("fp32", precision):
        path = tmp_path / f"{name}.onnx"
        onnx_decoder.write(onnx_models.causal("llama"), Precision.of({"precision": name}), path)
        programs.append(OnnxProgram(onnx.open_session(path, Context(threads=1), onnx.CPU), SETTINGS))
    program, quantised = programs
    ids, _ = prompts((PROMPT,))
    speculation = Speculation(program, functools.partial(DraftModel, quantised, LIMIT), (3, 3))
    assert [int(token[0]) for token in speculation(ids, NEW)] == answer(program, ids[0].tolist(), NEW)
    assert speculation.accepted > 0


def test_a_text_beyond_the_drafts_cache_has_no_draft() -> None:
    limit = PROMPT + 6
    small = TorchProgram(causal("llama"), CacheSettings("static", capacity=limit), "cpu")
    program = TorchProgram(causal("llama"), SETTINGS, "cpu")
    ids, _ = prompts((PROMPT,))
    expected = answer(program, ids[0].tolist(), NEW)
    speculation = Speculation(program, functools.partial(DraftModel, small, limit), (4, 4))
    assert [int(token[0]) for token in speculation(ids, NEW)] == expected
    assert 0 < speculation.proposed <= limit - PROMPT
    whole = ids[0].tolist() + expected
    assert DraftModel(small, limit, whole[: limit + 1]).draft(4) == []
    assert DraftModel(small, limit, whole[:limit]).draft(4) == [whole[limit]]
