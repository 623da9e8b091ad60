"""Sizes from settings alone, against those of models that were really built."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import models
import numpy as np
import pytest
from causal import MODELS, stored
from param_counts import params_of

from objectives.shapes import Shapes, megabytes_of, operations_of
from search.space.sizes import Outline, outline_of, shapes_of, shapes_of_folder
from search.space.space import Space
from spaces import build, registry
from spaces.base import WEIGHTS, write_folder
from spaces.build import steps_of
from spaces.knob import Value
from spaces.shape import LayerShape, Shape

Params = Mapping[str, Value]
SAME_SHARE = {"prune.criterion": "uniform", "low_rank.allocation": "uniform"}
CASES = ("bert", "electra-projected", "distilbert", "mpnet", "llama", "qwen2", "gpt2", "deberta-v2")


def space_of(case: str) -> Space:
    return Space({}, models.subject(case).statistics.shape, ())


def built(folder: Path, case: str, params: Params) -> Path:
    """A folder of the model that these settings make."""
    subject = models.subject(case)
    model, plans = models.built(subject, *steps_of(params, subject.statistics.shape))
    write_folder(folder, model, subject.base, plans)
    return folder


def both(tmp_path: Path, case: str, params: Params) -> tuple[Shapes, Shapes]:
    """From the settings, and as built."""
    outline = outline_of(built(tmp_path / "whole", case, {}))
    exact = shapes_of_folder(built(tmp_path / "cut", case, params))
    assert outline is not None and exact is not None
    return shapes_of(space_of(case), [params], outline), exact


def possible(case: str, params: Params) -> Params:
    """`params` less the knobs that this family does not offer."""
    shape = models.subject(case).statistics.shape
    offered = {f"{axis.name}.{knob.name}" for axis in registry.axes() for knob in axis.knobs(shape)}
    return {name: value for name, value in params.items() if name in offered}


def sums(shapes: Shapes) -> list[float]:
    """All that time and size follow from; of the matrices, by sums over them."""
    totals = [shapes.count, shapes.count * shapes.inputs, shapes.count * shapes.outputs]
    totals += [shapes.count * shapes.inputs * shapes.outputs]
    rest = (shapes.blocks, shapes.attention, shapes.hidden, shapes.row_weights, shapes.row_matrices)
    return [float(a.sum()) for a in (*totals, *rest, shapes.tables, shapes.vectors, params_of(shapes))]


SETTINGS: tuple[Params, ...] = (
    {},
    {"distill.layers": 2},
    {"distill.width": 0.5},
    {"prune.neurons": 0.5, "prune.heads": 0.5},
    {"low_rank.rank": 0.4},
    {"low_rank.embeddings": 0.5},
    {"distill.layers": 1, "distill.width": 0.5, "prune.neurons": 0.25, "prune.heads": 0.75, "low_rank.rank": 0.6},
    {"distill.layers": 2, "distill.width": 0.5, "low_rank.embeddings": 0.3},
)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("params", SETTINGS)
def test_sizes_from_settings_are_those_of_the_model_that_is_built(tmp_path: Path, case: str, params: Params) -> None:
    ours, exact = both(tmp_path, case, {**possible(case, params), **SAME_SHARE})
    assert sums(ours) == pytest.approx(sums(exact))


def test_the_parameters_of_a_stored_model_are_all_of_its_weights(tmp_path: Path) -> None:
    for case in CASES:
        folder = models.stored(tmp_path / case, case)
        shapes = shapes_of_folder(folder)
        assert shapes is not None
        assert params_of(shapes).tolist() == [sum(p.numel() for p in build.load_model(folder).parameters())]


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_a_tied_token_table_is_counted_once(tmp_path: Path, name: str) -> None:
    """Of the three Llama and GPT-2 are tied. Predicted from the settings and from the stored shapes, against the file;
    with an integer head the table is in the graph once more, as rows.
    """
    folder = stored(tmp_path, name)
    shapes, parameters = shapes_of_folder(folder), list(build.load_model(folder).parameters())
    assert shapes is not None
    assert params_of(shapes).tolist() == [sum(p.numel() for p in parameters)]
    assert megabytes_of(shapes, "fp32")[0] * 1e6 == pytest.approx((folder / WEIGHTS).stat().st_size, rel=0.05, abs=4000)
    table = 97 * 32
    assert shapes.tied.tolist() == [0 if name == "mistral" else table]
    vectors = sum(p.numel() for p in parameters if p.ndim == 1)
    in_blocks = sum(p.numel() for p in parameters if p.ndim == 2) - (2 if name == "mistral" else 1) * table
    rows = table + (256 * 32 if name == "gpt2" else 0)  # of tokens, and of positions
    in_blocks -= rows - table
    expected = (in_blocks + table) + 4 * (rows + vectors)
    assert megabytes_of(shapes, "int8") * 1e6 == pytest.approx([expected])


@pytest.mark.parametrize("tied", [True, False])
def test_the_settings_of_a_causal_model_give_the_parameters_that_it_has(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, settings = MODELS["llama"]
    monkeypatch.setitem(MODELS, "llama", (kind, {**settings, "tie_word_embeddings": tied}))
    folder = stored(tmp_path, "llama")
    outline = outline_of(folder)
    assert outline is not None and outline.tied == tied
    layers = (LayerShape(heads=2, neurons=48), LayerShape(heads=1, neurons=20))
    shape = Shape(hidden=32, head_dim=16, group=2, layers=layers, prunable_heads=True, prunable_hidden=True)
    ours, exact = shapes_of(Space({}, shape, ()), [{}], outline), shapes_of_folder(folder)
    assert exact is not None and params_of(ours) == pytest.approx(params_of(exact))
    assert params_of(exact).tolist() == [sum(p.numel() for p in build.load_model(folder).parameters())]


@pytest.mark.parametrize("params", [{"prune.neurons": 0.5, "prune.heads": 0.5}, {"low_rank.rank": 0.5}])
def test_a_budget_over_all_blocks_keeps_the_same_sums_up_to_rounding(tmp_path: Path, params: Params) -> None:
    ours, exact = both(tmp_path, "bert", params)
    assert params_of(ours) == pytest.approx(params_of(exact), rel=0.05)
    assert operations_of(ours, 1, 32) == pytest.approx(operations_of(exact, 1, 32), rel=0.08)


@pytest.mark.parametrize("others", [{}, {"prune.heads": 0.25}, {"prune.neurons": 0.25}, {"prune.heads": 0.5}])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_budget_of_products_is_kept(share: float, others: Params) -> None:
    shape = Shape(
        hidden=384,
        head_dim=32,
        group=1,
        layers=(LayerShape(heads=12, neurons=1536),) * 6,
        prunable_heads=True,
        prunable_hidden=True,
    )
    pool: list[Params] = [{}, {"prune.flops": share, **others}, others]
    whole, capped, free = shapes_of(Space({}, shape, ()), pool).weights
    assert capped / whole == pytest.approx(min(share, free / whole), rel=0.02)


def test_a_pool_is_the_same_as_its_settings_one_by_one() -> None:
    outline = Outline(1, frozenset({"query"}), 4, 2, 3, ((61, 64), (40, 64)), ((64, 3),))
    space = space_of("bert")
    together = shapes_of(space, list(SETTINGS), outline)
    assert [shapes_of(space, [params], outline).to_json()[0] for params in SETTINGS] == together.to_json()


def test_five_thousand_settings_take_a_moment() -> None:
    rng = np.random.default_rng(0)
    pool = [{**SETTINGS[6], "distill.layers": int(rng.integers(1, 4))} for _ in range(5000)]
    space = space_of("bert")
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        assert len(shapes_of(space, pool)) == 5000
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.5  # 0.1 is promised: a test is no benchmark


def test_without_a_known_anatomy_there_are_no_sizes() -> None:
    with pytest.raises(ValueError, match="anatomy is not known"):
        shapes_of(Space({}, None, ()), [{}])
