"""What is OpenVINO's own in generating: caches in its state, integer products, and the package that may be missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal import stored
from opened_graphs import (
    CACHES,
    CPU,
    FP32,
    NEW,
    Opened,
    answers,
    openvino_here,
    prompts,
)

from spaces.errors import Infeasible
from spaces.generation.program import open_program
from spaces.generation.speculation import Speculation
from spaces.runtimes import openvino


@openvino_here
def test_prompts_under_openvino_have_caches_of_their_own(opened: Callable[[str], Opened]) -> None:
    """Their steps may alternate, threads may share the program, and each is as if alone; bytes are those of tokens."""
    program, asked = opened("llama").program(runtime="openvino", precision="fp32"), (prompts(9, 3), prompts(5))
    alone = [answers(program, *one) for one in asked]
    prefilled = [program.prefill(*one) for one in asked]
    tokens = [[scores.argmax(-1)] for scores, _ in prefilled]
    for _ in range(NEW - 1):
        for answer, (_, cache) in zip(tokens, prefilled, strict=True):
            answer.append(program.decode(answer[-1], cache).argmax(-1))
    for answer, expected in zip(tokens, alone, strict=True):
        np.testing.assert_array_equal(np.stack(answer, 1), expected)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: answers(program, *one), asked * 4))
    for answer, expected in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(answer, expected)
    cache = prefilled[0][1]
    assert cache.length == 9 + NEW - 1
    assert cache.nbytes == 2 * 2 * 2 * 2 * cache.length * 16 * 4  # rows, blocks, both, heads, tokens, width


@openvino_here
@pytest.mark.parametrize(("precision", "stored_as"), [("int8", "i8"), ("int4", "u4")])
def test_openvino_multiplies_by_integers_and_attends_over_its_state(
    precision: str, stored_as: str, opened: Callable[[str], Opened]
) -> None:
    """The compiled model says what it runs: no weights are widened before a product, and no state is copied."""

    def kind(node: Any) -> str:
        return str(node.get_rt_info()["layerType"].astype(str))

    program = opened("llama").program(runtime="openvino", precision=precision)
    nodes = program.model.compiled.get_runtime_model().get_ops()
    products, attentions = (
        [node for node in nodes if kind(node) == wanted] for wanted in ("FullyConnected", "ScaledDotProductAttention")
    )
    assert len(products) == 2 * 5 + 1 and len(attentions) == 2
    for node in products:
        assert node.input_value(1).get_element_type().get_type_name() == stored_as
    for node in attentions:
        read = [kind(node.input_value(index).get_node()) for index in range(node.get_input_size())]
        assert read.count("MemoryInput") == 2


@openvino_here
def test_rejected_tokens_are_taken_out_of_the_state(opened: Callable[[str], Opened]) -> None:
    program, (ids, mask) = opened("llama").program(runtime="openvino", precision="fp32"), prompts(9)
    expected = answers(program, ids, mask)
    _, cache = program.prefill(ids, mask)
    program.extend((expected[:, :6] + 1) % 90, cache)
    program.truncate(cache, 9)
    logits = program.extend(expected[:, :-1], cache)
    np.testing.assert_array_equal(logits.argmax(-1), expected[:, 1:])
    assert cache.length == 9 + NEW - 1
    speculated = np.concatenate(list(Speculation(program)(ids, NEW)))
    np.testing.assert_array_equal(speculated, expected[0])


def test_openvino_that_is_not_installed_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name))
    folder, wanted = (
        stored(tmp_path),
        r'openvino not installed: pip install "transformer-compression-search\[openvino\]"',
    )
    with pytest.raises(Infeasible, match=wanted):
        open_program(folder, "openvino", FP32, CACHES["openvino"], CPU)
    with pytest.raises(Infeasible, match=wanted):
        openvino.OpenVino().open(folder, FP32, CPU)
