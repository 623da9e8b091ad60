"""The record of a study, stored as attributes of the study, from which `front` and `export` work later."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import clock as clocks
from objectives.estimate import Estimate
from objectives.measurement import Measurement
from search.config.schema import RunConfig
from search.front.final import Final
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.prepare.prepared import Prepared
from search.store.paths import located

#: Attributes of a study: the description of its last run, and which run was the last to end.
BEGUN, ENDED = "begun", "ended"
#: Attribute of a study: the reference latencies to which its trials are scaled.
REFERENCES = "references"
#: Attribute of a study: the seconds that its runs had taken at the end of the last trial.
SPENT = "spent_s"
#: The fields for `record_of` of a study without finalists.
NOTHING_FINAL: Mapping[str, Any] = {
    "seconds": 0.0,
    "final": Final().to_json(),
    "held_out": {},
    "checks": {},
    "weights_sha256": {},
    "remeasured": {},
}


def begin(prepared: Prepared, study: StudyRecord) -> None:
    """Store in the study what the commands `front` and `export` need before it ends."""
    from search.propose.study import set_attribute

    about = {
        "config": dict(study.config),
        "hardware": dict(study.hardware),
        "rows": dict(study.rows),
        "notes": list(study.notes),
        "run": uuid.uuid4().hex,
    }
    set_attribute(Path(prepared.config.mlruns), prepared.config.study, BEGUN, about)


def end(prepared: Prepared) -> None:
    """Mark the run of `begin` as ended."""
    from search.propose.study import attribute, set_attribute

    folder, name = Path(prepared.config.mlruns), prepared.config.study
    begun = attribute(folder, name, BEGUN)
    if begun is not None:
        set_attribute(folder, name, ENDED, begun["run"])


def keep_references(results: Path, name: str, references: Mapping[str, Estimate]) -> None:
    """Store the reference latencies with the study, so that every report scales latencies alike."""
    from search.propose.study import set_attribute

    values = {mark: list(estimate) for mark, estimate in references.items()}
    set_attribute(results, name, REFERENCES, values)


def read_references(values: Mapping[str, Sequence[float]] | None) -> dict[str, Estimate]:
    """The stored reference latencies by the mark of the workload; empty where there are none."""
    return {mark: Estimate(ms, low, high) for mark, (ms, low, high) in (values or {}).items()}


def save_record(prepared: Prepared, front: Front, study: StudyRecord) -> None:
    """Store in the study what the commands `front` and `export` need after it ended."""
    from search.propose.study import set_attribute

    about = {
        "config": dict(study.config),
        "hardware": dict(study.hardware),
        "rows": dict(study.rows),
        "notes": list(study.notes),
        "seconds": study.seconds,
        "trials": [outcome.number for outcome in front.outcomes],
        "held_out": _plain(study.held_out),
        "final": front.final.to_json(),
        "checks": {str(n): prepared.written(path) for n, path in study.checks.items()},
        "weights_sha256": {str(n): digest for n, digest in study.weights_sha256.items()},
        "remeasured": {str(n): outcome.to_json() for n, outcome in study.remeasured.items()},
    }
    set_attribute(Path(prepared.config.mlruns), prepared.config.study, "about", about)


def record_of(config: Mapping[str, Any], about: Mapping[str, Any]) -> StudyRecord:
    """The record in the fields that `save_record` stored; `config` names the results folder."""
    held_out = {int(n): {k: Measurement.from_json(m) for k, m in ms.items()} for n, ms in about["held_out"].items()}
    return StudyRecord(
        config,
        about["hardware"],
        rows=about["rows"],
        notes=tuple(about["notes"]),
        held_out=held_out,
        checks={int(n): located(Path(config["mlruns"]), path) for n, path in about["checks"].items()},
        weights_sha256={int(n): digest for n, digest in about["weights_sha256"].items()},
        remeasured={int(n): Outcome.from_json(outcome) for n, outcome in about["remeasured"].items()},
        seconds=about["seconds"],
    )


def keep_spent(config: RunConfig, seconds: float) -> None:
    """Store what all runs of the study have taken, so that the time of a run that is killed counts too."""
    from search.propose.study import set_attribute

    set_attribute(Path(config.mlruns), config.study, SPENT, seconds)


def spent_before(config: RunConfig) -> float:
    """Seconds that the earlier runs of this study took in all; of one that was killed, up to its last trial."""
    from search.propose.study import attribute

    folder = Path(config.mlruns)
    about = attribute(folder, config.study, "about") or {}
    return max(float(about.get("seconds", 0.0)), float(attribute(folder, config.study, SPENT) or 0.0))


def load_record(prepared: Prepared) -> tuple[StudyRecord, Final]:
    """The record and the campaign of an earlier run of this study on this machine; empty ones without one."""
    from search.propose.study import attribute

    about = attribute(Path(prepared.config.mlruns), prepared.config.study, "about")
    if about is None or clocks.machine_difference(about["hardware"], prepared.environment):
        return StudyRecord(prepared.config.to_mapping(), dict(prepared.environment)), Final()
    return record_of({**about["config"], "mlruns": prepared.config.mlruns}, about), Final.from_json(about["final"])


def _plain(measurements: Mapping[int, Mapping[str, Measurement]]) -> dict[str, dict[str, object]]:
    return {str(n): {k: m.to_json() for k, m in ms.items()} for n, ms in measurements.items()}
