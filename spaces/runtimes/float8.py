"""fp8 products: weights and activations in float8 (e4m3), on the tensor cores that multiply it, through torchao.

Weights have a scale per output, and activations a scale per token that is computed at run time (Micikevicius et al.
2022, arXiv 2209.05433, "FP8 Formats for Deep Learning"). Everything but matrix products stays bf16, and so does a
matrix whose sizes are not multiples of 16.

This has not run on a GPU yet. It follows torchao's documentation and source, and tests cover what needs no GPU.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from spaces.errors import Infeasible
from spaces.runtime import Context

TORCHAO_INSTALL = 'pip install "torchao>=0.13"'
FP8 = "fp8"
FP8_RUNTIMES = ("eager", "compiled", "compiled-max-autotune")  # that run it
FP8_CAPABILITY = (8, 9)  # float8 tensor cores came with Ada and Hopper
MULTIPLE = 16  # of a matrix's inputs and outputs; torchao leaves others unquantised without a warning


def missing(context: Context) -> str | None:
    """Why there are no fp8 kernels here, or None."""
    if context.device != "cuda" or not torch.cuda.is_available():
        return f"fp8 needs a CUDA device of compute capability 8.9 or above, and this is a {context.device}"
    capability = torch.cuda.get_device_capability()
    if capability < FP8_CAPABILITY:
        return f"fp8 needs compute capability 8.9 or above, and this GPU has {capability[0]}.{capability[1]}"
    return None if importlib.util.find_spec("torchao") else f"torchao not installed: {TORCHAO_INSTALL}"


def precisions(context: Context) -> tuple[str, ...]:
    """("fp8",) where it can run, else ()."""
    return () if missing(context) else (FP8,)


def lower(model: nn.Module) -> None:
    """Replace, in place, the weights of every linear layer that the kernels support by float8 ones; of a bf16 model.

    Raises:
        Infeasible: the kernels support none of the layers, or torchao fails on this device.
    """
    linears = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear) and _fits(m)}
    if not linears:
        raise Infeasible(f"fp8: no matrix has inputs and outputs in multiples of {MULTIPLE}")
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

        # torchao would change Inductor's settings for every model that this process compiles later.
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
        quantize_(model, config, filter_fn=lambda _, path: path in linears)
    except (ImportError, AssertionError, RuntimeError, NotImplementedError, TypeError) as error:
        first = " ".join(str(error).split())[:200]
        raise Infeasible(f"torchao gave no fp8 weights ({type(error).__name__}: {first}): {TORCHAO_INSTALL}") from error


def _fits(linear: nn.Linear) -> bool:
    return linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0
