"""2:4 matrices on the kernels that skip their zeros: torch's semi-structured tensors, over cuSPARSELt or CUTLASS.

This has not run on a GPU yet. It follows torch's documentation of `torch.sparse.to_sparse_semi_structured`, and tests
cover what needs no GPU. Other runtimes refuse such a model, because they would multiply its zeros like other numbers
and be no faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from spaces.anatomy import replace_module
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.sparse_storage import TwoOfFour, sparse_modules

SPARSE_RUNTIMES = ("eager", "compiled")  # those that hand torch's tensor subclasses on to their kernels
SPARSE_PRECISIONS = ("fp16", "bf16")
SPARSE_CAPABILITY = (8, 0)  # sparse tensor cores came with Ampere


def missing(context: Context) -> str | None:
    """Why this device has no kernels for 2:4 matrices, or None."""
    if context.device != "cuda" or not torch.cuda.is_available():
        return f"2:4 sparsity needs the sparse tensor cores of a CUDA device, and this is a {context.device}"
    capability = torch.cuda.get_device_capability()
    if capability < SPARSE_CAPABILITY:
        return f"2:4 sparsity needs compute capability 8.0 or above, and this GPU has {capability[0]}.{capability[1]}"
    return None


def check_kernels(plans: Mapping[str, Plan], runtime: str, precision: str, context: Context) -> None:
    """Raise Infeasible for a model of these plans with 2:4 matrices that `runtime` would run as dense matrices."""
    if plans.get("sparse", {}).get("pattern", "any") == "any":
        return
    why = missing(context)
    if why is None and runtime not in SPARSE_RUNTIMES:
        why = f"{runtime} has no 2:4 kernels: {' and '.join(SPARSE_RUNTIMES)} have"
    if why is None and precision not in SPARSE_PRECISIONS:
        why = f"2:4 kernels multiply {' and '.join(SPARSE_PRECISIONS)}, not {precision}"
    if why is not None:
        raise Infeasible(f"sparse.pattern: {why}")


def lower(model: nn.Module) -> None:
    """Replace all 2:4 matrices by linear layers with a semi-structured weight, and run each once as a check.

    Raises:
        Infeasible: torch has no kernel for one of them here.
    """
    for path, module in sparse_modules(model).items():
        if isinstance(module, TwoOfFour):
            replace_module(model, path, _lowered(path, module))


def _lowered(path: str, module: TwoOfFour) -> nn.Linear:
    linear = module.dense().requires_grad_(False)
    try:
        with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
            warnings.simplefilter("ignore")  # that the interface is a prototype
            weight = torch.sparse.to_sparse_semi_structured(linear.weight.detach())
            linear.weight = nn.Parameter(weight, requires_grad=False)
            # A plain tensor: those of the weight's class know products, and no new_zeros.
            tried = torch.zeros(1, module.in_features, dtype=module.values.dtype, device=module.values.device)
            functional.linear(tried, linear.weight, linear.bias)
    except (RuntimeError, NotImplementedError) as error:
        first = " ".join(str(error).split())[:200]
        raise Infeasible(f"sparse.pattern: no 2:4 kernel for {path} here: {first}") from error
    return linear
