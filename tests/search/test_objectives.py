"""Searches that weigh and limit more than accuracy and latency, or train in another way, through the real command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import pytest
import tiny
from conftest import STUDY, state_of

from objectives import clock, energy
from search.config.load import load_config
from search.config.schema import LimitsConfig
from search.errors import UserError
from search.planning import plan_lines
from search.prepare import machine, runner
from search.space.choices import names

LATER = ("--set", "budget.trials=2", "--set", "space.distill=off", *command.PLAIN)


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
    assert len(outcomes) == 2 and {o.status for o in outcomes} == {"complete"}
    for outcome in outcomes:
        timed = outcome.measurements["latency_p50_ms/cpu-b4"]
        assert (timed.conditions["device"], timed.conditions["batch"], timed.conditions["threads"]) == ("cpu", 4, 1)
        [broken] = outcome.limits_broken
        assert broken.startswith("latency_p50_ms/b2 ") and broken.endswith(" ms is over the limit of 1e-06 ms")


#: A baseline and one model that is trained again, without a graph.
ONE_RECOVERY = (
    *("--set", "budget.trials=2", *command.PLAIN),
    *("--set", "space.distill.layers=1", "--set", "space.prune.flops=0.5"),
    *("--set", "recover.early_stopping=1", "--set", "teacher.early_stopping=8"),
)


def test_every_term_of_the_recovery_trains_and_stops(config: Path, tmp_path: Path) -> None:
    both = ("--set", "recover.block_weight=0.5", "--set", "recover.relation_weight=0.5")
    ended = command.search("run", config, *ONE_RECOVERY, *both, cwd=tmp_path).succeeded()
    assert "recovery ..." in ended.out
    [trained] = [o for o in state_of(tmp_path / "mlruns").outcomes if o.recipe.recover]
    assert trained.status == "complete" and trained.recipe.recover["relation_weight"] == 0.5
    assert (tmp_path / "mlruns" / "exports" / STUDY / "front.json").is_file()
    for term in ("block_weight", "relation_weight"):
        alone = ("--study", term, "--set", f"recover.{term}=0.5")
        command.search("run", config, *ONE_RECOVERY, *alone, cwd=tmp_path).succeeded()
        [plain] = [o for o in state_of(tmp_path / "mlruns", term).outcomes if o.recipe.recover]
        assert plain.recipe.steps == trained.recipe.steps
        assert plain.weights_sha256 != trained.weights_sha256, "the other term changed the weights"


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


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("objectives=[metric, device_p50_ms]", ["--set objectives", "got device_p50_ms", "CUDA"]),
        ("objectives=[metric, energy_mj]", ["--set objectives", "got energy_mj", "no energy counter"]),
        ("limits.others={energy_mj: 3}", ["--set limits", "got energy_mj", "no energy counter"]),
    ],
)
def test_an_objective_that_the_device_cannot_give_is_refused_before_anything_is_read(
    config: Path, override: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with pytest.raises(UserError) as refused:
        machine.context_of(load_config(config, [override], names()))
    assert all(text in str(refused.value) for text in wanted), refused.value


def test_an_objective_that_the_device_can_give_is_not_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("1")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    assert machine.context_of(load_config(config, ["objectives=[metric, energy_mj]"], names())).device == "cpu"


@pytest.mark.parametrize(
    ("section", "name"),
    [("objectives", "roofline_fraction"), ("objectives", "cache_kb_per_token"), ("limits", "cache_mb")],
)
def test_what_is_counted_from_layers_is_refused_of_a_model_whose_layers_are_not_known(
    config: Path, tmp_path: Path, section: str, name: str
) -> None:
    chosen = load_config(config, [f"model.name={tiny.unknown(tmp_path / 'albert')}", "space=null"], names())
    wanted: dict[str, Any] = {"objectives": ("metric", "latency_p50_ms", name)}
    if section == "limits":
        wanted = {"limits": LimitsConfig(others={name: 1.0})}
    chosen = replace(chosen, **wanted, mlruns=str(tmp_path / "mlruns"))
    trained: list[str] = []
    said = rf"{section}.*: must be measurable of this model, got {name}: .* counted from the sizes of its layers"
    with pytest.raises(UserError, match=said):
        runner.prepare(chosen, lambda stage, done: trained.append(stage))
    assert not any("teacher" in stage for stage in trained)
    with pytest.raises(UserError, match=said):
        next(plan_lines(chosen))


def test_what_a_gpu_does_at_the_moment_is_in_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock moves between any two looks; with it in a key nothing of an earlier trial is found again."""
    clocks = iter(("345 MHz", "1980 MHz"))
    monkeypatch.setattr(clock, "nvidia_gpus", lambda: [{"name": "NVIDIA H100", "clocks.sm": next(clocks)}])
    first, second = machine.environment_of("cuda"), machine.environment_of("cuda")
    assert first == second and first["gpu"] == [{"name": "NVIDIA H100"}]


def test_a_gpu_that_an_objective_names_is_part_of_the_machine(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "nvidia_gpus", lambda: [{"name": "NVIDIA H100"}])
    chosen = replace(
        load_config(config, [], names()), objectives=("metric", "latency_p50_ms", "latency_p50_ms/cuda-b8")
    )
    assert machine.devices_beside(chosen, "cpu") == ["cuda"] and machine.devices_beside(chosen, "cuda") == []
    with_it, without = machine.environment_of("cpu", ["cuda"]), machine.environment_of("cpu")
    assert clock.machine_difference(with_it, without) == "gpu: NVIDIA H100 there, none here"
