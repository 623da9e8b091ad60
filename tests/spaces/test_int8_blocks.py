"""int4 with int8 blocks: which matrices have which bits, and outputs that are those of the integers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from causal import stored
from opened_graphs import CACHES, RUNTIMES
from torch import nn

from spaces import build, calibration, registry, sensitivity
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.generation.calibrated import calibrated
from spaces.generation.program import open_program
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import onnx
from spaces.weight_groups import groups_to_integers, integers_to_weights

CPU = Context(threads=1)
INT8: Plan = {"precision": "int8"}
INT4: Plan = {"precision": "int4"}
FIRST, SECOND = "model.model.layers.0", "model.model.layers.1"
HEAD = "model.lm_head"


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(4, 97, size=(count, 40))


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut Llama with calibration rows, whose second block is the most sensitive one."""
    folder = stored(tmp_path_factory.mktemp("ordered") / "model")
    calibration.write(folder, {"input_ids": rows(12), "attention_mask": np.ones_like(rows(12))})
    sensitivity.write(folder, {FIRST: 1.0, SECOND: 2.0})
    return folder


def copied(folder: Path, to: Path) -> Path:
    """The folder without its graphs."""
    return Path(shutil.copytree(folder, to / "model", ignore=shutil.ignore_patterns("onnx")))


def bits_of(graph: Path) -> dict[str, int]:
    """The bits of each matrix of a graph, by the path of its module; of those that are one product, each."""
    import onnx as format

    bits: dict[str, int] = {}
    for node in format.load(graph).graph.node:
        attributes = {a.name: format.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "MatMulNBits":
            joint = node.input[1].rpartition(".int")[0]
            bits |= dict.fromkeys(joint.split("+"), attributes["bits"])
    return bits


def scores(folder: Path, plan: Plan, runtime: str = "onnx") -> np.ndarray:
    batch = {"input_ids": rows(2), "attention_mask": np.ones_like(rows(2))}
    return registry.runtime_named(runtime).open(folder, plan, CPU)(batch)["log_likelihood"]


def graph_of(folder: Path, plan: Plan) -> Path:
    onnx.Onnx().open(folder, plan, CPU)
    return folder / onnx.file_of(plan)


def rounded(model: TaskModel, path: str, bits: int) -> None:
    """The weights of the module at `path` become what integers of this many bits stand for."""
    for linear in [m for m in model.get_submodule(path).modules() if isinstance(m, nn.Linear)]:
        groups = groups_to_integers(linear.weight.detach().numpy(), bits)
        linear.weight = nn.Parameter(torch.from_numpy(integers_to_weights(groups, linear.in_features)))


def untied(model: TaskModel) -> None:
    """The head has weights of its own, so that the token table stays as it is."""
    head = model.get_submodule(HEAD)
    assert isinstance(head, nn.Linear)
    head.weight = nn.Parameter(head.weight.detach().clone())


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ({"int8_blocks": 2}, "int4-b2"),
        ({"int8_blocks": 12, "head": "int8", "rounding": "gptq"}, "int4-b12-h8-gptq"),
        ({"int8_blocks": 1, "fp32_blocks": 3, "embeddings": "int8"}, "int4-w3-b1-e8"),
    ],
)
def test_a_graph_s_name_has_the_number_of_int8_blocks(plan: Plan, name: str) -> None:
    for runtime in ("onnx", "openvino"):
        assert registry.runtime_named(runtime).files(INT4 | plan) == (f"onnx/{name}.onnx",)


@pytest.mark.parametrize("rounding", [{}, {"rounding": "gptq"}], ids=["nearest", "gptq"])
@pytest.mark.parametrize(("head", "of_head"), [({}, 4), ({"head": "int8"}, 8)], ids=["body", "int8"])
def test_the_most_sensitive_blocks_have_8_bits_and_the_others_4(
    ordered: Path, head: Plan, of_head: int, rounding: Plan
) -> None:
    bits = bits_of(graph_of(ordered, INT4 | {"int8_blocks": 1} | head | rounding))
    assert {path for path, count in bits.items() if path.startswith(f"{SECOND}.") and count != 8} == set()
    assert {path for path, count in bits.items() if path.startswith(f"{FIRST}.") and count != 4} == set()
    assert len(bits) == 2 * 7 + 1 and bits[HEAD] == of_head


