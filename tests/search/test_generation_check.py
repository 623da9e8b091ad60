"""An exported causal language model generates what it did when it was exported, or the check refuses it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from causal import stored

from objectives.bench import Bench
from objectives.process import Remote
from search.deliver import generation_check, verify
from search.deliver.best_config import BestConfig
from spaces import build, registry
from spaces.errors import Infeasible
from spaces.generation.onnx_program import OnnxProgram, OnnxStaticCache
from spaces.recipe import Recipe, Step
from spaces.runtime import Context

CONTEXT = Context(threads=1, cache_tokens=40)
CONFIG = {"task": "causal-lm", "metric": "perplexity", "data": {"train": "train.txt"}, "model": {}}
OPENVINO = registry.runtime_named("openvino").missing(CONTEXT)


class Here:
    """The model opened in this process, under the calls of a process of its own."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        opening = partial(build.open_predict, folder, recipe.runtime.name, build.precision_of(recipe), CONTEXT)
        self._bench = Bench(opening)

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        return getattr(self._bench, name)(*arguments)


def exported(folder: Path, runtime: str, precision: str) -> tuple[Path, BestConfig]:
    """A folder with its reference, and a record that names the recipe."""
    stored(folder)
    bits = () if precision == "fp32" else (Step("bits", {"precision": precision}),)
    recipe = Recipe("base", "causal-lm", "teacher", bits, {}, Step(runtime))
    bench = opened(folder, recipe)
    inputs = verify.probe(folder)
    probed = bench.call("predict", inputs)
    masks = [batch["attention_mask"].astype(bool) for batch in inputs]
    scores = np.concatenate([outputs["log_likelihood"][m] for outputs, m in zip(probed, masks, strict=True)])
    generated = generation_check.generate(bench, inputs[0], CONTEXT)
    np.savez(folder / verify.REFERENCE, probe=scores, **generated)  # type: ignore[arg-type]
    return folder, cast(BestConfig, SimpleNamespace(recipe=recipe, config=CONFIG, conditions={"hardware": {}}))


def opened(folder: Path, recipe: Recipe) -> Remote:
    return cast(Remote, Here(folder, recipe))


def checked(folder: Path, record: BestConfig) -> verify.CheckResult:
    return verify.outputs(folder, record, CONTEXT, opened(folder, record.recipe))


@pytest.fixture(autouse=True)
def of_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "same_kind", lambda record, context: "")


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        ("eager", "fp32"),
        ("onnx", "fp32"),
        ("onnx", "int4"),
        pytest.param("openvino", "int4", marks=pytest.mark.skipif(OPENVINO is not None, reason=str(OPENVINO))),
    ],
)
def test_what_is_exported_generates_the_recorded_answer(tmp_path: Path, runtime: str, precision: str) -> None:
    folder, record = exported(tmp_path / "model", runtime, precision)
    result = checked(folder, record)
    assert result.problem == "" and len(result.lines) == 2
    assert "16 tokens generated through the cache: largest difference of log probabilities" in result.lines[1]


def test_int4_of_pytorch_is_opened_again_and_refused_where_there_is_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("spaces.runtimes.int4.missing", lambda context: None)  # it runs on a CPU's kernels
        folder, record = exported(tmp_path / "model", "eager", "int4")
        assert checked(folder, record).problem == ""
    with pytest.raises(Infeasible, match="int4 under PyTorch needs a CUDA device"):
        build.open_recipe(folder, record.recipe, CONTEXT)


def test_a_scale_that_was_altered_in_the_graph_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    folder, record = exported(tmp_path / "model", "onnx", "int4")
    path = folder / "onnx" / "int4.onnx"
    graph = onnx.load(path)
    scales = next(t for t in graph.graph.initializer if t.name.endswith("down_proj.int4.scales"))
    scales.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scales) * np.float32(1.2), scales.name))
    onnx.save(graph, path)
    assert "tokens generated through the cache" in checked(folder, record).problem


def test_a_wrong_cache_is_refused_though_every_score_is_as_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = exported(tmp_path / "model", "onnx", "fp32")
    decode = OnnxProgram.decode

    def forgetful(self: OnnxProgram, tokens: np.ndarray, cache: OnnxStaticCache) -> np.ndarray:
        if cache.length == 28:  # of one block the keys of the prompt
            cache.buffers["0.key"][:, :, :8] = 0
        return decode(self, tokens, cache)

    monkeypatch.setattr(OnnxProgram, "decode", forgetful)
    result = checked(folder, record)
    assert "tokens generated" in result.problem and "fixed inputs" not in result.problem


def test_two_tokens_that_are_nearly_as_likely_may_change_places(tmp_path: Path) -> None:
    folder, record = exported(tmp_path / "model", "eager", "fp32")
    bench, inputs = opened(folder, record.recipe), verify.probe(folder)
    wanted = generation_check.generate(bench, inputs[0], CONTEXT)
    assert generation_check.largest_difference(bench, inputs[0], CONTEXT, wanted) == 0
    chosen = {**wanted, generation_check.GENERATED: wanted[generation_check.GENERATED].copy()}
    chosen[generation_check.GENERATED][-1] = (chosen[generation_check.GENERATED][-1] + 1) % 97
    assert generation_check.largest_difference(bench, inputs[0], CONTEXT, chosen) > 0.1, "one that is far less likely"


def test_a_cache_of_few_tokens_has_room_for_the_probe(tmp_path: Path) -> None:
    folder, record = exported(tmp_path / "model", "onnx", "fp32")
    few = Context(threads=1, cache_tokens=9)
    generated = generation_check.generate(opened(folder, record.recipe), verify.probe(folder)[0], few)
    assert generated[generation_check.GENERATED].shape == generated[generation_check.GENERATED_LIKELIHOOD].shape == (4,)
