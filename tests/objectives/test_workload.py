"""What is fed to a model while it is timed."""

from __future__ import annotations

import numpy as np
import pytest

from objectives.workload import BATCHES, Frame, Workload, device_of_mark, inputs, other, van_der_corput

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def test_a_fixed_length_is_every_rows_length() -> None:
    batches = inputs(Workload(batch=3, length=7), NAMES, Frame(50))
    assert len(batches) == BATCHES
    for batch in batches:
        assert tuple(batch) == NAMES
        assert {array.shape for array in batch.values()} == {(3, 7)}
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
        assert batch["attention_mask"].all()
        assert batch["input_ids"].min() >= 1
        assert batch["input_ids"].max() < 50


def test_the_datas_lengths_come_in_their_own_proportions() -> None:
    lengths = [5] * 50 + [10] * 25 + [40] * 25
    batches = inputs(Workload(batch=1, length="data"), NAMES, Frame(50), lengths)
    row_lengths = [int(batch["attention_mask"].sum()) for batch in batches]
    assert sorted(row_lengths) == [5] * (BATCHES // 2) + [10] * (BATCHES // 4) + [40] * (BATCHES // 4)


@pytest.mark.parametrize("start", range(BATCHES - 4))
def test_any_few_neighbours_are_spread_over_the_lengths(start: int) -> None:
    batches = inputs(Workload(batch=1, length="data"), NAMES, Frame(50), lengths=range(1, 101))
    row_lengths = [int(batch["attention_mask"].sum()) for batch in batches[start : start + 4]]
    assert min(row_lengths) <= 50 < max(row_lengths)
    assert max(row_lengths) - min(row_lengths) >= 40


def test_shorter_rows_are_padded_and_masked() -> None:
    for batch in inputs(Workload(batch=4, length="data"), NAMES, Frame(50), lengths=range(3, 30)):
        counts = batch["attention_mask"].sum(1)
        assert batch["input_ids"].shape == (4, counts.max())
        assert ((batch["input_ids"] > 0) == (batch["attention_mask"] == 1)).all()
        assert (np.sort(batch["attention_mask"], axis=1)[:, ::-1] == batch["attention_mask"]).all()


@pytest.mark.parametrize("length", [9, "data"])
def test_the_same_seed_gives_the_same_batches(length: int) -> None:
    one, same, other = (inputs(Workload(2, length, seed), NAMES, Frame(50), range(1, 30)) for seed in (0, 0, 1))
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(one, same, strict=True) for name in NAMES)
    assert any(a["input_ids"].tobytes() != b["input_ids"].tobytes() for a, b in zip(one, other, strict=True))


def test_van_der_corputs_sequence_mirrors_the_digits() -> None:
    assert van_der_corput(8).tolist() == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


def test_an_input_it_cannot_make_is_named() -> None:
    with pytest.raises(ValueError, match="got pixel_values"):
        inputs(Workload(), ("input_ids", "pixel_values"), Frame(50))


def test_the_datas_lengths_are_needed_for_them() -> None:
    with pytest.raises(ValueError, match="got none"):
        inputs(Workload(length="data"), NAMES, Frame(50))


@pytest.mark.parametrize(("batch", "length"), [(0, 8), (1, 0)])
def test_a_workload_of_nothing_is_refused(batch: int, length: int) -> None:
    with pytest.raises(ValueError, match=r"1 or more.*got 0"):
        Workload(batch, length)


@pytest.mark.parametrize(
    ("mark", "batch", "length"),
    [("b32", 32, "data"), ("l128", 4, 128), ("b8-l64", 8, 64), ("b1-ldata", 1, "data"), ("ldata", 4, "data")],
)
def test_a_suffix_names_another_workload_by_what_differs(mark: str, batch: int, length: int | str) -> None:
    workload = other(Workload(4, "data", seed=3), mark)
    assert (workload.batch, workload.length, workload.seed) == (batch, length, 3)
    whole = f"b{workload.batch}-l{workload.length}"
    assert other(Workload(), whole) == Workload(workload.batch, workload.length)


@pytest.mark.parametrize(
    ("mark", "device", "batch"), [("cpu", "cpu", 4), ("cuda-b32", "cuda", 32), ("b8", None, 8), ("cuda-l64", "cuda", 4)]
)
def test_a_suffix_may_name_a_device(mark: str, device: str | None, batch: int) -> None:
    assert (device_of_mark(mark), other(Workload(4, "data"), mark).batch) == (device, batch)


@pytest.mark.parametrize(
    "mark", ["tpu", "b8-cuda", "cuda-cpu", "cudab8", "", "-", "32", "b", "b0", "l0", "b8-", "-l8", "b8l8x", "l8-b8"]
)
def test_a_suffix_that_names_none_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="b<batch>"):
        other(Workload(), mark)


def test_rows_that_belong_together_are_one_of_a_batch() -> None:
    lengths, together = [9, 9, 9, 4, 20, 6], [3, 1, 2]  # three questions, of 3, 1 and 2 windows
    batches = inputs(Workload(batch=1, length="data"), NAMES, Frame(50), lengths, together)
    row_lengths = [batch["attention_mask"].sum(1).tolist() for batch in batches]
    assert {tuple(one) for one in row_lengths} == {(9, 9, 9), (4,), (20, 6)}
    assert max(map(row_lengths.count, row_lengths)) <= 6, "as often as each other"
    for batch in inputs(Workload(batch=2, length=7), NAMES, Frame(50), lengths, together):
        rows, length = batch["input_ids"].shape
        assert length == 7 and 2 <= rows <= 6 and batch["attention_mask"].all()


def test_rows_that_each_stand_alone_are_as_without_a_word_of_it() -> None:
    load = Workload(3, "data")
    plain, alone = (inputs(load, NAMES, Frame(50), range(1, 30), together) for together in ((), [1] * 29))
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(plain, alone, strict=True) for name in NAMES)
    with pytest.raises(ValueError, match="together must sum to the 29 lengths, got 30"):
        inputs(load, NAMES, Frame(50), range(1, 30), [15, 15])
