"""Precisions in a search: deployments that are tried, the start, and what every set of weights has beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import command
import numpy as np
import pytest
import yaml
from conftest import Finished

from search.config.load import from_mapping, load_config
from search.deliver.export import files_of
from search.propose.deployment_choice import DeploymentSelector
from search.space.choices import names
from search.space.deployments import Deployment, siblings
from search.space.space import Space, anchors, open_space
from search.tasks.encoded import read_encoded
from spaces import calibration, sensitivity
from spaces.axes.bits import Bits
from spaces.runtime import Context
from spaces.shape import NO_SHAPE, LayerShape, Shape

from . import factory

SHAPE = Shape(
    hidden=64, head_dim=16, group=1, layers=(LayerShape(4, 64),) * 6, prunable_heads=True, prunable_hidden=True
)


def opened(**bits: object) -> Space:
    """The space of a configuration that says this of bits."""
    config = load_config(None, [], names())
    mapping = {**config.to_mapping(), "space": {"bits": bits, "runtime": {"name": ["eager", "onnx"]}}}
    return open_space(from_mapping(mapping, names()), SHAPE, Context())


def test_the_embedded_default_searches_the_precisions_it_names_and_no_other_bits() -> None:
    config = load_config(None, [], names())
    space = open_space(config, SHAPE, Context())
    assert {n for n in space.searched if n.startswith("bits.")} <= {"bits.precision"}
    assert {deployment.precision for deployment in space.deployments} <= {"fp32", "int8"}
    described = {name for name in space.to_json()["knobs"] if name.startswith("bits.")}
    assert described == {"bits.precision"}


def test_blocks_and_embeddings_are_searched_where_the_user_opens_them() -> None:
    assert {n for n in opened().searched if n.startswith("bits.")} == {"bits.precision"}
    space = opened(fp32_blocks=[0, 2], embeddings=["as-is", "int8"])
    assert space.knobs["bits.fp32_blocks"].values() == [0, 1, 2]
    assert space.knobs["bits.embeddings"].choices == ("as-is", "int8")


def test_no_anchor_starts_from_a_precision_that_may_lose_much() -> None:
    space = opened()
    if "int4" not in space.knobs["bits.precision"].choices:
        pytest.skip("needs ONNX Runtime")
    precisions = {settings["bits.precision"] for settings in anchors(space)}
    assert precisions and not precisions & {"int8-static", "int4", "fp8"}


def test_siblings_spare_the_same_blocks_under_every_integer_precision() -> None:
    pairs = [("eager", "fp32"), ("onnx", "fp32"), ("onnx", "int8"), ("onnx", "int4"), ("openvino", "int8-static")]
    recipe = factory.recipe({"bits": {"precision": "int8", "fp32_blocks": 2, "embeddings": "int8"}}, "onnx")
    by_pair = {}
    for sibling in siblings(recipe, [Deployment(*pair) for pair in pairs]):
        bits = sibling.step("bits")
        by_pair[sibling.runtime.name, str(bits.settings.get("precision", "fp32")) if bits else "fp32"] = sibling
    assert set(by_pair) == set(pairs) - {("onnx", "int8")}, "its own pair is itself"
    assert not by_pair["eager", "fp32"].steps
    assert by_pair["onnx", "fp32"].steps[-1].settings == {"embeddings": "int8"}
    assert by_pair["onnx", "int4"].steps[-1].settings == {"precision": "int4", "fp32_blocks": 2, "embeddings": "int8"}
    assert by_pair["openvino", "int8-static"].steps[-1].settings == {"precision": "int8-static", "fp32_blocks": 2}
    assert all(r.weights_digest == recipe.weights_digest for r in by_pair.values())


def test_what_a_space_fixes_of_bits_is_fixed_of_siblings_under_other_runtimes_too() -> None:
    bits = {knob.name: knob for knob in Bits().knobs(NO_SHAPE)}
    fixed = {"bits.rounding": bits["rounding"].fixed("gptq"), "bits.head": bits["head"].fixed("int8")}
    deployments = tuple(Deployment(*pair) for pair in (("eager", "fp32"), ("onnx", "int8"), ("onnx", "int4")))
    recipe = factory.recipe({}, "eager")
    by_runtime = {
        str(r.params.get("bits.precision")): r for r in DeploymentSelector(Space(fixed, None, deployments))(recipe)
    }
    assert by_runtime["int4"].params.items() >= {"bits.rounding": "gptq", "bits.head": "int8"}.items()
    assert "bits.rounding" not in by_runtime["int8"].params and by_runtime["int8"].params["bits.head"] == "int8"
    searched = Space({f"bits.{name}": knob for name, knob in bits.items()}, None, deployments)
    assert not any({"bits.rounding", "bits.head"} & set(r.params) for r in DeploymentSelector(searched)(recipe))


def test_every_set_of_weights_has_training_rows_without_labels_and_the_order_of_its_blocks(finished: Finished) -> None:
    cache = finished.mlruns / "cache"
    (data,) = (cache / "data").iterdir()
    training, _ = read_encoded(data / "train.npz")
    rows = {tuple(row) for row in training.columns["input_ids"]}
    folders = [*(cache / "teacher").iterdir(), *(cache / "weights").iterdir()]
    assert len(folders) > 1
    for folder in folders:
        with np.load(folder / calibration.CALIBRATION_FILE) as stored:
            assert set(stored.files) <= {"input_ids", "attention_mask", "token_type_ids"}
        calibrated = calibration.read(folder)
        assert len(calibrated) == min(calibration.CALIBRATION_ROWS, len(training))
        assert {tuple(row["input_ids"][0]) for row in calibrated} <= rows
        blocks = json.loads((folder / sensitivity.SENSITIVITY_FILE).read_text())["blocks"]
        scores = [block["score"] for block in blocks]
        assert scores == sorted(scores, reverse=True) and min(scores) > 0
        taken = files_of(folder, factory.recipe(runtime="eager"))
        assert sensitivity.SENSITIVITY_FILE in taken and calibration.CALIBRATION_FILE not in taken


@pytest.mark.parametrize(
    ("bits", "message"), [({"fp32_blocks": [0, 9]}, "between 0 and 2"), ({"fp32_blocks": "two"}, "fp32_blocks")]
)
def test_blocks_that_a_model_does_not_have_are_refused(
    bits: dict[str, object], message: str, finished: Finished, tmp_path: Path
) -> None:
    model = yaml.safe_load(finished.config.read_text())["model"]
    config = command.write_config(finished.config.with_name("wide.yaml"), model=model, space={"bits": bits})
    shutil.copytree(finished.mlruns / "cache", tmp_path / "mlruns" / "cache")
    command.refused(command.search("run", config, cwd=tmp_path), [f"{config}: space.bits.fp32_blocks", message])
