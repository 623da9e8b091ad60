"""What holds of a search that was ended on its way and went on, whatever its task."""

from __future__ import annotations

from pathlib import Path

import command
from conftest import STUDY, State, state_of


def kept(mlruns: Path, before: State) -> State:
    """What there is now. Asserts that it holds all of `before`, unchanged."""
    now = state_of(mlruns)
    assert {name: now.entries.get(name) for name in before.entries} == dict(before.entries)
    assert now.outcomes[: len(before.outcomes)] == before.outcomes
    return now


def finished_well(mlruns: Path, ended: command.Ended, trials: int) -> None:
    """The search is whole: every number once, every recipe once, every trial once in MLflow, and no leftovers."""
    import mlflow

    from search.track.tracker import tracking_uri

    ended.succeeded()
    outcomes = state_of(mlruns).outcomes
    assert [o.status for o in outcomes] == ["complete"] * trials, [o.reason for o in outcomes]
    assert len({o.number for o in outcomes}) == len({o.recipe.digest for o in outcomes}) == trials
    client = mlflow.MlflowClient(tracking_uri(mlruns))
    runs = client.search_runs([client.get_experiment_by_name(STUDY).experiment_id])
    ends = {run.info.run_name: run.info.status for run in runs}
    assert set(ends.values()) == {"FINISHED"}, (ends, ended.out)
    names = sorted(run.info.run_name for run in runs if "mlflow.parentRunId" in run.data.tags)
    assert names == sorted(f"trial-{o.number}" for o in outcomes) and len(runs) == trials + 1
    assert [*mlruns.glob("cache/*/.*"), *mlruns.glob("exports/**/.*"), *mlruns.glob("locks/*")] == []
    assert (mlruns / "exports" / STUDY / "front.json").is_file()
