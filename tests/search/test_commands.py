"""The commands over a finished search: front, export, apply, check, list, plan, ui.

Each is started once as a user starts it; other tests start commands through a server, which is quicker.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import command
import jsonschema
import pytest
import yaml
from conftest import STUDY, Finished

from objectives import all_objectives
from objectives.quiet import QUIET_ENVIRONMENT
from search.deliver.best_config import read_best_config, schema
from search.tasks import TASKS
from spaces import registry


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_help_is_there_in_a_second_with_an_example_for_every_command(finished: Finished) -> None:
    answer = command.search_anew("--help", cwd=finished.folder)
    assert answer.succeeded().seconds < 1
    for name in ("run", "plan", "front", "export", "apply", "check", "list", "ui"):
        assert name in answer.out
        assert "example: python -m search" in command.search(name, "--help", cwd=finished.folder).succeeded().out


def test_front_shows_the_same_front_as_the_run(finished: Finished) -> None:
    output = command.search_anew("front", STUDY, cwd=finished.folder).succeeded().out
    picks = [line for line in finished.runs[-1].out.splitlines() if line.startswith(("fastest", "balanced", "most"))]
    assert len(picks) == 3 and all(line in output for line in picks)


def test_front_as_json_is_the_front_file(finished: Finished) -> None:
    data = json.loads(command.search("front", STUDY, "--json", cwd=finished.folder).succeeded().out)
    jsonschema.validate(data, schema("front"))
    written = json.loads((finished.exports / "front.json").read_text())
    assert data == written


def test_a_study_compared_with_itself_differs_in_nothing(finished: Finished) -> None:
    output = command.search("compare", STUDY, STUDY, cwd=finished.folder).succeeded().out
    members = len(json.loads((finished.exports / "front.json").read_text())["members"])
    assert output.count(f"0 of {members} members of {STUDY} are dominated by one of the other") == 2
    command.refused(command.search("compare", STUDY, "none-such", cwd=finished.folder), ["none-such"])


def test_a_limit_leaves_the_members_that_keep_it(finished: Finished) -> None:
    everything = json.loads((finished.exports / "front.json").read_text())
    latencies = {m["number"]: m["measurements"]["latency_p50_ms"]["value"] for m in everything["members"]}
    limit = min(latencies.values())
    result = command.search("front", STUDY, "--json", "--max-latency-ms", limit, cwd=finished.folder).succeeded()
    assert {m["number"] for m in json.loads(result.out)["members"]} == {n for n, v in latencies.items() if v <= limit}
    none = command.search("front", STUDY, "--max-latency-ms", limit / 2, cwd=finished.folder)
    assert (none.code, none.err) == (1, f"no trial of {STUDY} is complete and inside the limits\n")


@pytest.mark.parametrize("pick", ["fastest", "NUMBER"])
def test_export_writes_the_picked_model(finished: Finished, tmp_path: Path, pick: str) -> None:
    picks = json.loads((finished.exports / "front.json").read_text())["picks"]
    named = str(picks["most-accurate"]) if pick == "NUMBER" else pick
    number = int(named) if pick == "NUMBER" else picks[pick]
    target = tmp_path / "model"
    command.search("export", STUDY, "--pick", named, "--to", target, cwd=finished.folder).succeeded()
    assert read_best_config(target / "recipe.yaml").number == number
    if (finished.exports / "models" / str(number)).exists():
        assert files_of(target) == files_of(finished.exports / "models" / str(number))


def test_export_without_a_pick_writes_the_whole_front(finished: Finished, tmp_path: Path) -> None:
    command.search_anew("export", STUDY, "--to", tmp_path / "all", cwd=finished.folder).succeeded()
    assert files_of(tmp_path / "all") == files_of(finished.exports)


def test_check_confirms_an_exported_model(finished: Finished) -> None:
    for folder in finished.models()[:1]:
        output = command.search("check", folder, cwd=finished.folder).succeeded().out
        assert "largest difference " in output
        assert "accuracy on the validation split" in output and "latency:" in output
        verdict, latency = (
            output.splitlines()[-1],
            next(line for line in output.splitlines() if line.startswith("latency:")),
        )
        assert (verdict == "the model does what its record says") == ("as recorded" in latency)
        assert "the model" in verdict and ("busy" in latency) <= ("not compared" in verdict)


def test_check_on_another_kind_of_device_compares_predictions_only(finished: Finished, tmp_path: Path) -> None:
    """The record of a model is rewritten as if it had been measured on another processor."""
    target = tmp_path / "model"
    command.search("export", STUDY, "--pick", "fastest", "--to", target, cwd=finished.folder).succeeded()
    record = yaml.safe_load((target / "recipe.yaml").read_text())
    record["conditions"]["hardware"]["cpu"] = "Another CPU"
    (target / "recipe.yaml").write_text(yaml.safe_dump(record))
    output = command.search("check", target, cwd=finished.folder).succeeded().out
    assert "latency: not compared, because it is another kind of device: measured on Another CPU, this is" in output
    assert "largest difference " in output


@pytest.mark.parametrize("arguments", [("apply", "gone.yaml"), ("check", "gone")], ids=["apply", "check"])
def test_what_is_missing_is_refused_where_a_user_starts_the_command(tmp_path: Path, arguments: tuple[str, str]) -> None:
    command.refused(command.search_anew(*arguments, cwd=tmp_path), [arguments[1]])
    assert list(tmp_path.iterdir()) == []


def test_apply_rebuilds_the_model_with_the_same_answers(finished: Finished, tmp_path: Path) -> None:
    """In an empty results folder: from the base model, teacher and all."""
    import numpy as np

    best = finished.exports / "most-accurate.yaml"
    target = tmp_path / "rebuilt"
    output = command.search("apply", best, "--to", target, "--mlruns", tmp_path / "new", cwd=tmp_path).succeeded().out
    assert "in the record" in output and str(target) in output
    there = finished.exports / "models" / str(read_best_config(best).number)
    assert files_of(target) == files_of(there)
    with np.load(there / "reference.npz") as before, np.load(target / "reference.npz") as now:
        np.testing.assert_allclose(now["validation"], before["validation"], atol=1e-3)


def test_list_names_everything_that_is_registered(finished: Finished) -> None:
    output = command.search_anew("list", cwd=finished.folder).succeeded().out
    named = [*registry.axes(), *registry.runtimes(), *all_objectives(), *TASKS]
    assert all(re.search(rf"\b{entry.name}\b", output) for entry in named)


def test_plan_says_what_a_run_would_do_and_does_nothing(finished: Finished, tmp_path: Path) -> None:
    output = command.search_anew("plan", finished.config, cwd=tmp_path).succeeded().out
    assert "3 deployments" in output and "256 train, 96 validation, 96 test rows" in output
    assert list(tmp_path.iterdir()) == []


def test_ui_answers_on_its_port_and_stops_with_ctrl_c(finished: Finished) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = command.Started("ui", "--port", port, cwd=finished.folder, anew=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert time.monotonic() < deadline and started.process.poll() is None, started.errors()
                time.sleep(0.2)
    finally:
        started.send(signal.SIGINT)
        ended = started.end()
    assert ended.code == 0 and "Traceback" not in ended.err


PROGRAM = """
import os, warnings

