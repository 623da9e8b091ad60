"""Searches over models that are not a plain encoder: a head of their own, an unknown family, no C++ compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import command
import pytest
import tiny
from conftest import Finished, state_of


def test_a_model_with_its_own_head_is_searched_as_it_is(tmp_path: Path, finished: Finished) -> None:
    """No training of a teacher; the head's own names of labels hold, in its order."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from spaces import build

    model = tiny.trained(tiny.classifier(tmp_path / "model", labels=("positive", "negative")))
    config = command.write_config(
        finished.config.with_name("native.yaml"),
        model={"name": str(model)},
        teacher={"epochs": 0},
        space={"runtime": {"name": "eager"}, "bits": "off"},
        budget={"trials": 2},
    )
    ended = command.search("run", config, cwd=tmp_path).succeeded()
    outcomes = state_of(tmp_path / "mlruns", "native").outcomes
    assert [o.status for o in outcomes] == ["complete"] * 2, [o.reason for o in outcomes]
    assert [bool(o.recipe.compressed) for o in outcomes] == [False, True]
    assert "teacher ..." in finished.runs[0].out and "teacher ..." not in ended.out
    ours = build.load_model(tmp_path / "mlruns" / outcomes[0].folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(model).eval()
    ids = {"input_ids": torch.tensor([[2, 7, 12, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    with torch.inference_mode():
        torch.testing.assert_close(ours(**ids), theirs(**ids).logits)


def test_of_a_model_of_unknown_family_bits_and_runtime_are_searched(tmp_path: Path, finished: Finished) -> None:
    model = tiny.unknown(tmp_path / "model")
    config = command.write_config(
        finished.config.with_name("albert.yaml"),
        model={"name": str(model)},
        space={"distill": "off", "prune": "off"},
        budget={"trials": 5},
    )
    ended = command.search("run", config, cwd=tmp_path).succeeded()
    assert "the layout of model family 'albert' is not known" in ended.out
    assert "only bits and runtime are searched" in ended.out
    outcomes = state_of(tmp_path / "mlruns", "albert").outcomes
    # The sampler may also draw the pair that has no kernels here.
    assert {o.reason for o in outcomes} <= {"", "eager has no int8 kernels on this cpu"}
    complete = [o for o in outcomes if o.status == "complete"]
    assert {(o.recipe.runtime.name, bool(o.recipe.steps)) for o in complete} == {
        ("eager", False),
        ("onnx", False),
        ("onnx", True),
    }


def test_an_axis_asked_of_an_unknown_family_is_refused(tmp_path: Path, finished: Finished) -> None:
    model = tiny.unknown(tmp_path / "model")
    config = command.write_config(finished.config.with_name("cut.yaml"), model={"name": str(model)})
    ended = command.search("run", config, cwd=tmp_path)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {config}: space.distill: the layout of model family 'albert' is not known")
    assert len(ended.err.splitlines()) <= 2


@pytest.fixture
def without_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has no C++ compiler."""
    empty = tmp_path / "bin"
    empty.mkdir()
    environment = command.environment(PATH=str(empty))
    environment.pop("CXX", None)
    return environment


def test_without_a_compiler_the_compiled_runtime_is_left_out_and_the_rest_runs(
    finished: Finished, without_compiler: dict[str, str]
) -> None:
    """A study of its own in the shared results folder: its teacher is there already."""
    overrides = ["--study", "no-compiler", "--trials", "1", "--set", "space.runtime.name=[eager,compiled]"]
    ended = command.search("run", finished.config, *overrides, cwd=finished.folder, env=without_compiler).succeeded()
    assert "compiled is left out: torch.compile needs a C++ compiler, and none is on the PATH" in ended.out
    assert [o.recipe.runtime.name for o in state_of(finished.mlruns, "no-compiler").outcomes] == ["eager"]
    only = ["--study", "only-compiled", "--set", "space.runtime.name=compiled"]
    refused = command.search("run", finished.config, *only, cwd=finished.folder, env=without_compiler)
    assert refused.code == 2
    assert "none of compiled can run here (compiled: torch.compile needs a C++ compiler" in refused.err
    shutil.rmtree(finished.mlruns / "exports" / "no-compiler")
