"""The sizes that a stored model's roofline follows from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objectives import roofline
from search.space.stored_sizes import model_sizes

SMALL = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from spaces.base import Base, skeleton, write_folder

    folder = tmp_path_factory.mktemp("model")
    base = Base("small", "none", "mean", ("a", "b"), ("input_ids", "attention_mask"), SMALL)
    write_folder(folder, skeleton(base), base, {})
    return folder


def test_the_sizes_are_those_of_the_stored_weights(stored: Path) -> None:
    sizes = model_sizes(stored)
    assert sizes is not None
    block = [(16, 16)] * 4 + [(16, 40), (40, 16)]
    assert sorted(sizes.token_matrices) == sorted(block * 2)
    assert sizes.row_matrices == ((16, 2),)
    assert sizes.attention == (16, 16)
    assert sizes.tables == (16, 16, 16)  # words, positions, segments


def test_the_operations_are_those_that_torch_counts_for_the_whole_model(stored: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from spaces import build

    model, sizes = build.load_model(stored), model_sizes(stored)
    assert sizes is not None
    model.backbone.set_attn_implementation("eager")  # type: ignore[operator] # torch counts no fused attention on a CPU
    ids = torch.from_numpy(np.ones((3, 9), dtype=np.int64))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert roofline.work(sizes, [9, 9, 9], "fp32").operations == counter.get_total_flops()


@pytest.mark.parametrize("pattern", ["any", "2-of-4"])
def test_zeros_are_work_unless_a_kernel_skips_them(pattern: str, tmp_path: Path) -> None:
    from spaces import registry
    from spaces.base import Base, skeleton, write_folder

    config = {**SMALL, "hidden_size": 64, "intermediate_size": 192}
    base = Base("small", "none", "mean", ("a", "b"), ("input_ids", "attention_mask"), config)
    sizes = []
    for plans in ({}, {"sparse": {"weights": 0.5} | ({} if pattern == "any" else {"pattern": pattern})}):
        model = skeleton(base)
        for name, plan in plans.items():
            registry.axis_named(name).reshape(model, plan)
        write_folder(tmp_path / str(len(plans)), model, base, plans)
        sizes.append(model_sizes(tmp_path / str(len(plans))))
    whole, sparse = sizes
    assert whole is not None and sparse is not None
    factor = 1 if pattern == "any" else 2
    assert sorted((inputs // factor, outputs) for inputs, outputs in whole.token_matrices) == sorted(
        sparse.token_matrices
    )
    assert (sparse.attention, sparse.tables, sparse.row_matrices) == (whole.attention, whole.tables, whole.row_matrices)


def test_a_family_that_is_not_known_has_no_roofline(stored: Path) -> None:
    text = (stored / "config.json").read_text()
    assert '"model_type": "bert"' in text
    other = stored.parent / "other"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text(text.replace('"model_type": "bert"', '"model_type": "unheard"'))
    assert model_sizes(other) is None
