"""Searches that weigh and limit more than accuracy and latency, or train in another way, through the real command."""

from __future__ import annotations

from pathlib import Path

import command
import pytest
from conftest import STUDY, state_of

LATER = ("--set", "budget.trials=4", "--set", "space.distill=off")


def test_other_workloads_devices_threads_and_limits(config: Path, tmp_path: Path) -> None:
    ended = command.search(
        "run",
        config,
        *LATER,
        *("--set", "objectives=[metric, latency_p50_ms, size_mb, latency_p50_ms/cpu-b4]"),
        *("--set", "limits.others={latency_p50_ms/b2: 0.000001, throughput_per_s: 1}"),
        *("--set", "workload.threads=1"),
        cwd=tmp_path,
    )
    assert (ended.code, ended.err) == (1, "no trial is complete and inside the limits; nothing was exported\n")
    outcomes = state_of(tmp_path / "mlruns").outcomes
    assert len(outcomes) == 4 and {o.status for o in outcomes} == {"complete"}
    for outcome in outcomes:
        timed = outcome.measurements["latency_p50_ms/cpu-b4"]
        assert (timed.conditions["device"], timed.conditions["batch"], timed.conditions["threads"]) == ("cpu", 4, 1)
        [broken] = outcome.limits_broken
        assert broken.startswith("latency_p50_ms/b2 ") and broken.endswith(" ms is over the limit of 1e-06 ms")


def test_every_term_of_the_recovery_trains_and_stops(config: Path, tmp_path: Path) -> None:
    ended = command.search(
        "run",
        config,
        *("--set", "budget.trials=4", "--set", "space.distill.layers=1", "--set", "space.prune.flops=0.5"),
        *("--set", "recover.block_weight=0.5", "--set", "recover.relation_weight=0.5"),
        *("--set", "recover.early_stopping=1", "--set", "teacher.early_stopping=2"),
        cwd=tmp_path,
    ).succeeded()
    assert "recovery ..." in ended.out
    trained = [o for o in state_of(tmp_path / "mlruns").outcomes if o.recipe.recover]
    assert trained and all(o.status == "complete" for o in trained)
    assert trained[0].recipe.recover["relation_weight"] == 0.5
    assert (tmp_path / "mlruns" / "exports" / STUDY / "front.json").is_file()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("objectives=[metric, latency_p50_ms/cuda]", "objectives"),
        ("limits.others={latency_p50_ms/cuda-b8: 1}", "limits"),
    ],
)
def test_a_device_that_is_not_here_is_refused(config: Path, tmp_path: Path, override: str, key: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    refused = command.search("run", config, "--set", override, cwd=tmp_path)
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert key in refused.err and "must name a device of this machine" in refused.err
    assert not (tmp_path / "mlruns").exists()


def test_an_objective_that_this_machine_cannot_give_fails_with_its_name(config: Path, tmp_path: Path) -> None:
    command.search("run", config, *LATER, "--set", "objectives=[metric, device_p50_ms]", cwd=tmp_path)
    outcomes = state_of(tmp_path / "mlruns").outcomes
    assert outcomes and all("did not give device_p50_ms" in o.reason for o in outcomes if o.status == "failed")
    assert {o.status for o in outcomes} == {"failed"}
