"""A search of the task causal-lm, from its data to language models, and what these do."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command
import httpx
import numpy as np
import pytest
from services import events, with_each_member

import search
from search.serve.harness import HARNESS_INSTALL

from .test_causal_lm import llama, questions, texts

#: A task of lm-evaluation-harness over the questions of the study.
TASK = """
task: next_word
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}, cache_dir: cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc_norm, aggregation: mean, higher_is_better: true}]
"""
#: End tokens of the model; its config.json and its tokenizer know the first alone.
ENDS = [3, 9]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search over a tiny Llama that is trained first."""
    folder = tmp_path_factory.mktemp("language")
    llama(folder / "model")
    (folder / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS}), encoding="utf-8")
    for seed, (name, count) in enumerate((("train", 240), ("validation", 40), ("test", 40))):
        lines = [json.dumps(row) for row in texts(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    lines = [json.dumps(row) for row in questions(24, 3)]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = command.write_config(
        folder / "config.yaml",
        study="found",
        task="causal-lm",
        model={"name": "model"},
        data={**splits, "max_length": 16, "doc_stride": 4, "scored_tokens": 400, "choices": "questions.jsonl"},
        teacher={"epochs": 3, "learning_rate": 5e-3},
        workload={"prompt": 16, "new_tokens": 4},
        space={"bits": {"precision": "fp32"}, "runtime": {"name": ["eager", "onnx"]}, "cache": "off"},
    )
    command.search("run", config, cwd=folder).succeeded()
    return folder


def members(folder: Path) -> dict[int, Path]:
    return {int(path.name): path for path in (folder / "mlruns" / "exports" / "found" / "models").iterdir()}


def test_a_search_ends_with_models_whose_perplexity_is_that_of_their_records(searched: Path) -> None:
    from safetensors.torch import load_file

    for path in members(searched).values():
        model = search.load(path)
        recorded = model.record.measurements["perplexity"]
        assert 1 < recorded.value < 6 and recorded.better == "lower"
        scores = model.score([row["text"] for row in texts(40, 1)])
        tokens = sum(score["tokens"] for score in scores)
        perplexity = math.exp(-sum(score["log_likelihood"] for score in scores) / tokens)
        assert perplexity == pytest.approx(recorded.value, rel=0.25), "the record's is of a part of the tokens"
        tables = [name for name, tensor in load_file(path / "model.safetensors").items() if len(tensor) == 31]
        assert len(tables) == 1, "tied tables are saved once"


def test_a_whole_call_has_its_own_name_everywhere(searched: Path) -> None:
    exports = searched / "mlruns" / "exports" / "found"
    front = json.loads((exports / "front.json").read_text(encoding="utf-8"))
    assert [target["objective"] for target in front["targets"]] == ["perplexity", "generate_ms"]
    for member in front["members"]:
        call, same = (member["measurements"][name] for name in ("generate_ms", "latency_p50_ms"))
        assert (call["value"], call["interval"]) == (same["value"], same["interval"])
        assert call["value"] > 0 and 50 < member["measurements"]["peak_memory_mb"]["value"] < 20_000
        assert {"ttft_ms", "tpot_ms", "first_call_ms", "compile_ms", "speedup"} <= member["measurements"].keys()
    page = (exports / "front.html").read_text(encoding="utf-8")
    assert ">generation<" in page and ">latency<" not in page
    assert ">roofline of a token<" in page, "the share of the bandwidth that decoding reaches"


def test_questions_are_answered_beside_the_perplexity(searched: Path) -> None:
    front = json.loads((searched / "mlruns" / "exports" / "found" / "front.json").read_text(encoding="utf-8"))
    for member in front["members"]:
        accuracy = member["measurements"]["accuracy"]
        assert accuracy["value"] > 0.8, "a trained model knows the word that comes next"
        assert accuracy["interval"][0] < accuracy["value"] or accuracy["value"] == 1
        assert accuracy["conditions"]["likelihood_over"] == "characters"
        assert "accuracy" in member["held_out"]
    assert all("accuracy" in trial["values"] for trial in front["trials"] if trial["status"] == "complete")
    assert all("accuracy" in search.load(path).record.measurements for path in members(searched).values())
    output = command.search("front", "found", cwd=searched).succeeded().out
    assert "accuracy" in output and "generation" in output


def test_end_tokens_that_only_a_generation_config_lists_end_answers_of_what_is_exported(searched: Path) -> None:
    """As of chat models, whose turns end with another token than their texts."""
    for path in members(searched).values():
        assert json.loads((path / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"] == ENDS
        model = search.load(path)
        logits = np.zeros((1, 31), np.float32)
        logits[0, ENDS[1]] = 1
        model.program = SimpleNamespace(prefill=lambda ids, mask, logits=logits: (logits, None))
        *_, last = model.pieces("a film", max_new_tokens=5)
        assert (last.tokens, last.finish) == (1, "stop")


def test_bits_per_byte_stand_beside_the_perplexity_of_the_test_split(searched: Path) -> None:
    exports = searched / "mlruns" / "exports" / "found"
    for member in json.loads((exports / "front.json").read_text(encoding="utf-8"))["members"]:
        tested = member["held_out"]["perplexity"]
        about = tested["conditions"]
        expected = math.log2(tested["value"]) * about["tokens"] / about["bytes"]
        assert about["bits_per_byte"] == pytest.approx(expected) and about["tokens"] <= 400
        assert f">{expected:.3f}" in (exports / "front.html").read_text(encoding="utf-8")
    page = (exports / "front.html").read_text(encoding="utf-8")
    assert ">bits a byte<" in page and "at most 400 tokens of validation and of test are scored" in page
    assert f"{expected:.3f}" in command.search("front", "found", cwd=searched).succeeded().out


def test_a_perplexity_is_that_of_transformers_by_hand(searched: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    model = search.load(next(iter(members(searched).values())))
    tokenizer = AutoTokenizer.from_pretrained(searched / "model")
    text = texts(1, 7)[0]["text"]
    ids = tokenizer(text)["input_ids"]
    total, last = 0.0, 1
    for begin in range(0, len(ids), 16 - 4):  # the loop of transformers' guide
        end = min(begin + 16, len(ids))
        batch = {"input_ids": np.array([ids[begin:end]]), "attention_mask": np.ones((1, end - begin), dtype=np.int64)}
        total += float(torch.from_numpy(model.output(batch))[0, last - begin :].sum())
        last = end
        if end == len(ids):
            break
    assert model.score(text)["log_likelihood"] == pytest.approx(total, rel=1e-4)


def test_an_exported_language_model_does_what_its_record_says(searched: Path) -> None:
    output = command.search("check", next(iter(members(searched).values())), cwd=searched).succeeded().out
    assert "perplexity on the validation split" in output and "its record says" in output


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", "a prompt must have at least one token, got ''"),
        ("film " * 64, "at most 63 tokens, one less than the model's context, got 66"),
        ([{"role": "user", "content": "a film"}], "the tokenizer of this model has none: give a string"),
    ],
    ids=["empty", "long", "template"],
)
def test_a_loaded_model_refuses_a_prompt_that_it_cannot_continue(searched: Path, prompt: Any, wanted: str) -> None:
    model = search.load(next(iter(members(searched).values())))
    with pytest.raises(ValueError, match=wanted):
        model(prompt)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_export_is_not_served(searched: Path, tmp_path: Path, damage: str) -> None:
    from search.errors import UserError
    from search.serve.batching import Limits
    from search.serve.fleet import load_fleet

    shutil.copytree(searched / "mlruns" / "exports" / "found", tmp_path / "found")
    for folder in (tmp_path / "found" / "models").iterdir():
        config = folder / "config.json"
        config.write_text(config.read_text()[:40]) if damage == "cut" else config.unlink()
    with pytest.raises(UserError, match=r"config\.json: (not the file that was exported|missing)"):
        load_fleet(tmp_path / "found", Limits(), 1000.0)


def test_a_service_completes_by_each_exported_member(searched: Path, tmp_path: Path) -> None:
    async def converse(client: httpx.AsyncClient, number: int) -> None:
        [wanted] = search.load(members(searched)[number])("a film", max_new_tokens=4, return_full_text=False)
        body = {"prompt": "a film", "max_tokens": 4, "temperature": 0}
        completion = (await client.post("/v1/completions", json=body)).json()
        assert completion["choices"][0]["text"] == wanted["generated_text"] and completion["model"] == f"found/{number}"
        *pieces, done = events((await client.post("/v1/completions", json={**body, "stream": True})).text)
        assert "".join(one["choices"][0]["text"] for one in pieces) == wanted["generated_text"] and done == "[DONE]"

    with_each_member(searched / "mlruns" / "exports" / "found", tmp_path, converse)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason=f"needs {HARNESS_INSTALL}")
def test_each_member_is_scored_in_a_task_of_lm_eval_and_its_run_in_mlflow_has_the_scores(searched: Path) -> None:
    import mlflow

    (searched / "tasks").mkdir()
    (searched / "tasks" / "next_word.yaml").write_text(TASK, encoding="utf-8")
    asked = ("--tasks", "next_word", "--include-path", "tasks", "--json", "scores.json", "--limit", "20")
    ended = command.search("lm-eval", "found", *asked, cwd=searched).succeeded()
    models = json.loads((searched / "scores.json").read_text(encoding="utf-8"))["models"]
    assert {model["number"] for model in models} == members(searched).keys()
    client = mlflow.MlflowClient(f"sqlite:///{searched / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("found").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    for model in models:
        [score] = model["scores"]
        assert (score["task"], score["metric"], score["better"]) == ("next_word", "acc_norm", "higher")
        assert score["rows"] == 20
        assert score["value"] > 0.8, "a trained model knows the word that comes next"
        logged = runs[f"trial-{model['number']}"].data.metrics
        assert logged["lm_eval/next_word/acc_norm"] == score["value"]
        assert logged["lm_eval/next_word/acc_norm_stderr"] == score["standard_error"]
        [line] = [line for line in ended.out.splitlines() if f" {model['number']} │" in line]
        assert "next_word" in line and f"{score['value']:.4g} ± {score['standard_error']:.2g}" in line
        assert f"trial {model['number']}: next_word: acc_norm {score['value']:.4g}" in ended.err
    numbers = ", ".join(str(model["number"]) for model in models)
    assert f"logged in MLflow, as metrics lm_eval/... of trial {numbers}" in ended.out
