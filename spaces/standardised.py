"""A head whose outputs are numbers in the data's unit is trained on standardised ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spaces.base import TaskModel


def last_linear(model: TaskModel) -> nn.Linear | None:
    """The last linear layer outside the backbone: what gives a head's outputs; None where there is none."""
    inside = set(model.backbone.modules())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside]
    return linears[-1] if linears else None


@contextmanager
def standardised(model: TaskModel, mean: float, scale: float, fresh: bool) -> Iterator[None]:
    """Inside, the weights of the last layer are those of outputs with this mean and scale taken off.

    What the model gives is in the data's unit all the time: a hook multiplies and adds. So the rates of AdamW, whose
    steps have no unit, fit data of any. `fresh`: the weights are random, and not yet in the data's unit. The mean of a
    layer without a bias stays in its weights.
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
    """The outputs of `layer` become `factor` times what they were, and `added`."""
    with torch.no_grad():
        layer.weight.mul_(factor)
        if layer.bias is not None:
            bias: Tensor = layer.bias
            bias.mul_(factor).add_(added)
