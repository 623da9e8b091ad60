"""Laws of the table of latencies, on made-up machines whose times are known."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from objectives.arrays import Floats
from objectives.latency_table import LatencyTable
from objectives.shapes import Shapes, features

CONDITIONS = {"device": "cpu", "fingerprint": "abc", "threads": 2, "batch": 1, "length": 32}
DEPLOYMENT = "onnx/fp32"
NOISE = 0.02


def drawn(count: int, seed: int) -> Shapes:
    """Random encoders: depth, heads and neurons cut, some with every matrix factored."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(1, 7, count).astype(float)
    hidden = 32.0 * rng.integers(6, 13, count)
    heads, neurons = 32.0 * rng.integers(3, 13, count), 192.0 * rng.integers(1, 9, count)
    kinds = [(3, hidden, heads), (1, heads, hidden), (1, hidden, neurons), (1, neurons, hidden)]
    factored = rng.random(count) < 0.4
    share = rng.uniform(0.2, 0.9, count)
    counts, inputs, outputs = [], [], []
    for times, a, b in kinds:
        rank = share * a * b / (a + b)
        counts += [times * blocks, np.where(factored, times * blocks, 0)]
        inputs += [a, rank]
        outputs += [np.where(factored, rank, b), b]
    zeros = np.zeros(count)
    return Shapes(
        *(np.stack(part, 1) for part in (counts, inputs, outputs)),
        blocks=blocks,
        attention=blocks * heads,
        hidden=hidden,
        row_weights=2 * hidden,
        row_matrices=zeros + 1,
        tables=zeros,
        vectors=zeros,
        tied=zeros,
        step_bytes=zeros,
        cache_bytes=zeros,
    )


#: Milliseconds of each cost (`objectives.shapes.COSTS`) of a machine.
MACHINE = np.array([0.4, 0.06, 0.012, 3e-8, 1.5e-7, 4e-7, 2e-7, 1e-7, 1e-6])


def additive(shapes: Shapes) -> Floats:
    """A sum of costs and an overhead."""
    return features(shapes, 1, 32) @ MACHINE


def real(shapes: Shapes) -> Floats:
    """A machine that is not: weights beyond a cache cost double, and every block has a speed that its shape decides."""
    weights = shapes.weights
    shape = np.stack([shapes.outputs[:, 4], shapes.attention, shapes.hidden], 1)
    whims = np.sin(shape @ np.array([0.37, 0.11, 0.53]))
    return (additive(shapes) + 1.5e-7 * np.maximum(0, weights - 4e6)) * np.exp(NOISE * whims)


def filled(folder: Path, shapes: Shapes, ms: Floats, error: float, deployment: str = DEPLOYMENT) -> LatencyTable:
    table = LatencyTable(folder, CONDITIONS)
    for i, value in enumerate(ms):
        table.add(deployment, shapes[i : i + 1], value, error)
    return table


def test_an_additive_machine_is_learnt_from_a_dozen_models(tmp_path: Path) -> None:
    for seed in range(4):
        shapes, unseen = drawn(12, seed), drawn(200, 100 + seed)
        table = filled(tmp_path / str(seed), shapes, additive(shapes), 0.005)
        off = np.abs(np.exp(table.predict(DEPLOYMENT, unseen)[0]) / additive(unseen) - 1)
        assert off.mean() < 0.02


@pytest.mark.parametrize("entries", [8, 16, 40])
def test_the_table_knows_its_own_error(tmp_path: Path, entries: int) -> None:
    inside, off = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        shapes, unseen = drawn(entries, seed), drawn(100, 100 + seed)
        table = filled(tmp_path / str(seed), shapes, real(shapes) * np.exp(0.01 * rng.normal(size=entries)), 0.01)
        log_ms, sd = table.predict(DEPLOYMENT, unseen)
        error = log_ms - np.log(real(unseen))
        inside.append(np.abs(error) <= 2 * sd)
        off.append(np.abs(error))
    assert 0.90 <= np.mean(inside) <= 1.0
    # Wide enough would be easy: the error must also be worth knowing.
    assert np.mean(off) < {8: 0.08, 16: 0.05, 40: 0.035}[entries]


def test_the_error_grows_with_the_distance_from_what_was_measured(tmp_path: Path) -> None:
    shapes = drawn(20, 0)
    table = filled(tmp_path, shapes, real(shapes), 0.01)
    far = replace(shapes, outputs=shapes.outputs * 4, hidden=shapes.hidden * 4, inputs=shapes.inputs * 4)
    at = table.predict(DEPLOYMENT, shapes)[1]
    near = table.predict(DEPLOYMENT, replace(shapes, outputs=shapes.outputs * 1.1))[1]
    assert at.mean() < near.mean() < table.predict(DEPLOYMENT, far)[1].mean()


@pytest.mark.parametrize("size", ["count", "inputs", "outputs", "blocks", "attention", "hidden", "row_weights"])
def test_a_model_of_which_any_size_is_larger_takes_no_less_time(tmp_path: Path, size: str) -> None:
    shapes, unseen = drawn(16, 1), drawn(100, 2)
    table = filled(tmp_path, shapes, additive(shapes), 0.005)
    larger = replace(unseen, **{size: getattr(unseen, size) * 1.5})
    assert (table.predict(DEPLOYMENT, larger)[0] >= table.predict(DEPLOYMENT, unseen)[0] - 0.005).all()


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_a_measured_model_is_given_back_within_its_error(tmp_path: Path, factor: float) -> None:
    shapes, other = drawn(15, 3), drawn(1, 50)
    table = filled(tmp_path, shapes, real(shapes), 0.01)
    before, unsure = table.predict(DEPLOYMENT, other)
    time_ms = float(real(other)[0] * factor)
    table.add(DEPLOYMENT, other, time_ms, 0.01)
    after, sure = table.predict(DEPLOYMENT, other)
    assert abs(after[0] - np.log(time_ms)) <= 2 * 0.01
    assert sure[0] < unsure[0] or factor != 1.0
    assert abs(after[0] - np.log(time_ms)) <= abs(before[0] - np.log(time_ms)) + 0.01


