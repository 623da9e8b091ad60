"""When two runs of one model agree, by the rule of their task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from search.measure import parity as measured
from search.tasks import TASKS, Task, forms, task_named
from search.tasks.parity_rule import ELSEWHERE, EMBEDDING_PARITY, LIKELIHOOD_PARITY, LOGIT_PARITY, NUMBER_PARITY, Parity
from search.tasks.tokens import Encoded
from spaces.axes.bits import PRECISIONS
from spaces.base import Base
from spaces.recipe import Recipe, Step

EVERY = forms()
RULES = (LOGIT_PARITY, NUMBER_PARITY, EMBEDDING_PARITY, LIKELIHOOD_PARITY)
drawn = np.random.default_rng(0)


@pytest.mark.parametrize("task", EVERY, ids=lambda task: type(task).__name__)
def test_every_task_has_a_rule_with_a_tolerance_for_every_precision(task: Task) -> None:
    assert set(task.parity.tolerance) == set(PRECISIONS) and task.parity.unit
    for precision in PRECISIONS:
        here, there = (task.parity.allowed(precision, elsewhere) for elsewhere in (False, True))
        assert 0 < task.parity.runtimes <= here and there == ELSEWHERE * here


def test_outputs_are_counted_by_what_they_are() -> None:
    assert [task.parity for task in TASKS] == [LOGIT_PARITY, LOGIT_PARITY, EMBEDDING_PARITY, LIKELIHOOD_PARITY]
    assert {form.problem_type: form.parity for form in EVERY if form.problem_type} == {
        "single_label_classification": LOGIT_PARITY,
        "multi_label_classification": LOGIT_PARITY,
        "regression": NUMBER_PARITY,
    }


@pytest.mark.parametrize("rule", RULES)
def test_a_run_is_no_distance_from_itself_and_an_infinite_one_from_what_is_no_number(rule: Parity) -> None:
    output = drawn.normal(size=(5, 7)).astype(np.float32)
    assert rule.between(output, output) == 0.0
    for bad in (np.nan, np.inf):
        spoilt = output.copy()
        spoilt[2, 3] = bad
        assert rule.between(spoilt, output) == rule.between(output, spoilt) == rule.between(spoilt, spoilt) == np.inf
    with pytest.raises(ValueError, match=r"must have the reference's shape \(5, 7\), got \(5, 6\)"):
        rule.between(output[:, :6], output)


def test_logits_differ_by_their_largest_difference_anywhere() -> None:
    reference, output = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.5], [2.0, 4.0]])
    assert LOGIT_PARITY.between(output, reference) == LIKELIHOOD_PARITY.between(output, reference) == 1.0
    assert LOGIT_PARITY.shown(1.0) == "1 logits"


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e6])
def test_numbers_differ_alike_in_any_unit(unit: float) -> None:
    reference = np.array([[2.0], [-4.0]])
    assert NUMBER_PARITY.between(unit * (reference + 0.1), unit * reference) == pytest.approx(0.1 / 4)
    assert NUMBER_PARITY.between(np.full((2, 1), 0.1), np.zeros((2, 1))) == pytest.approx(0.1), (
        "nothing is a share of 0"
    )


def test_embeddings_differ_by_their_cosine_and_by_their_length() -> None:
    reference = drawn.normal(size=(50, 384)) * drawn.exponential(size=(50, 1))
    for noise in (1e-4, 1e-2, 0.3):
        output = (
            reference + noise * np.linalg.norm(reference, axis=1, keepdims=True) * drawn.normal(size=(50, 384)) / 20
        )
        distance = EMBEDDING_PARITY.between(output, reference)
        cosines = (output * reference).sum(1) / (np.linalg.norm(output, axis=1) * np.linalg.norm(reference, axis=1))
        assert 0 < distance < 1 and cosines.min() >= np.sqrt(1 - distance**2)
    assert EMBEDDING_PARITY.between(1.1 * reference, reference) == pytest.approx(0.1), "only the length differs"
    assert EMBEDDING_PARITY.between(1e5 * output, 1e5 * reference) == pytest.approx(distance), "of any length"
    assert EMBEDDING_PARITY.between(np.zeros((1, 3)), np.zeros((1, 3))) == 0.0


class Answering:
    """A process whose answers are at hand."""

    def __init__(self, name: str, output: np.ndarray) -> None:
        self._name, self._output = name, output

    def call(self, what: str, batches: Any, timeout_s: float) -> list[dict[str, np.ndarray]]:
        return [{self._name: self._output[i : i + 1]} for i in range(len(batches))]


@pytest.mark.parametrize(
    ("name", "head", "far", "message"),
    [
        # Of 384 numbers of 0.05 each a difference of 0.0009 in every one is under 0.001, and 2 % of the embedding.
        ("sentence-similarity", "embedding", 9e-4, r"differ by 0\.018 of an embedding's length, more than 0\.001"),
        ("classification", "mean", 2e-3, r"differ by 0\.002 logits, more than 0\.001"),
    ],
)
def test_a_runtime_is_held_against_eager_pytorch_by_the_tasks_rule(
    name: str, head: str, far: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Base("small", "none", head, (), ("input_ids", "attention_mask"), {})
    monkeypatch.setattr(measured, "read_config", lambda folder: (base, {}))
    reference = np.full((3, 384), 384**-0.5)
    np.save(tmp_path / "reference.npy", reference)
    columns = {key: [np.ones(4, dtype=np.int64)] * 3 for key in base.inputs}
    encoded = Encoded(columns, dict.fromkeys(columns, 0), np.array([4, 4, 4]))

    def held(output: np.ndarray, task: Task) -> None:
        recipe = Recipe("", name, "", (), {}, Step("onnx", {}))
        bench = cast(Any, Answering(base.output, output))
        measured.check_parity(task, recipe, tmp_path, bench, encoded, 1.0, capacity=0)

    held(reference + far / 100, task_named(name))
    with pytest.raises(ArithmeticError, match=f"onnx gives other outputs than eager PyTorch: they {message}"):
        held(reference + far, task_named(name))
    loose = replace(task_named(name).parity, runtimes=0.1)
    monkeypatch.setattr(type(task_named(name)), "parity", loose)
    held(reference + far, task_named(name))
