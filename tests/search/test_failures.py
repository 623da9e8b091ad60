"""What goes wrong in a trial, and what goes wrong in the program: a status, a second try, or the end of the run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command
import pytest
from conftest import STUDY, state_of

from objectives.process import RemoteDied, RemoteError, RemoteTimeout
from search import run_log
from search.cli.terminal import failure
from search.failures import OWN_PACKAGES, is_ours, is_transient, of_the_candidate, retry_once
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome, Target
from search.loop import Job, explore
from search.prepare import runner
from search.propose import assembly
from search.propose.surrogate.latency_predictor import UnknownAnatomy
from spaces.errors import Infeasible
from spaces.recipe import Recipe, Step

TARGETS = (Target("accuracy", "higher"), Target("latency_p50_ms", "lower"))


def crossed(error: Exception, file: Path | str) -> Exception:
    """`error` as it comes from a worker in which `file` raised it."""
    error.raised_in = str(file)  # type: ignore[attr-defined]
    return error


OURS, THEIRS = OWN_PACKAGES[1] / "build.py", "/site-packages/torch/nn/functional.py"


@pytest.mark.parametrize(
    "error",
    [
        Infeasible("no such kernel"),
        RemoteDied(-9),
        RemoteTimeout(3.0),
        RemoteError("words"),
        MemoryError(),
        OSError(errno.EIO, "input/output error"),
        ArithmeticError("other outputs"),
        LookupError("this machine did not give energy"),
        crossed(TypeError("in a library, over a candidate's values"), THEIRS),
        crossed(ValueError("of a candidate"), OURS),
    ],
)
def test_what_a_candidate_may_do_is_its_failure(error: Exception) -> None:
    assert of_the_candidate(error) and not is_ours(error)


@pytest.mark.parametrize(
    "error",
    [TypeError("a"), KeyError("b"), AttributeError("c"), AssertionError(), NameError("d"), ValueError("e")],
)
def test_anything_else_in_the_search_s_own_process_is_an_error_of_the_program(error: Exception) -> None:
    assert not of_the_candidate(error)


@pytest.mark.parametrize("error", [TypeError("a"), KeyError("b"), AttributeError("c"), AssertionError()])
def test_a_mistake_in_our_code_in_a_worker_is_an_error_of_the_program(error: Exception) -> None:
    assert not of_the_candidate(crossed(error, OURS)) and is_ours(error)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (MemoryError(), True),
        (RemoteDied(-9), True),
        (RemoteDied(-11), True),
        (ConnectionResetError(), True),
        (EOFError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RemoteError("RuntimeException: std::bad_alloc"), True),
        (Infeasible("torch.compile failed: CUDA out of memory"), True),
        (RemoteTimeout(3.0), False),
        (Infeasible("no such kernel"), False),
        (RuntimeError("shapes do not match"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ArithmeticError("other outputs"), False),
    ],
)
def test_short_memory_and_lost_processes_pass_and_nothing_else_does(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def failing(*errors: Exception) -> Callable[[], str]:
    """Work that raises each of `errors` in turn, and then is done."""
    left = iter(errors)

    def work() -> str:
        for error in left:
            raise error
        return "done"

    return work


def test_work_is_tried_once_more_and_no_more() -> None:
    assert retry_once(failing(RemoteDied(-9)), "it") == "done"
    with pytest.raises(MemoryError):
        retry_once(failing(RemoteDied(-9), MemoryError()), "it")
    with pytest.raises(RemoteTimeout):
        retry_once(failing(RemoteTimeout(1.0)), "it")
    with pytest.raises(RemoteDied):
        retry_once(failing(RemoteDied(-9)), "it", may_retry=lambda: False)


def test_only_a_model_whose_layers_are_not_known_leaves_the_sampler_without_knowledge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(error: Exception) -> Callable[..., Any]:
        return lambda *_: failing(error)()

    nothing: Any = SimpleNamespace(time_objective=LATENCY)
    monkeypatch.setattr(assembly, "LatencyPredictor", refuse(UnknownAnatomy("no shape")))
    assert assembly.cost_model_of(nothing, nothing, nothing) is None
    monkeypatch.setattr(assembly, "LatencyPredictor", refuse(ValueError("costs must be four numbers")))
    with pytest.raises(ValueError, match="four numbers"):
        assembly.cost_model_of(nothing, nothing, nothing)


def test_a_lock_found_in_the_middle_of_a_run_is_said_without_the_statement() -> None:
    try:
        try:
            raise RuntimeError("(sqlite3.OperationalError) database is locked\n[SQL: UPDATE trials SET state=?]")
        except RuntimeError as cause:
            raise ValueError("An exception is raised during the commit.") from cause
    except ValueError as error:
        lines = failure(error)
    assert len(lines) == 2 and "another program holds a database" in lines[0] and "SQL" not in " ".join(lines)


class Jobs:
    """Two jobs, and what was told of them."""

    def __init__(self) -> None:
        self.told: list[Outcome] = []

    def __iter__(self) -> Iterator[Job]:
        for number in range(2):
            yield Job(Recipe("m", "", "t", (Step("distill", {"layers": number}),), {}, Step("eager")))

    def tell(self, outcome: Outcome) -> Outcome:
        self.told.append(outcome.numbered(len(self.told)))
        return self.told[-1]


def explored(observer: Callable[[Outcome, Front], None]) -> tuple[Jobs, list[int]]:
    jobs, later = Jobs(), []
    evaluate = lambda job: [Outcome(-1, job.recipe, "rejected", "enough")]  # noqa: E731
    explore(jobs, evaluate, Front(TARGETS), (observer, lambda outcome, front: later.append(outcome.number)))
    return jobs, later


@pytest.mark.parametrize("error", [RuntimeError("503 Service Unavailable"), ConnectionError("refused"), TypeError("x")])
def test_an_observer_that_fails_is_logged_and_the_search_goes_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outcome: Outcome, front: Front) -> None:
        raise error

    jobs, later = explored(fail)
    assert len(jobs.told) == 2 and later == [0, 1]
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error, error]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), crossed(TypeError("x"), OURS)])
def test_no_search_goes_on_over_a_full_disk_or_a_mistake_of_ours(error: Exception) -> None:
    def fail(outcome: Outcome, front: Front) -> None:
        raise error

    with pytest.raises(type(error)):
        explored(fail)


def test_two_runs_at_once_and_nothing_without_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import logging
    import threading

    ours = logging.getLogger("search.somewhere")

    def run(name: str) -> None:
        with run_log.run_log(tmp_path, name), run_log.about("trial 7"):
            ours.info("about %s\nin two lines", name)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ours.error("nobody listens")
    for name, other in (("a", "b"), ("b", "a")):
        text = run_log.log_path(tmp_path, name).read_text()
        assert f"INFO [trial 7] about {name}" in text and f"about {other}" not in text
    assert capfd.readouterr() == ("", "")


def test_a_log_that_is_too_large_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "LARGEST_BYTES", 10)
    for _ in range(3):
        with run_log.run_log(tmp_path, "a"):
            pass
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["a.log", "a.log.1"]


#: The program with an error planted in `Measurer.measured`: a mistake of ours, or a process that dies.
PLANTED = """
import sys

