"""The stage that times decoding on a GPU: at toy size on the CPU, and what it leaves when a deployment fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu import decoder, decoding, run
from benchmarks.gpu.decoder import COMPILED, COMPILED_GRAPH, CUDA_GRAPH, EAGER, TOY, WHOLE, Decoder, Deployment
from benchmarks.gpu.run_setup import RunSetup
from benchmarks.gpu.tables import Report, Tables
from objectives.process import Remote

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "gpu"
STATIC, DYNAMIC = Deployment(EAGER, "static", "bf16"), Deployment(EAGER, "dynamic", "bf16")
#: Run as on a machine without the bundle's packages.
BARE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
MISSING = ("optuna", "mlflow", "datasets", "dill", "evaluate", "jsonschema", "pydantic", "torchao")

def find(name, *others):
    return None if name.split(".")[0] in MISSING else find_spec(name, *others)

PathFinder.find_spec = staticmethod(find)
from benchmarks.gpu import decoder, decoding, run
for group, _ in decoding.GROUPS:
    for deployment in group:
        try:
            decoder.check(deployment, "cuda")
        except decoding.Infeasible:
            pass
model = decoder.Decoder(decoding.QUICK[0], decoder.TOY, decoding.DRY_CALLS, "cpu")
print(model.times().shape)
"""


class Local(Remote):
    """A process that is none: the object is here."""

    def __init__(self, factory: Callable[[], Any], **_: Any) -> None:
        self._object = factory()

    def call(self, method: str, *arguments: Any, **_: Any) -> Any:
        return getattr(self._object, method)(*arguments)

    def _nothing(self) -> None: ...

    pause = resume = close = _nothing


def start(arguments: Any, environment: Any, limit: float) -> subprocess.CompletedProcess[str]:
    """The stage in a process that has imported the libraries already."""
    env = {**command.environment(), **environment}
    ended = command.forked(FOLDER / "run.py", *arguments, cwd=ROOT, env=env)
    return subprocess.CompletedProcess(list(arguments), ended.code, ended.out, ended.err)


def test_the_dry_run_fills_the_table_and_judges_the_best_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_WORK", str(tmp_path / "work"))
    [stage] = [stage for stage in run.ON_REQUEST if stage.name == "decoding"]
    assert stage.limit_s <= 180
    assert run.run([stage], RunSetup(tmp_path, dry=True), 300, start) == 0
    table = json.loads((tmp_path / "tables.json").read_text())["stages"]["decoding"]
    timed = [row for row in table["rows"] if "tpot_ms" in row]
    assert [decoding.deployment_of(row) for row in timed] == [DYNAMIC, Deployment(EAGER, "dynamic", "int4")]
    for row in timed:
        assert row["tpot_p90_ms"] >= row["tpot_ms"] > 0 and row["ttft_ms"] > 0 and row["memory_mb"] > 0
        assert row["roofline %"] == pytest.approx(100 * row["floor_ms"] / row["tpot_ms"])
    assert timed[0]["error"] == 0 < timed[1]["error"] < 0.5 and timed[1]["read_mb"] < timed[0]["read_mb"] / 2
    reasons = {(row["runtime"], row["precision"]): row["note"] for row in table["rows"] if "tpot_ms" not in row}
    assert "CUDA device" in reasons["cuda_graph", "bf16"] and "CUDA device" in reasons["cuda_graph", "int4"]
    assert "fp8 needs" in reasons["eager", "fp8"]
    [goal] = table["goals"]
    assert goal["rule"] == ">= 0.6" and goal["value"] == max(row["roofline %"] for row in timed) / 100
    assert table["notes"][0].startswith("copied bandwidth: ")


def test_it_runs_without_the_packages_of_the_bundle() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert f", {decoding.DRY_CALLS.new_tokens})" in done.stdout


