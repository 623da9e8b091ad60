"""Times under the data's lengths are of these data: what was fed is among a measurement's conditions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from objectives.latency import P50
from objectives.latency_table import LatencyTable
from objectives.measurement import comparable
from search.measure.timing import Timings
from search.tasks import task_named
from spaces.runtime import Context

LONG, SHORT = [30, 31, 32, 40], [4, 5, 6, 7]
ALONE, TOGETHER = [1, 1, 1, 1], [3, 1]
SIZES = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from spaces.base import Base, skeleton, write_folder

    folder = tmp_path_factory.mktemp("model")
    config = {"model_type": "bert", "max_position_embeddings": 64, **SIZES}
    base = Base("small", "none", "mean", ("a", "b"), ("input_ids", "attention_mask"), config)
    write_folder(folder, skeleton(base), base, {})
    return folder


def conditions(
    teacher: Path, lengths: list[int], calls: list[int], length: object, task: str = "classification", seed: int = 0
) -> dict[str, Any]:
    """Of the main workload of a search over rows of these lengths."""
    rows = SimpleNamespace(encoded=SimpleNamespace(lengths=np.array(lengths)), calls=np.array(calls))
    prepared = SimpleNamespace(
        config=SimpleNamespace(workload=SimpleNamespace(batch=1, length=length, new_tokens=None), seed=seed),
        teacher=teacher,
        context=Context("cpu", 1),
        environment={},
        task=task_named(task),
        split=lambda name: rows,
    )
    return Timings(cast(Any, prepared), cast(Any, None)).inputs("")[1]


def test_searches_on_data_of_other_lengths_share_no_times(teacher: Path, tmp_path: Path) -> None:
    long, again, short = (conditions(teacher, lengths, ALONE, "data") for lengths in (LONG, LONG, SHORT))
    tables = [LatencyTable(tmp_path, one).path for one in (long, again, short)]
    assert tables[0] == tables[1] != tables[2]
    one, same, other = (P50.counted(5.0, each) for each in (long, again, short))
    assert comparable(one, same) == ""
    assert comparable(one, other).startswith("fed: ")
    assert long["tokens"] == again["tokens"] > short["tokens"] >= min(SHORT)


def test_data_of_another_order_are_fed_as_the_same_shapes(teacher: Path) -> None:
    assert conditions(teacher, LONG, ALONE, "data") == conditions(teacher, LONG[::-1], ALONE, "data")


def test_with_a_fixed_length_searches_on_any_data_share_their_times(teacher: Path) -> None:
    assert conditions(teacher, LONG, ALONE, 32) == conditions(teacher, SHORT, ALONE, 32, seed=1)


def test_questions_of_other_numbers_of_windows_are_told_apart_at_any_length(teacher: Path) -> None:
    task = "question-answering"
    parted, together = (conditions(teacher, LONG, calls, 32, task) for calls in (ALONE, TOGETHER))
    assert parted["fed"] != together["fed"]
