"""Recovery of language models: a budget in tokens, the teacher's likeliest tokens, and what a training will take."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import command
import numpy as np
import pytest
import torch
from conftest import state_of
from safetensors.torch import load_file, save_file

from search.config.schema import RecoverConfig
from search.execute.forecast import trained
from search.prepare.recovery_budget import STORED_BYTES, epochs_of, stored_likeliest
from search.prepare.teacher_outputs import StoredTeacher
from search.tasks.encoded import read_encoded
from search.tasks.tokens import Encoded
from spaces.distillation import LossWeights

from .test_causal_lm import llama, texts

MOST = 1500  # tokens


def configured(folder: Path, **recover: Any) -> Path:
    llama(folder / "model")
    for seed, (name, count) in enumerate((("train", 160), ("validation", 30), ("test", 30))):
        lines = [json.dumps(row) for row in texts(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    return command.write_config(
        folder / "config.yaml",
        study="taught",
        task="causal-lm",
        model={"name": "model"},
        data={**splits, "max_length": 16, "doc_stride": 4, "scored_tokens": 400},
        teacher={"epochs": 2, "learning_rate": 5e-3},
        recover={"epochs": 1, "tokens": MOST, "batch": 8, **recover},
        workload={"prompt": 16, "new_tokens": 4, "batch": 2},
        space={"prune": {"neurons": 0.5}, "bits": {"precision": "fp32"}, "runtime": {"name": "eager"}, "cache": "off"},
        budget={"trials": 2},
        objectives=["metric", "tpot_ms"],
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search of one model that is recovered."""
    folder = tmp_path_factory.mktemp("taught")
    ended = command.search("run", configured(folder), cwd=folder).succeeded()
    assert "sampler: tpe" not in ended.out, "the time of a token is predicted"
    return folder


def stage(folder: Path, file: str) -> Path:
    [folder_file] = (path for path in (folder / "mlruns" / "cache").rglob(file) if "unfinished" not in str(path))
    return folder_file.parent


def test_the_teachers_likeliest_tokens_of_the_budget_are_stored(taught: Path) -> None:
    stored = load_file(stage(taught, "outputs.safetensors") / "outputs.safetensors")
    asked, vocabulary = stored["ids"].shape
    assert vocabulary == 31, "a small vocabulary is stored whole"
    assert 0.8 * MOST < asked < 1.1 * MOST
    assert (stored["ids"].dtype, stored["log_probabilities"].dtype) == (torch.int32, torch.float16)
    torch.testing.assert_close(stored["log_probabilities"].float().exp().sum(-1), torch.ones(asked), atol=5e-3, rtol=0)
    outcomes = state_of(taught / "mlruns", "taught").outcomes
    [recover] = [outcome.recipe.recover for outcome in outcomes if outcome.recipe.recover]
    assert (recover["tokens"], recover["top_k"]) == (MOST, 64)


def test_a_call_may_have_several_rows(taught: Path) -> None:
    for outcome in state_of(taught / "mlruns", "taught").outcomes:
        figures = outcome.measurements
        assert outcome.status == "complete" and figures["ttft_ms"].conditions["batch"] == 2
        assert figures["tokens_per_s"].value == pytest.approx(2 * 4 * 1e3 / figures["generate_ms"].value, rel=0.5)


def test_the_times_of_a_token_are_kept_with_the_bytes_that_it_reads(taught: Path) -> None:
    """Of the uncompressed model, and of one of its two blocks with half of its 64 neurons."""
    [table] = (taught / "mlruns" / "latency").glob("*.jsonl")
    head, *entries = (json.loads(line) for line in table.read_text().splitlines() if line)
    assert head["conditions"]["time"] == "tpot_ms"
    assert {entry["deployment"] for entry in entries} == {"eager/fp32"}
    outside, attention = 31 * 32, 2 * 32 * 32 + 2 * 32 * 16
    matrices = [4 * (outside + blocks * (attention + 3 * 32 * neurons)) for blocks, neurons in ((2, 64), (1, 32))]
    assert [entry["shape"]["step_bytes"] for entry in entries] == matrices
    a_block, tokens = (
        4 * 2 * 16,
        16 + 4 / 2,
    )  # bytes of a token; tokens on average over the steps
    assert [entry["shape"]["cache_bytes"] for entry in entries] == [2 * tokens * blocks * a_block for blocks in (2, 1)]


