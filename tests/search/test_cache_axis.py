"""The cache in a search: deployments, a loss of its own, its memory, and models that are opened with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import yaml
from causal import stored

import search
from objectives.generation_times import TPOT
from objectives.kv_cache import A_TOKEN
from search.front.front import Front
from search.front.outcome import Outcome, Target
from search.measure.kv_caches import predicted, step_bytes
from search.report.cache_sentences import kv_cache_lines, slower_caches
from search.report.page import front_html
from search.report.text import note
from search.space.deployments import Deployment
from search.space.space import Space
from spaces.axes.cache import CacheKind
from spaces.recipe import Recipe, Step
from spaces.runtime import Context
from spaces.shape import NO_SHAPE

from . import factory
from .test_causal_lm import llama, texts

INT8 = {"kind": "int8", "recent": 0}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search with three caches; rows are longer than what they keep in full precision."""
    folder = tmp_path_factory.mktemp("caches")
    llama(folder / "model", max_position_embeddings=128)
    for seed, (name, count) in enumerate((("train", 240), ("validation", 24), ("test", 24))):
        rows = [{"text": " ".join(row["text"] for row in texts(3, 100 * seed + i))} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    splits = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    config = command.write_config(
        folder / "config.yaml",
        study="caches",
        task="causal-lm",
        model={"name": "model"},
        data={**splits, "max_length": 64, "doc_stride": 8, "scored_tokens": 800},
        teacher={"epochs": 1, "learning_rate": 5e-3},
        workload={"prompt": 16, "new_tokens": 4},
        space={
            "distill": "off",
            "prune": "off",
            "low_rank": "off",
            "bits": {"precision": "fp32"},
            "runtime": {"name": "eager"},
            "cache": {"kind": ["dynamic", "static", "int8"], "recent": 0},
        },
        objectives=["metric", "generate_ms", "cache_kb_per_token"],
    )
    command.search("run", config, cwd=folder).succeeded()
    return folder


def trials(folder: Path) -> dict[str, dict[str, Any]]:
    front = json.loads((folder / "mlruns" / "exports" / "caches" / "front.json").read_text(encoding="utf-8"))
    return {trial["params"].get("cache.kind", "dynamic"): trial for trial in front["trials"]}


def test_each_cache_is_a_deployment_with_its_own_loss_and_memory(searched: Path) -> None:
    by_kind = trials(searched)
    assert set(by_kind) == {"dynamic", "static", "int8"}
    assert [trial["reason"] for trial in by_kind.values() if trial["status"] != "complete"] == []
    dynamic, static, int8 = (by_kind[kind]["values"] for kind in ("dynamic", "static", "int8"))
    assert static["perplexity"] == dynamic["perplexity"] != int8["perplexity"]
    assert int8["perplexity"] == pytest.approx(dynamic["perplexity"], rel=0.05)
    assert dynamic["quality_loss"] == 0 != int8["quality_loss"]
    token = 2 * 2 * 16 * 4 / 1e3  # KB: keys and values, blocks, one head of 16 numbers
    assert dynamic["cache_kb_per_token"] == static["cache_kb_per_token"] == pytest.approx(token)
    assert int8["cache_kb_per_token"] < 0.5 * token
    assert dynamic["cache_mb"] == pytest.approx(20 * token / 1e3)
    assert by_kind["int8"]["params"]["cache.recent"] == 0
    assert by_kind["int8"]["on_front"], "nothing takes less memory"


def test_an_exported_model_is_opened_with_its_cache(searched: Path) -> None:
    number = trials(searched)["int8"]["number"]
    folder = searched / "mlruns" / "exports" / "caches" / "models" / str(number)
    assert {"name": "cache", "settings": INT8} in yaml.safe_load((folder / "recipe.yaml").read_text())["recipe"][
        "steps"
    ]
    model = search.load(folder)
    _, cache = model.program.prefill(np.array([[5, 6, 7, 8]]), np.ones((1, 4), dtype=np.int64))
    assert type(cache).__name__ == "QuantisedCache"
    assert model("a film", max_new_tokens=3)[0]["generated_text"].startswith("a film")
    output = command.search("check", folder, cwd=searched).succeeded().out
    assert "perplexity on the validation split" in output and "its record says" in output


def test_a_recorded_cache_is_built_again(searched: Path) -> None:
    number = trials(searched)["int8"]["number"]
    record = searched / "mlruns" / "exports" / "caches" / "models" / str(number) / "recipe.yaml"
    command.search("apply", record, "--to", searched / "again", cwd=searched).succeeded()
    again = yaml.safe_load((searched / "again" / "recipe.yaml").read_text(encoding="utf-8"))
    before = yaml.safe_load(record.read_text(encoding="utf-8"))
    assert again["recipe"] == before["recipe"]
    perplexities = [one["measurements"]["perplexity"]["value"] for one in (again, before)]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-3)