def test_what_was_measured_twice_is_one_model_with_the_wider_error_where_the_two_disagree(tmp_path: Path) -> None:
    shapes = drawn(10, 4)
    table = filled(tmp_path, shapes, additive(shapes), 0.01)
    for row in (shapes[:1], shapes[:1]):
        table.add(DEPLOYMENT, row, float(additive(row)[0]), 0.01)
    agreed = table.predict(DEPLOYMENT, shapes[:1])[1]
    assert table.entries(DEPLOYMENT) == 10
    table.add(DEPLOYMENT, shapes[:1], float(additive(shapes[:1])[0]) * 1.2, 0.01)
    assert table.entries(DEPLOYMENT) == 10
    assert table.predict(DEPLOYMENT, shapes[:1])[1] > agreed


def test_a_deployment_without_measurements_has_a_wide_error_and_with_another_a_better_order(tmp_path: Path) -> None:
    shapes, unseen = drawn(20, 5), drawn(50, 6)
    table = LatencyTable(tmp_path, CONDITIONS)
    log_ms, nothing = table.predict("eager/fp32", unseen)
    assert np.isfinite(log_ms).all() and (nothing > 1).all()
    table = filled(tmp_path, shapes, additive(shapes), 0.01)
    log_ms, borrowed = table.predict("eager/fp32", unseen)
    assert (borrowed < nothing).all() and (borrowed > 0.3).all()
    assert np.corrcoef(log_ms, np.log(additive(unseen)))[0, 1] > 0.99


def test_another_deployment_teaches_proportions_from_the_first_measurement_on(tmp_path: Path) -> None:
    shapes, unseen = drawn(20, 7), drawn(100, 8)
    table = filled(tmp_path, shapes, additive(shapes), 0.01)
    table = filled(tmp_path, shapes[:3], 1.7 * additive(shapes[:3]), 0.01, "eager/fp32")
    off = np.abs(np.exp(table.predict("eager/fp32", unseen)[0]) / (1.7 * additive(unseen)) - 1)
    assert off.mean() < 0.05


def add_many(folder: Path, seed: int) -> None:
    shapes = drawn(50, seed)
    filled(folder, shapes, additive(shapes), 0.01, f"deployment {seed}")


def test_two_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    started = [spawn.Process(target=add_many, args=(tmp_path, seed)) for seed in (1, 2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    table = LatencyTable(tmp_path, CONDITIONS)
    wanted = [len({str(row) for row in drawn(50, seed).to_json()}) for seed in (1, 2)]
    assert [table.entries("deployment 1"), table.entries("deployment 2")] == wanted


@pytest.mark.parametrize(
    "damage",
    [
        '{"deployment": "onnx/fp32", "sha',
        "not json",
        '{"deployment": "onnx/fp32", "shape": {}, "ms": 1.0, "error": 0.1}',
        "[1, 2]",
        "\x00\x01",
        '{"deployment": "onnx/fp32", "shape": null, "ms": NaN, "error": 0.1}',
    ],
)
def test_a_damaged_line_is_skipped_and_what_comes_after_it_is_not(tmp_path: Path, damage: str) -> None:
    shapes = drawn(6, 9)
    table = filled(tmp_path, shapes[:3], additive(shapes[:3]), 0.01)
    with table.path.open("a") as file:
        file.write(damage)  # whoever wrote it was killed before the line break
    assert table.entries(DEPLOYMENT) == 3
    filled(tmp_path, shapes[3:], additive(shapes[3:]), 0.01)
    assert table.entries(DEPLOYMENT) == LatencyTable(tmp_path, CONDITIONS).entries(DEPLOYMENT) == 6


def test_other_conditions_are_another_table(tmp_path: Path) -> None:
    shapes = drawn(3, 10)
    filled(tmp_path, shapes, additive(shapes), 0.01)
    others = {"threads": 1, "batch": 8, "length": "data", "fingerprint": "def", "fed": "0123"}
    for changed in ({name: value} for name, value in (*others.items(), ("length", 64))):
        assert LatencyTable(tmp_path, {**CONDITIONS, **changed}).entries(DEPLOYMENT) == 0
    assert LatencyTable(tmp_path, {**CONDITIONS, "noisy": "yes"}).entries(DEPLOYMENT) == 3


@pytest.mark.parametrize(("rows", "ms", "error"), [(2, 1.0, 0.1), (1, 0.0, 0.1), (1, float("nan"), 0.1), (1, 1.0, -1)])
def test_what_is_no_measurement_is_not_added(tmp_path: Path, rows: int, ms: float, error: float) -> None:
    table = LatencyTable(tmp_path, CONDITIONS)
    with pytest.raises(ValueError, match="must be"):
        table.add(DEPLOYMENT, drawn(rows, 0), ms, error)
    assert table.deployments == ()


def test_one_model_takes_under_a_millisecond_and_thousands_little_more(tmp_path: Path) -> None:
    shapes, one, many = drawn(40, 11), drawn(1, 12), drawn(5000, 13)
    table = filled(tmp_path, shapes, real(shapes), 0.01)
    table.predict(DEPLOYMENT, one)

    def best(pool: Shapes, times: int) -> float:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            table.predict(DEPLOYMENT, pool)
            taken.append(time.perf_counter() - began)
        return min(taken)

    # Ten times what is promised: a test is no benchmark, and the machine may be busy.
    assert best(one, 50) < 0.01
    assert best(many, 5) < 0.25