def test_what_is_not_stored_is_asked_again(taught: Path, tmp_path: Path) -> None:
    outputs, teacher = stage(taught, "outputs.safetensors"), stage(taught, "train.npz")
    tensors = load_file(outputs / "outputs.safetensors")
    encoded, _ = read_encoded(teacher / "train.npz")
    model = next(path.parent for path in (taught / "mlruns" / "cache" / "teacher").rglob("model.safetensors"))
    remaining = {name: tensor for name, tensor in tensors.items() if name not in ("ids", "log_probabilities")}
    save_file(remaining, tmp_path / "outputs.safetensors")
    rows = torch.nonzero(tensors["starts"][:-1] >= 0)[:5, 0]
    inputs = {name: torch.from_numpy(array) for name, array in encoded.batch(rows.numpy()).items()}
    both = []
    for folder in (outputs, tmp_path):
        asked = StoredTeacher(folder, encoded.lengths, model, "cpu", LossWeights(hidden=0.0), likeliest=5)
        likeliest = asked(rows, {name: inputs[name] for name in ("input_ids", "attention_mask")}).likeliest
        assert likeliest is not None
        both.append((likeliest.ids[0, :3, :5], likeliest.log_probabilities[0, :3, :5]))
    assert both[0][0].tolist() == both[1][0].tolist()
    torch.testing.assert_close(both[0][1], both[1][1], atol=5e-3, rtol=0)


def test_a_plan_says_what_a_recovery_takes(taught: Path) -> None:
    diverging = ("--set", "recover.learning_rate=1.0e+30")  # no matter for the time of a step
    plan = command.search("plan", taught / "config.yaml", *diverging, cwd=taught).succeeded().out
    [line] = (line for line in plan.splitlines() if line.startswith("recovery"))
    assert f"so {MOST:,} tokens take about" in line and "MB of the teacher's likeliest tokens are stored" in line
    assert f" rows ({MOST:,} tokens)\n" in plan, "not all rows of an epoch"
    without = command.search("plan", taught / "config.yaml", "--set", "recover.epochs=0", cwd=taught).succeeded().out
    assert "recovery " not in without


@pytest.mark.parametrize(
    ("recover", "rows", "tokens"),
    [
        ({"epochs": 2.0}, 40, 240),
        ({"epochs": 2.0, "tokens": 60}, 10, 60),
        ({"epochs": 2.0, "tokens": 900}, 40, 240),
        ({"epochs": 2.0, "rows": 5}, 10, 60),
        ({"epochs": 2.0, "rows": 5, "tokens": 45}, 7.5, 45),
        ({"epochs": 0.0, "tokens": 45}, 0, 0),
    ],
)
def test_what_a_recovery_trains_on_at_most(recover: dict[str, Any], rows: float, tokens: int) -> None:
    """Of a training split of 20 rows with 6 tokens each, by its first 4."""
    config = SimpleNamespace(recover=RecoverConfig(**recover))
    few = Encoded({}, {}, np.array([3, 9, 4, 8]))
    wanted = trained(cast(Any, config), few, 4 / 20)
    assert (wanted.rows * wanted.epochs, wanted.tokens * wanted.epochs) == pytest.approx((rows, tokens))


def test_a_budget_in_tokens_bounds_the_epochs_and_what_is_stored() -> None:
    assert epochs_of(2.0, None, 1000) == 2.0
    assert epochs_of(2.0, 500, 1000) == 0.5 and epochs_of(0.25, 500, 1000) == 0.25
    tokens = STORED_BYTES // (64 * 6)
    assert (stored_likeliest(64, tokens), stored_likeliest(64, tokens + 1)) == (64, 0)
