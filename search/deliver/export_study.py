"""The export of a search that ended or runs in another process, from its record and the store."""

from __future__ import annotations

from pathlib import Path

from search.deliver.export import export, export_model
from search.front.front import Front
from search.front.study_record import StudyRecord
from search.measure.graphs import opened_from
from search.prepare.prepared import cores
from search.store.store import Store
from spaces.runtime import Context


def export_study(front: Front, study: StudyRecord, mlruns: Path, pick: str | None, to: Path | None) -> Path:
    """Export the whole front, or the trial that `pick` names; returns the folder, `to` where that is given.

    Raises:
        UserError: there is no such pick, or a model cannot be exported (`export_model`).
    """
    store = Store(mlruns / "cache")
    threads = int(study.config["workload"]["threads"] or 0) or cores()
    opened = opened_from(store, Context(str(study.hardware.get("device", "cpu")), threads))
    exports = mlruns / "exports" / study.name
    try:
        if pick is None:
            target = to or exports
            export(front, study, target, opened)
        else:
            outcome = front.choose(pick)
            target = to or exports / "picks" / pick
            export_model(front, study, outcome, target, opened)
    finally:
        store.release()
    return target
