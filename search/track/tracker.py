"""The search in MLflow. Only `track*.py` know mlflow; `search.track.observer` continues without MLflow when it fails.

One experiment a study, one parent run a search, one nested run a trial. A run costs about 40 ms, so what can
wait (the `on_front` tag of earlier trials) is written in batches.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from search.deliver.export import EXPORTED, exported_folder
from search.errors import UserError, disk_is_full, one_line
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.report.text import note
from search.track.batch import TAG_LENGTH, log_values
from search.track.log import logged_model
from search.track.mlflow_store import (
    RESULTS,
    URI,
    check_store,
    create_store,
    follow,
    is_database,
    load_mlflow,
    tracking_uri,
    ui_command,
)
from spaces.recipe import digest_of

__all__ = ["Tracker", "check_store", "is_database", "tracking_uri", "ui_command"]

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

PARENT_TAG, NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
NUMBER = "number"  # tag of a trial's run: its name may be changed in MLflow's page
#: Trials between two updates of the `on_front` tags of earlier trials.
FLUSH_EVERY = 5
GUIDE = """One nested run a trial, `trial-<number>`; the parent run holds the front (`front.html`) and files.
The filter `tags.on_front = "true"` shows the front alone; `tags.baseline = "true"` is the uncompressed model.
`speedup` is that of a whole call over plain PyTorch on the same device, `quality_loss` in points of the metric, or
in % of an error or a perplexity."""


class Tracker:
    """Logs one study to the store in the folder `store`, or to MLFLOW_TRACKING_URI where it is set.

    `defaults` are the values of knobs whose axis is off, by `<axis>.<knob>`: every trial has all columns.

    Raises:
        UserError: the store cannot be opened.
    """

    def __init__(self, store: Path, experiment: str, defaults: Mapping[str, Any] | None = None) -> None:
        mlflow = load_mlflow()
        self._uri = tracking_uri(store)
        self._defaults = dict(defaults or {})
        self._parent = ""
        self._runs: dict[int, str] = {}  # run by trial
        self._reasons: dict[int, str] = {}  # why it is not on the front, as its tag says; by trial
        self._cut_short = False  # whether a trial was not logged whole
        self._observed = 0
        try:
            store.mkdir(parents=True, exist_ok=True)
            if not os.environ.get(URI):
                create_store(store)
                follow(store)
            self._client = mlflow.MlflowClient(self._uri)
            self._experiment = self._open_experiment(store, experiment)
        except (mlflow.exceptions.MlflowException, OSError, sqlite3.Error) as error:
            if disk_is_full(error):
                raise
            raise UserError(f"mlruns: the MLflow store {self._uri} cannot be opened: {one_line(error)}") from error

    @property
    def run_id(self) -> str:
        """The parent run."""
        return self._parent

    @property
    def page(self) -> str:
        """The study's page in the UI, after its address (the default page shows chat traces, not runs)."""
        return f"/#/experiments/{self._experiment}/runs?workflowType=machine_learning"

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any], digest: str) -> None:
        """Open the parent run of the search called `digest`, or go on with the one that is there.

        `digest` is of all that the search's trials share (not of its budget), so that a search that was
        killed is found again. Params are written once (MLflow forbids a change), `config.json` every time.
        """
        client = self._client
        query = f"tags.digest = '{digest}' and tags.kind = 'search'"
        runs = client.search_runs([self._experiment], query, order_by=["attributes.start_time DESC"], max_results=1)
        if runs:
            self._parent = runs[0].info.run_id
            client.update_run(self._parent, status="RUNNING")
            self._find_trials()
        else:
            tags = {"digest": digest, "kind": "search", "device": str(environment.get("device", ""))}
            created = client.create_run(self._experiment, tags=tags, run_name=str(config["study"]))
            self._parent = created.info.run_id
            log_values(client, self._parent, params=_flat(config))
        client.log_dict(self._parent, dict(config), "config.json")
        client.log_dict(self._parent, dict(environment), "environment.json")

    def observe(self, outcome: Outcome, front: Front) -> None:
        """Log one trial, unless it is there, and where the front stands after it."""
        if outcome.number in self._runs:
            return
        self._log_trial(outcome, front)
        self._log_front(front)
        self._observed += 1
        if self._observed % FLUSH_EVERY == 0:
            self._flush(front)

    def sync(self, front: Front) -> None:
        """Log those trials of `front` that are missing, as after a kill between the study and the log."""
        if self._cut_short:
            self._find_trials()
        missing = set(self.unlogged(front))
        for outcome in front.outcomes:
            if outcome.number in missing:
                self._log_trial(outcome, front)
        self._flush(front)

    def unlogged(self, front: Front) -> list[int]:
        """Numbers of the trials that are not logged."""
        return [o.number for o in front.outcomes if o.number not in self._runs]

    def finish(self, front: Front, study: StudyRecord, exports: Path, status: RunStatus = "FINISHED") -> None:
        """Log the files in `exports`, what was measured last, and the front's models; then `close`."""
        self._flush(front)
        self._log_front(front)
        for name in EXPORTED:
            if (exports / name).exists():
                self._client.log_artifact(self._parent, str(exports / name))
        for outcome in front.outcomes:
            if outcome.number in self._runs:
                self._renew(outcome, study)
        for outcome in front.members:
            if outcome.number in self._runs and exported_folder(exports, outcome).is_dir():
                self._log_model(outcome, exported_folder(exports, outcome))
        self._client.set_tag(self._parent, NOTE_TAG, note(front, study)[:TAG_LENGTH])
        self.close(status)

    def close(self, status: RunStatus) -> None:
        """Close the parent run; a later `start` opens it again."""
        if self._parent:
            self._client.set_terminated(self._parent, status)

    def _open_experiment(self, store: Path, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # A server knows where its artifacts go; a local store puts them beside its database.
            local = (store / "artifacts").absolute().as_uri() if is_database(self._uri) else None
            tags = {NOTE_TAG: GUIDE} if local is None else {NOTE_TAG: GUIDE, RESULTS: store.absolute().as_uri()}
            return str(self._client.create_experiment(name, artifact_location=local, tags=tags))
        if experiment.lifecycle_stage != "active":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find_trials(self) -> None:
        """Find the trials that are logged completely; incomplete ones are removed, to be logged again."""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.`{PARENT_TAG}` = '{self._parent}'", page_token=token, max_results=1000
            )
            for run in page:
                if run.info.status == "RUNNING":
                    self._client.delete_run(run.info.run_id)
                    continue
                number = int(run.data.tags[NUMBER])
                self._runs[number] = run.info.run_id
                self._reasons[number] = run.data.tags.get("reason", "")
            token = page.token
            if not token:
                self._cut_short = False
                return

    def _log_trial(self, outcome: Outcome, front: Front) -> None:
        reason = front.why_not(outcome)[:TAG_LENGTH]
        tags = {
            PARENT_TAG: self._parent,
            NUMBER: str(outcome.number),
            "status": outcome.status,
            "reason": reason,
            "on_front": _flag(not reason),
            "digest": outcome.recipe.digest,
            "baseline": _flag(outcome.baseline),
            "noisy": outcome.noise[:TAG_LENGTH],
        }
        self._cut_short = True
        now = round(time.time() * 1000)
        began = now - round(1000 * sum(outcome.seconds.values()))
        run = self._client.create_run(self._experiment, start_time=began, tags=tags, run_name=f"trial-{outcome.number}")
        values = _values(outcome)
        values |= {f"seconds_{stage}": seconds for stage, seconds in outcome.seconds.items()}
        log_values(self._client, run.info.run_id, values, now, params={**self._defaults, **outcome.recipe.params})
        self._client.log_dict(run.info.run_id, outcome.to_json(), "outcome.json")
        status = "FAILED" if outcome.status == "failed" else "FINISHED"
        self._client.set_terminated(run.info.run_id, status, end_time=now)
        self._runs[outcome.number] = run.info.run_id
        self._reasons[outcome.number] = reason
        self._cut_short = False

    def _log_front(self, front: Front) -> None:
        values = {"hypervolume": front.hypervolume, "front_size": float(len(front.members))}
        log_values(self._client, self._parent, values, round(time.time() * 1000), step=len(front.outcomes))

    def _flush(self, front: Front) -> None:
        """Bring the tags up to date of trials whose place has changed since they were logged."""
        for outcome in front.outcomes:
            reason = front.why_not(outcome)[:TAG_LENGTH]
            if self._reasons.get(outcome.number, reason) != reason:
                run = self._runs[outcome.number]
                self._client.set_tag(run, "on_front", _flag(not reason))
                self._client.set_tag(run, "reason", reason)
                self._reasons[outcome.number] = reason

    def _renew(self, outcome: Outcome, study: StudyRecord) -> None:
        """Log figures of a trial that the end of a search changed, so that its run has the numbers of the front.

        At step 1, because MLflow shows the last step of a metric. What the search's own timing said of a finalist stays
        beside it as `quick_<metric>`, the held-out split as `test_<metric>`.
        """
        run = self._client.get_run(self._runs[outcome.number])
        values = _values(outcome)
        values |= {f"quick_{name}": m.value for name, m in outcome.quick.items()}
        values |= {f"test_{name}": m.value for name, m in study.held_out.get(outcome.number, {}).items()}
        changed = {name: value for name, value in values.items() if run.data.metrics.get(name) != value}
        tags = {"status": outcome.status, "noisy": outcome.noise[:TAG_LENGTH]}
        for name, value in tags.items():
            if run.data.tags.get(name) != value:
                self._client.set_tag(run.info.run_id, name, value)
        if changed:
            log_values(self._client, run.info.run_id, changed, round(time.time() * 1000), step=1)
            self._client.log_dict(run.info.run_id, outcome.to_json(), "outcome.json")

    def _log_model(self, outcome: Outcome, folder: Path) -> None:
        """Log the exported model in `folder` under its trial's run, unless it is there."""
        run = self._client.get_run(self._runs[outcome.number])
        # Weights that were trained again are another model; so is one whose record has other figures.
        record = digest_of(
            {"recipe": outcome.recipe.digest, "weights": outcome.weights_sha256, "measured": _values(outcome)}
        )
        if run.data.tags.get("model") == record:
            return
        for old in run.outputs.model_outputs if run.outputs else ():
            with suppress(load_mlflow().exceptions.MlflowException):  # it was deleted before
                self._client.delete_logged_model(old.model_id)
        values, run_id = _values(outcome), run.info.run_id
        with logged_model(self._client, run, f"trial-{outcome.number}", folder, outcome.recipe.params) as model:
            log_values(self._client, run_id, values, round(time.time() * 1000), step=1, model=model)
            self._client.set_tag(run_id, "model_id", model)  # its earlier ones are deleted
            self._client.set_tag(run_id, "model", record)


def _values(outcome: Outcome) -> dict[str, float]:
    return {name: m.value for name, m in outcome.measurements.items()}


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
