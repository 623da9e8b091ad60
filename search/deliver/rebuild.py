"""`python -m search apply`: builds a recorded model again from base model and recipe, and measures it here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from search.config.load import from_mapping, results_folder
from search.config.schema import RunConfig
from search.config.source import Source
from search.deadline import Clock
from search.deliver import verify as check
from search.deliver.best_config import BestConfig
from search.deliver.export import export_model
from search.errors import UserError
from search.execute.evaluate import Evaluator
from search.execute.executor import Job
from search.front.formatting import text, title
from search.front.front import Front
from search.prepare.runner import prepare
from search.report.progress import View
from search.space.choices import names


def config_of(record: BestConfig, path: Path, mlruns: Path) -> RunConfig:
    """The configuration that the record in the file `path` came from, with its results in `mlruns`.

    Raises:
        UserError: the configuration is not valid here.
    """
    config = from_mapping(record.config, names(), Source(str(path), path.absolute().parent))
    return replace(config, mlruns=str(mlruns))


def rebuild(config: RunConfig, record: BestConfig, target: Path, view: View) -> Iterator[str]:
    """Build the record's model, measure it and export it to `target`; yields lines that compare it with the record.

    Raises:
        UserError: the base model or the data are not those of the record.
        RuntimeError: the model could not be built or measured here.
    """

    def agree(parts: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Refuse another base model, or other data, before anything is trained."""
        model = parts["model"]["digest"]
        if model != record.recipe.base:
            raise UserError(
                f"{config.where('model.name')}: must be the model of the record, whose files have the digest "
                f"{record.recipe.base}, got {config.model.name} with {model}"
            )
        if parts["teacher"] == record.recipe.teacher:
            return
        raise UserError(
            f"{config.where('recipe.teacher')}: must be what {config.model.name} and the data make here, "
            f"got {record.recipe.teacher} in the file and {parts['teacher']} here: the data or the teacher's settings "
            "changed"
        )

    with results_folder(config):
        prepared = prepare(config, view.progress, agree=agree)
    clock = Clock(None)
    evaluate = Evaluator(prepared, view.progress, clock)
    outcome = next(iter(evaluate(Job(record.recipe)))).numbered(record.number)
    if outcome.status != "complete":
        raise RuntimeError(f"{outcome.status}: {outcome.reason}")
    folder = evaluate.weights(outcome.recipe)
    evaluate.measurer.complete(outcome.recipe, folder)
    opened = partial(evaluate.measurer.opened, outcome.recipe, folder)
    reference = check.write_reference(evaluate.measurer, outcome, folder, opened)
    study = replace(prepared.record(clock.seconds), checks={record.number: reference})
    export_model(Front(prepared.targets, (outcome,)), study, outcome, target, evaluate.measurer.exported)
    for name, before in record.measurements.items():
        if name in outcome.measurements:
            yield f"{title(name):<16}{text(before):>14} in the record {text(outcome.measurements[name]):>14} here"