class Mine(UserWarning):
    pass

if __name__ == "__main__":
    warnings.simplefilter("error", Mine)
    before = dict(os.environ)
    import search
    result = search.run({config!r}, trials=6)
    print("FRONT", sorted(o.number for o in result.front.members), result.exports)
    print("ANSWERS", len(search.load({model!r})(["a charming and funny film"])))
    changed = {{name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}}
    print("ENVIRONMENT", *sorted(changed))
    try:
        warnings.warn("still an error", Mine)
    except Mine:
        print("HEARD")
"""
#: Set by scikit-learn when it is imported.
FOREIGN = {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}


def test_the_python_api_runs_the_same_search_and_leaves_warnings_and_environment_alone(
    finished: Finished, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(config=str(finished.config), model=str(finished.models()[0])))
    environment = {name: value for name, value in command.environment().items() if name not in QUIET_ENVIRONMENT}
    ended = subprocess.run(
        [sys.executable, program],
        cwd=finished.folder,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
        timeout=200,
        preexec_fn=command.one_core,
    )
    numbers = [int(folder.name) for folder in finished.models()]
    assert f"FRONT {numbers} {finished.exports}" in ended.stdout
    assert "ANSWERS 1" in ended.stdout and "HEARD" in ended.stdout
    [changed] = [line for line in ended.stdout.splitlines() if line.startswith("ENVIRONMENT")]
    assert set(changed.split()[1:]) <= FOREIGN
    assert ended.stderr == ""
