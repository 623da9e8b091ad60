"""Searches that are killed, interrupted, started twice, out of time or out of disk: nothing finished is lost."""

from __future__ import annotations

import signal
from pathlib import Path

import command
from conftest import STUDY, State, state_of

TRIALS = 5  # three baselines, and two that are trained


def run(config: Path, folder: Path, *more: object, anew: bool = False) -> command.Started:
    return command.Started("run", config, "--trials", TRIALS, *more, cwd=folder, anew=anew)


def kept(mlruns: Path, before: State) -> State:
    """What there is now. Asserts that it holds all of `before`, unchanged."""
    now = state_of(mlruns)
    assert {name: now.entries.get(name) for name in before.entries} == dict(before.entries)
    assert now.outcomes[: len(before.outcomes)] == before.outcomes
    return now


def finished_well(mlruns: Path, ended: command.Ended) -> None:
    """The search is whole: every number once, every recipe once, every trial once in MLflow, and no leftovers."""
    import mlflow

    from search.track.tracker import tracking_uri

    ended.succeeded()
    outcomes = state_of(mlruns).outcomes
    assert [o.status for o in outcomes] == ["complete"] * TRIALS, [o.reason for o in outcomes]
    assert len({o.number for o in outcomes}) == len({o.recipe.digest for o in outcomes}) == TRIALS
    client = mlflow.MlflowClient(tracking_uri(mlruns))
    runs = client.search_runs([client.get_experiment_by_name(STUDY).experiment_id])
    ends = {run.info.run_name: run.info.status for run in runs}
    assert set(ends.values()) == {"FINISHED"}, (ends, ended.out)
    names = sorted(run.info.run_name for run in runs if "mlflow.parentRunId" in run.data.tags)
    assert names == sorted(f"trial-{o.number}" for o in outcomes) and len(runs) == TRIALS + 1
    assert [*mlruns.glob("cache/*/.*"), *mlruns.glob("exports/**/.*"), *mlruns.glob("locks/*")] == []
    assert (mlruns / "exports" / STUDY / "front.json").is_file()


def test_kills_at_any_moment_and_a_full_disk_lose_nothing_that_was_finished(config: Path, tmp_path: Path) -> None:
    mlruns = tmp_path / "mlruns"
    run(config, tmp_path).until("teacher ...").send(signal.SIGKILL).end()
    written = {str(path.parent): path.stat().st_mtime_ns for path in mlruns.glob("cache/*/*/entry.json")}
    assert any("/data/" in name for name in written) and not any("/teacher/" in name for name in written)
    on_a_full_disk(config, tmp_path, 300_000)  # in the databases, which are there when this goes on
    run(config, tmp_path).until("eager: timing ...").kill_parent().end()
    assert all(Path(name, "entry.json").stat().st_mtime_ns == written[name] for name in written)
    state = state_of(mlruns)
    run(config, tmp_path).until("recovery ...").send(signal.SIGKILL).end()
    state = kept(mlruns, state)
    assert len(state.outcomes) >= 3, "the baselines were told before anything was trained"
    again = run(config, tmp_path).until("recovery ...")
    assert not any("teacher ..." in line or "eager: preparing" in line for line in again.seen)
    again.until("timing ...").kill_parent().end()
    state = kept(mlruns, state)
    run(config, tmp_path).until("exporting ...").send(signal.SIGKILL).end()
    state = kept(mlruns, state)
    assert len(state.outcomes) == TRIALS
    ended = run(config, tmp_path).end()
    assert "recovery ..." not in ended.out
    assert kept(mlruns, state).outcomes == state.outcomes
    finished_well(mlruns, ended)


def test_ctrl_c_before_the_first_trial_ends_cleanly_and_the_study_can_go_on(config: Path, tmp_path: Path) -> None:
    """And while it runs, the same study cannot be started a second time."""
    first = run(config, tmp_path, "--set", "teacher.epochs=10000", anew=True).until("teacher ...")
    second = command.search("run", config, cwd=tmp_path)
    assert second.code == 2
    assert f"--study {STUDY}: must not be running already, and process {first.process.pid} is running" in second.err
    assert len(second.err.splitlines()) == 1
    ended = first.send(signal.SIGINT).end()
    assert (ended.code, ended.err) == (1, "interrupted; the same command goes on where this one stopped\n")
    assert not (tmp_path / "mlruns" / "exports").exists()

    ended = run(config, tmp_path).until("recovery ...").send(signal.SIGINT).end().succeeded()
    assert "stopped by Ctrl-C; exporting the front so far (the same command goes on)" in ended.out
    assert ended.err == "" and "fastest" in ended.out
    assert (tmp_path / "mlruns" / "exports" / STUDY / "front.json").is_file()
    finished_well(tmp_path / "mlruns", run(config, tmp_path).end())


def test_the_time_limit_holds_with_the_export(config: Path, tmp_path: Path) -> None:
    """More trials than there is time for; what is asked for is the limit, not a share of it."""
    limit_s = 25
    ended = command.search("run", config, "--trials", 500, "--timeout", limit_s, cwd=tmp_path).succeeded()
    assert f"stopped by the time limit of {limit_s} s" in ended.out
    assert 10 < ended.seconds < limit_s + 20  # to start takes 10 s by itself on a slow machine
    assert (tmp_path / "mlruns" / "exports" / STUDY / "front.json").is_file()


def on_a_full_disk(config: Path, folder: Path, size: int) -> None:
    """A search ends with one clear error; a limit on the size of a file fails writes as a full disk does."""
    ended = command.search("run", config, "--trials", TRIALS, cwd=folder, largest_file=size)
    assert ended.code == 1, ended.out
    assert ended.err.startswith("failed: nothing more can be written (is the disk full?): ")
    assert len(ended.err.splitlines()) == 2 and "Traceback" not in ended.err
    assert not list((folder / "mlruns").glob("cache/*/.*"))


def test_a_disk_that_is_full_in_the_first_stage_is_one_clear_error(config: Path, tmp_path: Path) -> None:
    on_a_full_disk(config, tmp_path, 20_000)
