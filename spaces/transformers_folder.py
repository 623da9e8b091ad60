"""Models whose shapes a transformers configuration can express: uncut ones, and those with equal blocks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spaces.anatomy import anatomy_of
from spaces.errors import Infeasible
from spaces.heads import TaskModel

#: Names of the width of feed-forward layers in transformers configurations.
NEURONS = ("intermediate_size", "hidden_dim", "n_inner")
#: Prefix of a module that may have been dropped. Its parameters are stored as zeros, because transformers would
#: initialise missing ones at random.
UNUSED = "pooler."


def write_plain(model: TaskModel, folder: Path) -> None:
    """The backbone of `model` as a folder that `AutoModel.from_pretrained` loads; every tensor of it is stored.

    Raises:
        Infeasible: no transformers configuration has these shapes. Nothing is written then.
    """
    from transformers import AutoModel

    backbone = model.backbone
    config: Any = copy.deepcopy(backbone.config)
    _set_neurons(model, config)
    _check_head_size(model, config)
    with torch.device("meta"):
        named = AutoModel.from_config(config, trust_remote_code=False)
    wanted = {name: tuple(tensor.shape) for name, tensor in named.state_dict().items()}
    tensors: dict[str, Tensor] = {name: t.detach().clone().contiguous() for name, t in backbone.state_dict().items()}
    tensors |= {n: torch.zeros(shape) for n, shape in wanted.items() if n not in tensors and n.startswith(UNUSED)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != wanted:
        other = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        raise Infeasible(f"no transformers configuration has the shape of {other[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [type(named).__name__]
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _check_head_size(model: TaskModel, config: Any) -> None:
    """Raise Infeasible where transformers would make heads of another size: shapes alone do not tell them apart."""
    try:
        size = anatomy_of(model.backbone).head_dim
    except Infeasible:
        return
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or (hidden // heads if hidden % heads == 0 else None)
    if head_dim != size:
        raise Infeasible(f"no transformers configuration has heads of {size} channels with a hidden size of {hidden}")


def _set_neurons(model: TaskModel, config: Any) -> None:
    """The width of the feed-forward layers, where it is one; blocks of an unknown family are never cut."""
    try:
        anatomy = anatomy_of(model.backbone)
    except Infeasible:
        return
    downs = [block.get_submodule(anatomy.family.down) for block in anatomy.blocks]
    widths = {down.in_features if isinstance(down, nn.Linear) else None for down in downs}  # None: of other modules
    for name in NEURONS:
        if None not in widths and len(widths) == 1 and getattr(config, name, None) is not None:
            setattr(config, name, *widths)
