"""Training of heads whose outputs are numbers in the data's unit, on standardised numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spaces.base import TaskModel


def last_linear(model: TaskModel) -> nn.Linear | None:
    """The last linear layer outside the backbone, which gives a head's outputs; None where there is none."""
    inside = set(model.backbone.modules())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside]
    return linears[-1] if linears else None


@contextmanager
def standardised(model: TaskModel, mean: float, scale: float, fresh: bool) -> Iterator[None]:
    """Inside the block, the last layer's weights give standardised outputs, (y - `mean`) / `scale`.

    A hook converts these to the data's unit, so the model's outputs keep that unit. The steps of AdamW have no unit, so
    one learning rate then fits data of any scale. `fresh`: the weights are random, and not yet in the data's unit. A
    layer without a bias keeps its mean.
    """
    layer = last_linear(model)
    if layer is None:
        yield
        return
    shift = 0.0 if layer.bias is None else mean
    if not fresh:
        _rescale(layer, 1 / scale, -shift / scale)
    hook = layer.register_forward_hook(lambda _module, _inputs, output: output.float() * scale + shift)
    try:
        yield
    finally:
        hook.remove()
        _rescale(layer, scale, shift)


def _rescale(layer: nn.Linear, factor: float, added: float) -> None:
    """Multiply the outputs of `layer` by `factor` and add `added` to them, through its weights."""
    with torch.no_grad():
        layer.weight.mul_(factor)
        if layer.bias is not None:
            bias: Tensor = layer.bias
            bias.mul_(factor).add_(added)