def test_a_deployment_that_fails_is_a_row_with_its_reason_and_the_others_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(deployment: Deployment, *others: Any) -> Decoder:
        if deployment == STATIC:
            raise RuntimeError("planted")
        return Decoder(deployment, *others)

    def killed(meter: Any, size: int) -> float:
        raise TimeoutError("no answer")

    monkeypatch.setattr(decoding, "Remote", Local)
    monkeypatch.setattr(decoding, "Decoder", opened)
    monkeypatch.setattr(decoder.CopyMeter, "copied", killed)
    monkeypatch.setattr("benchmarks.gpu.tables.text_of", lambda data: "")
    tables = Tables(tmp_path)
    tables.begin({}, [])
    report = Report(tables, "decoding")
    decoding.Stage(RunSetup(tmp_path, dry=True), report, decoding.DRY_CALLS).run((((STATIC, DYNAMIC), 60.0),))
    failed, timed = report.rows
    assert failed["note"] == "RuntimeError: planted" and "tpot_ms" not in failed
    assert timed["tpot_ms"] > 0 and "roofline %" not in timed
    assert timed["error"] == 0, "against the first deployment that there is"
    [note] = tables.read()["stages"]["decoding"]["notes"]
    assert "no share of the roofline" in note and "no answer" in note


@pytest.mark.parametrize("runtime", [COMPILED, CUDA_GRAPH, COMPILED_GRAPH])
def test_every_program_gives_the_logits_of_the_eager_one(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def compile_step(_: Any, step: Any) -> Any:
        steps.append("compiled")
        return step

    def capture(call: Any, static: dict[str, Tensor]) -> tuple[Callable[[], Any], Tensor]:
        steps.append("captured")
        output = call(**static)
        return lambda: output.copy_(call(**static)), output

    monkeypatch.setattr("spaces.runtimes.compiled.Compiled.compile_step", compile_step)
    monkeypatch.setattr("spaces.runtimes.cuda_graph.capture", capture)
    calls = decoding.DRY_CALLS
    expected = Decoder(DYNAMIC, TOY, calls, "cpu").logits()
    logits = Decoder(Deployment(runtime, "static", "bf16"), TOY, calls, "cpu").logits()
    assert expected.shape == (5, TOY["vocab_size"])
    assert abs(logits - expected).mean() < 0.02 * abs(expected).mean()
    assert steps == [word for word in ("compiled", "captured") if word in runtime.replace("cuda_graph", "captured")]


def test_a_step_reads_every_weight_once_and_the_cache_of_half_an_answer() -> None:
    model = Decoder(DYNAMIC, TOY, decoding.DRY_CALLS, "cpu")
    hidden, inner, cached = 32, 64, 16  # 2 groups of 8
    block = 2 * hidden * hidden + 2 * hidden * cached + 3 * hidden * inner + 2 * hidden
    assert model.weights == TOY["vocab_size"] * hidden + 2 * block + hidden
    numbers = 2 * 2 * cached * (8 + 12)
    assert decoder.bytes_read(model.about(), "bf16") == 2 * model.weights + 2 * numbers
    assert decoder.bytes_read(model.about(), "fp8") == model.weights + 2 * numbers
    assert decoder.bytes_read(model.about(), "int4") == model.weights / 2 + 2 * numbers


def test_the_model_is_of_the_1b_class_in_bf16_with_exact_rotary_frequencies() -> None:
    whole = decoder.random_model(WHOLE, "meta")
    assert 1.0e9 < sum(parameter.numel() for parameter in whole.parameters()) < 1.2e9
    toy = decoder.random_model(TOY, "cpu")
    assert {parameter.dtype for parameter in toy.parameters()} == {torch.bfloat16}
    assert toy.model.rotary_emb.inv_freq.dtype == torch.float32
    assert toy.lm_head.weight is toy.model.embed_tokens.weight
    again = decoder.random_model(TOY, "cpu")
    np.testing.assert_array_equal(toy.lm_head.weight.float().detach(), again.lm_head.weight.float().detach())


def test_the_goal_is_judged_by_the_best_deployment_that_a_search_can_choose(tmp_path: Path) -> None:
    class FilledReport(Report):
        def __init__(self) -> None:
            shares = ((EAGER, 10.0), (CUDA_GRAPH, 61.0), (COMPILED_GRAPH, 80.0))
            self.rows = [{**decoding.named(Deployment(r, "static", "bf16")), "roofline %": s} for r, s in shares]
            self.rows.append(decoding.named(Deployment(COMPILED, "static", "fp8")))

        def goals(self, promises: Any) -> None:
            [self.goal] = promises

    rows = FilledReport()
    decoding.Stage(RunSetup(tmp_path, dry=True), rows, decoding.CALLS).judge()
    assert rows.goal.met and rows.goal.value == 0.61 and "(cuda_graph, static cache, bf16)" in rows.goal.what