def test_fp32_blocks_come_before_int8_ones(ordered: Path) -> None:
    bits = bits_of(graph_of(ordered, INT4 | {"fp32_blocks": 1, "int8_blocks": 1}))
    assert not [path for path in bits if path.startswith(f"{SECOND}.")]
    assert {count for path, count in bits.items() if path.startswith(f"{FIRST}.")} == {8}


def test_all_blocks_are_int8_and_none_is_int4(ordered: Path) -> None:
    whole = scores(ordered, INT4 | {"int8_blocks": 2, "head": "int8"})
    np.testing.assert_array_equal(whole, scores(ordered, INT8))
    none = registry.axis_named("bits").decide(None, {"precision": "int4", "int8_blocks": 0})  # type: ignore[arg-type]
    assert none == INT4
    sizes = [graph_of(ordered, plan).stat().st_size for plan in (INT4, INT4 | {"int8_blocks": 1}, INT8)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("rounding", [{}, {"rounding": "gptq"}], ids=["nearest", "gptq"])
def test_scores_and_generation_are_those_of_the_integers(
    ordered: Path, rounding: Plan, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a model in PyTorch whose weights are what the integers stand for."""
    monkeypatch.setattr("spaces.generation.onnx_linear.ACCURACY_LEVEL", 1)
    monkeypatch.setattr("spaces.generation.openvino_program.ACTIVATION_GROUP", 0)
    folder, plan = copied(ordered, tmp_path), INT4 | {"int8_blocks": 1, "head": "int8"} | rounding
    model = build.load_model(folder)
    untied(model)
    if rounding:
        groups = calibrated(model, calibration.read(folder), 4, 8, [SECOND])
        head = model.get_submodule(HEAD)
        assert isinstance(head, nn.Linear)
        head.weight = nn.Parameter(torch.from_numpy(integers_to_weights(groups[HEAD], head.in_features)))
    else:
        rounded(model, FIRST, 4)
        rounded(model, HEAD, 8)
    rounded(model, SECOND, 8)
    ids = rows(2)
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.ones(ids.shape, dtype=torch.int64))
    np.testing.assert_allclose(scores(folder, plan, runtime), expected.numpy(), atol=1e-4)
    program = open_program(folder, runtime, plan, CACHES[runtime], CPU)
    first, cache = program.prefill(ids[:, :-2], np.ones_like(ids[:, :-2]))
    for predicted, position in ((first, 38), (program.decode(ids[:, 38], cache), 39)):
        likely = torch.from_numpy(predicted).log_softmax(-1).gather(-1, torch.from_numpy(ids[:, position, None]))
        np.testing.assert_allclose(likely[:, 0].numpy(), expected[:, position].numpy(), atol=1e-4)


def test_each_block_in_int8_brings_scores_nearer_to_fp32(ordered: Path) -> None:
    exact = scores(ordered, {"precision": "fp32"})
    plans = [INT4 | {"head": "int8"} | ({"int8_blocks": count} if count else {}) for count in (0, 2)]
    int4, int8 = (np.abs(scores(ordered, plan) - exact).mean() for plan in plans)
    assert int8 < 0.5 * int4


def test_more_blocks_than_there_are_and_an_order_that_is_not_there_are_refused(ordered: Path, tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"bits\.int8_blocks must be at most the model's 2 blocks, got 3"):
        onnx.Onnx().open(ordered, INT4 | {"int8_blocks": 3}, CPU)
    with pytest.raises(Infeasible, match=r"fp32_blocks and bits\.int8_blocks must be at most .* 2 blocks, got 3"):
        onnx.Onnx().open(ordered, INT4 | {"int8_blocks": 2, "fp32_blocks": 1}, CPU)
    bare = copied(ordered, tmp_path)
    (bare / sensitivity.SENSITIVITY_FILE).unlink()
    with pytest.raises(Infeasible, match=r"bits\.int8_blocks needs .*sensitivity\.json"):
        onnx.Onnx().open(bare, INT4 | {"int8_blocks": 1}, CPU)


def test_runtimes_and_models_without_it_say_so(ordered: Path, decoder: Path) -> None:
    plan = INT4 | {"int8_blocks": 1}
    with pytest.raises(Infeasible, match=r"bits\.int8_blocks: eager has no int4 with blocks of int8; onnx has"):
        open_program(ordered, "eager", plan, CACHES["onnx"], CPU)
    with pytest.raises(Infeasible, match=r"bits\.int8_blocks: only a causal language model has"):
        onnx.Onnx().open(decoder, plan, CPU)
