"""Searches that are killed, interrupted, started twice, out of time or out of disk: nothing finished is lost."""

from __future__ import annotations

import signal
from pathlib import Path

import command
from conftest import STUDY, state_of

from objectives import campaign
from search.deliver.read_study import read_study
from search.deliver.study_attributes import SPENT
from search.propose.study import attribute

from .gone_on import finished_well, kept

TRIALS = 5  # three baselines, and two that are trained
PLAIN_TRIALS = 3  # with command.PLAIN: one baseline, and two that are trained


def run(config: Path, folder: Path, *more: object, anew: bool = False) -> command.Started:
    return command.Started("run", config, "--trials", TRIALS, *more, cwd=folder, anew=anew)


def run_plain(config: Path, folder: Path, *more: object, anew: bool = False) -> command.Started:
    plain = (*command.PLAIN, "--trials", PLAIN_TRIALS)
    return command.Started("run", config, *plain, *more, cwd=folder, anew=anew)


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
    baselines_s = attribute(mlruns, STUDY, SPENT)
    again = run(config, tmp_path).until("recovery ...")
    assert not any("teacher ..." in line or "eager: preparing" in line for line in again.seen)
    again.until("timing ...").kill_parent().end()
    state = kept(mlruns, state)
    run(config, tmp_path).until("exporting ...").send(signal.SIGKILL).end()
    state = kept(mlruns, state)
    assert len(state.outcomes) == TRIALS
    spent_s = attribute(mlruns, STUDY, SPENT)
    assert spent_s > baselines_s > 0
    ended = run(config, tmp_path).end()
    assert read_study(mlruns, STUDY)[1].seconds > spent_s
    assert "recovery ..." not in ended.out
    assert kept(mlruns, state).outcomes == state.outcomes
    finished_well(mlruns, ended, TRIALS)


def test_ctrl_c_before_the_first_trial_ends_cleanly_and_the_study_can_go_on(config: Path, tmp_path: Path) -> None:
    """And while it runs, the same study cannot be started a second time."""
    first = run_plain(config, tmp_path, "--set", "teacher.epochs=10000", anew=True).until("teacher ...")
    second = command.search("run", config, cwd=tmp_path)
    assert second.code == 2
    assert f"--study {STUDY}: must not be running already, and process {first.process.pid} is running" in second.err
    assert len(second.err.splitlines()) == 1
    ended = first.send(signal.SIGINT).end()
    assert (ended.code, ended.err) == (1, "interrupted; the same command goes on where this one stopped\n")
    assert not (tmp_path / "mlruns" / "exports").exists()

    ended = run_plain(config, tmp_path).until("recovery ...").send(signal.SIGINT).end().succeeded()
    assert "stopped by Ctrl-C; exporting the front so far (the same command goes on)" in ended.out
    assert ended.err == "" and "fastest" in ended.out
    assert (tmp_path / "mlruns" / "exports" / STUDY / "front.json").is_file()
    finished_well(tmp_path / "mlruns", run_plain(config, tmp_path).end(), PLAIN_TRIALS)


def test_the_time_limit_holds_with_the_export(config: Path, tmp_path: Path) -> None:
    """More trials than there is time for; what is asked for is the limit, not a share of it."""
    limit_s = 15
    limits = ("--trials", 500, "--timeout", limit_s)
    ended = command.search("run", config, *limits, cwd=tmp_path, sets=campaign.SETS).succeeded()
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