from objectives.process import RemoteDied
from search.cli import main
from search.measure.measurer import Measurer

error, *arguments = sys.argv[1:] or [""]
real, calls = Measurer.measured, []


def measured(measurer, recipe, folder):
    calls.append(recipe)
    if error == "mistake" and len(calls) == 2:
        raise TypeError("planted")
    if error == "death" and recipe.recover:
        raise RemoteDied(-9)
    return real(measurer, recipe, folder)


if __name__ == "__main__":
    Measurer.measured = measured
    sys.exit(main.main(arguments))
"""


def test_a_mistake_ends_the_run_and_a_failure_does_not_and_is_tried_again_when_asked(
    config: Path, tmp_path: Path
) -> None:
    script = tmp_path / "planted.py"
    script.write_text(PLANTED)
    log = tmp_path / "mlruns" / "logs" / f"{STUDY}.log"
    command_line = ["run", str(config), "--trials", "2", *command.PLAIN]

    ended = command.forked(script, "mistake", *command_line, cwd=tmp_path, env=command.environment())
    assert ended.code == 1
    assert ended.err.splitlines() == [f"failed: TypeError: planted (the traceback is in {log})"]
    text = log.read_text()
    assert "TypeError: planted" in text and "in measured" in text and "torch" in text and '"trials": 2' in text
    assert "stage teacher: " in text
    before = state_of(tmp_path / "mlruns").outcomes
    assert [o.status for o in before] == ["complete"], "what was finished is kept, and the mistake is no trial's"

    shown = command.forked(script, "death", *command_line, cwd=tmp_path, env=command.environment()).succeeded().out
    assert f"1 failed: mlruns/logs/{STUDY}.log says why; run --retry-failed tries again" in shown
    *complete, failed = state_of(tmp_path / "mlruns").outcomes
    assert {o.status for o in complete} == {"complete"} and complete[0] == before[0]
    assert failed.status == "failed" and failed.reason.startswith("RemoteDied: its process died (killed by signal 9")
    assert failed.reason.endswith(f"(mlruns/logs/{STUDY}.log)")
    text = log.read_text()
    assert f"[recipe {failed.recipe.digest[:8]}]" in text and "is tried once more" in text
    assert f"ERROR [trial {failed.number}] Traceback" in text

    command.search(*command_line, cwd=tmp_path).succeeded()
    assert state_of(tmp_path / "mlruns").outcomes[-1] == failed, "not by itself"
    again = command.search(*command_line, "--retry-failed", cwd=tmp_path).succeeded()
    assert "failed" not in again.out.rpartition("2 trials")[2]
    outcomes = state_of(tmp_path / "mlruns").outcomes
    assert [o.status for o in outcomes] == ["complete"] * 2
    assert outcomes[-1].recipe == failed.recipe and outcomes[-1].number > failed.number


def test_a_stage_before_the_first_trial_is_tried_once_more_in_an_empty_folder(tmp_path: Path) -> None:
    from search.store.store import Store

    stages = runner.Stages(Store(tmp_path), lambda stage, done: None)
    folder = stages("teacher", {"number": 1}, die_once, tmp_path / "tried")
    assert sorted(path.name for path in folder.iterdir()) == ["entry.json", "whole"]


def die_once(folder: Path, tried: Path, progress: Any) -> None:
    (folder / "half").touch() if not tried.exists() else (folder / "whole").touch()
    if not tried.exists():
        tried.touch()
        os.kill(os.getpid(), 9)
