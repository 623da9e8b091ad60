"""Plain sizes of many models: what they must agree with, and how they travel."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from param_counts import params_of

from objectives import roofline
from objectives.shapes import (
    COSTS,
    MATRIX_FIELDS,
    SCALARS,
    Shapes,
    features,
    megabytes_of,
    operations_of,
)

SIZES = roofline.Sizes(
    token_matrices=((16, 16),) * 8 + ((16, 40), (40, 16)) * 2,
    row_matrices=((16, 2),),
    attention=(16, 16),
    tables=(16, 16),
)


def model() -> Shapes:
    return Shapes.of(SIZES, hidden=16, tables=1600, vectors=300)


@pytest.mark.parametrize(("rows", "length"), [(1, 7), (3, 9)])
def test_the_operations_are_those_of_the_roofline(rows: int, length: int) -> None:
    wanted = roofline.work(SIZES, [length] * rows, "fp32").operations
    assert operations_of(model(), rows, length).tolist() == [wanted]


def test_parameters_and_megabytes_count_every_number_once() -> None:
    numbers = SIZES.weights + 1600 + 300
    assert params_of(model()).tolist() == [numbers]
    assert megabytes_of(model(), "fp32") * 1e6 == pytest.approx([4 * numbers])
    assert megabytes_of(model(), "fp16") * 1e6 == pytest.approx([2 * numbers])
    assert megabytes_of(model(), "int8") * 1e6 == pytest.approx([SIZES.weights + 4 * 1900])
    assert megabytes_of(model(), "int8", tables="int8") * 1e6 == pytest.approx([SIZES.weights + 1600 + 4 * 300])
    in_blocks = SIZES.weights - 32
    assert megabytes_of(model(), "int4", head="int8") * 1e6 == pytest.approx([in_blocks / 2 + 32 + 4 * 1900])
    one_of_two = megabytes_of(model(), "int8", fp32_blocks=1)
    assert one_of_two * 1e6 == pytest.approx([2.5 * in_blocks + 32 + 4 * 1900])
    for int8_blocks, share in ((1, 0.75), (2, 1.0), (3, 1.0)):
        mixed = megabytes_of(model(), "int4", head="int8", int8_blocks=int8_blocks)
        assert mixed * 1e6 == pytest.approx([share * in_blocks + 32 + 4 * 1900])
    both = megabytes_of(model(), "int4", fp32_blocks=1, int8_blocks=1)
    assert both * 1e6 == pytest.approx([2.5 * in_blocks + 16 + 4 * 1900])
    with pytest.raises(ValueError, match="precision must be one of"):
        megabytes_of(model(), "int3")
    with pytest.raises(ValueError, match="precision must be one of"):
        megabytes_of(model(), "int8", tables="as-is")


def test_every_cost_is_counted_and_none_falls_when_a_size_grows() -> None:
    before = features(model(), 2, 8)
    assert before.shape == (1, len(COSTS)) and (before > 0).all()
    for name in (*MATRIX_FIELDS, *SCALARS):
        larger = replace(model(), **{name: getattr(model(), name) * 2})
        assert (features(larger, 2, 8) >= before).all(), name


def test_models_travel_as_json_and_equal_ones_are_written_equally() -> None:
    two = Shapes.from_json(json.loads(json.dumps([*model().to_json(), *model().to_json()])))
    assert len(two) == 2
    assert two[:1].to_json() == two[1:].to_json() == model().to_json()
    padded = replace(model(), **{n: np.pad(getattr(model(), n), ((0, 0), (2, 1))) for n in MATRIX_FIELDS})
    assert padded.to_json() == model().to_json()


@pytest.mark.parametrize("broken", [{"blocks": -1}, {"hidden": float("nan")}, {"matrices": [[1, 2]]}, {"tables": None}])
def test_what_is_no_model_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Shapes.from_json([{**model().to_json()[0], **broken}])


def test_sizes_of_unlike_numbers_of_models_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be of shape"):
        replace(model(), hidden=np.ones(2))