def test_the_report_and_the_plan_say_what_a_token_takes(searched: Path) -> None:
    page = (searched / "mlruns" / "exports" / "caches" / "front.html").read_text(encoding="utf-8")
    assert "cache a token" in page and "int8 cache, recent 0" in page
    plan = command.search("plan", "config.yaml", cwd=searched).succeeded().out
    assert "for each token of a row: dynamic, static (uncompressed)" in plan and "int8, but for the newest 0" in plan


def outcome(number: int, cache: dict[str, Any], ms: float) -> Outcome:
    steps = (Step("cache", cache),) if cache else ()
    recipe = Recipe("base", "causal-lm", "teacher", steps, {}, Step("eager"))
    measured = {
        TPOT.name: TPOT.measured(ms, (ms * 0.98, ms * 1.02), 64, {}),
        A_TOKEN.name: A_TOKEN.counted(1.0, {"kind": cache.get("kind", "dynamic")}),
    }
    return Outcome(number, recipe, "complete", measurements=measured)


def test_a_cache_that_is_slower_says_so() -> None:
    outcomes = (outcome(0, {}, 60.0), outcome(1, {"kind": "static"}, 61.0), outcome(2, {"kind": "int8"}, 75.0))
    front = Front((Target(TPOT.name, "lower"),), outcomes)
    assert slower_caches(front) == (
        "the int8 cache of 2 is slower here: 75.0 ms a token, and 60.0 ms with the dynamic cache of 0",
    )


def test_the_page_and_the_note_name_slower_caches() -> None:
    int8 = replace(factory.recipe({"cache": {"kind": "int8"}}), recover={})
    members = ((factory.baselines()[0], 60.0), (factory.outcome(3, latency=40.0, candidate=int8), 75.0))
    outcomes = tuple(
        replace(one, measurements={**one.measurements, TPOT.name: TPOT.measured(ms, (ms * 0.98, ms * 1.02), 64, {})})
        for one, ms in members
    )
    front = Front(factory.TARGETS, outcomes)
    for report in (front_html(front, factory.study(front)), note(front, factory.study(front))):
        assert "the int8 cache of 3 is slower here: 75.0 ms a token" in report


def test_of_layers_that_are_not_known_the_bytes_of_a_token_are_said_to_be_unknown(tmp_path: Path) -> None:
    space = Space({"cache.kind": CacheKind().knobs(NO_SHAPE)[0]}, None, (Deployment("eager", "fp32"),))
    assert list(kv_cache_lines(space)) == [
        "cache     bytes of a token are not known: they are counted from the sizes of layers"
    ]
    folder = stored(tmp_path / "model")
    described = json.loads((folder / "config.json").read_text())
    described["base"]["config"]["model_type"] = "mamba"
    (folder / "config.json").write_text(json.dumps(described))
    recipe = Recipe("base", "causal-lm", "teacher", (), {}, Step("eager"))
    assert predicted(recipe, folder, Context(), 1) == {}


@pytest.mark.parametrize(
    ("cache", "tokens"),
    [({}, 40), ({"kind": "static"}, 40), ({"kind": "sliding", "window": 8, "sinks": 4}, 12)],
)
def test_a_step_reads_the_keys_and_values_of_the_prompt(tmp_path: Path, cache: dict[str, Any], tokens: int) -> None:
    """Of three heads of 16 numbers in two blocks, in fp32."""
    folder, prompts = stored(tmp_path / "model"), {"attention_mask": np.ones((2, 40), np.int64)}
    recipe = Recipe("base", "causal-lm", "teacher", (Step("cache", cache),) if cache else (), {}, Step("eager"))
    generating = {**prompts, "new_tokens": np.full(2, 4)}
    assert step_bytes(recipe, folder, Context(cache_tokens=44), generating) == tokens * 3 * 2 * 16 * 4
    assert step_bytes(recipe, folder, Context(), prompts) == 0
