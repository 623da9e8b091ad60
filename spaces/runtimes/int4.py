"""Products of bf16 activations with weights of four bits: PyTorch's own tile-packed kernels, on CUDA.

The kernel multiplies by (number - 8) * scale + offset in bf16. With an offset of scale * (8 - zero) that is
scale * (number - zero), but for rounding: by at most a sixth of a group's step, where rounding to four bits moves a
weight by up to half a step. A matrix of any size fits: inputs are padded to whole groups, and outputs to whole tiles.

This has not run on a GPU yet. It follows PyTorch's source (`aten/src/ATen/native/cuda/int4mm.cu`), and tests run the
same module on the CPU's counterparts of the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.anatomy import replace_module
from spaces.errors import Infeasible
from spaces.runtime import Context

INT4 = "int4"
INT4_CAPABILITY = (8, 0)  # tensor cores that multiply bf16 came with Ampere
GROUP_SIZES = (32, 64, 128, 256)  # that the kernels have
OUTPUT_MULTIPLE = 16  # two tiles on CUDA, one on a CPU
TILE_INPUTS = 16  # inputs of a tile on CUDA
TILES_PACKED = (8, 4, 2)  # so many tiles can lie one behind the other; more of them are read at once

#: (numbers (out, groups, size) uint8 from 0 to 15, scales (out, groups), zeros (out, groups)) of a matrix whose weights
#: are scale * (number - zero).
GroupTensors = tuple[Tensor, Tensor, Tensor]


def missing(context: Context) -> str | None:
    """Why PyTorch has no int4 kernels here, or None."""
    wanted = "int4 under PyTorch needs a CUDA device of compute capability 8.0 or above"
    if context.device != "cuda" or not torch.cuda.is_available():
        return f"{wanted}, and this is a {context.device}"
    capability = torch.cuda.get_device_capability()
    return None if capability >= INT4_CAPABILITY else f"{wanted}, and this GPU has {capability[0]}.{capability[1]}"


def int4_precisions(context: Context) -> tuple[str, ...]:
    """("int4",) where it can run, else ()."""
    return () if missing(context) else (INT4,)


class Int4Linear(nn.Module):
    """x -> W x + bias in bf16, with W (out, in) of four bits by groups of inputs.

    On the device of `groups`, because each has its own order of packed numbers.
    """

    numbers: Tensor  # packed
    scales_and_offsets: Tensor  # (groups, out, 2) bf16, with a multiple of 16 for out

    def __init__(self, groups: GroupTensors, in_features: int, bias: Tensor | None = None) -> None:
        """Raises ValueError for a size of groups that the kernels do not have, or too many or too few groups."""
        super().__init__()
        numbers, scales, zeros = groups
        outputs, count, size = numbers.shape
        if size not in GROUP_SIZES:
            raise ValueError(f"a group must have {', '.join(map(str, GROUP_SIZES))} weights, got {size}")
        if not 0 <= count * size - in_features < size:
            raise ValueError(f"{in_features} inputs must fill {-(-in_features // size)} groups of {size}, got {count}")
        self.in_features, self.out_features, self.group_size = in_features, outputs, size
        self.padded_inputs, more = count * size - in_features, -outputs % OUTPUT_MULTIPLE
        self.register_buffer("numbers", pack_int4(functional.pad(numbers.reshape(outputs, -1), (0, 0, 0, more))))
        scales = scales.to(torch.bfloat16)
        # Of the rounded scale, so that a weight of 0 stays near 0.
        offsets = (scales.float() * (8 - zeros.float())).to(torch.bfloat16)
        both = functional.pad(torch.stack([scales, offsets], -1), (0, 0, 0, 0, 0, more))
        self.register_buffer("scales_and_offsets", both.transpose(0, 1).contiguous())
        added = None if bias is None else bias.detach().to(numbers.device, torch.bfloat16)
        self.bias = None if added is None else nn.Parameter(added, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if self.padded_inputs:
            rows = functional.pad(rows, (0, self.padded_inputs))
        operators = torch.ops.aten
        multiply = operators._weight_int4pack_mm if x.is_cuda else operators._weight_int4pack_mm_for_cpu
        product: Tensor = multiply(rows.contiguous(), self.numbers, self.group_size, self.scales_and_offsets)
        product = product[:, : self.out_features]
        if self.bias is not None:
            product = product + self.bias
        return product.reshape(*x.shape[:-1], self.out_features)


def pack_int4(numbers: Tensor) -> Tensor:
    """Numbers (out, in) uint8 from 0 to 15 in the order of the kernel of their device; `in` is a multiple of 32."""
    operators = torch.ops.aten
    if numbers.device.type == "cpu":  # whose kernel knows no tiles of inputs
        result: Tensor = operators._convert_weight_to_int4pack_for_cpu(numbers.to(torch.int32), TILES_PACKED[-1])
        return result
    tiles = next(count for count in TILES_PACKED if numbers.shape[1] % (count * TILE_INPUTS) == 0)
    pairs = (numbers[:, ::2] << 4) | numbers[:, 1::2]  # the first of two in the upper bits
    result = operators._convert_weight_to_int4pack(pairs.contiguous(), tiles)
    return result


def replace_linear(model: nn.Module, path: str, groups: GroupTensors) -> None:
    """Put an `Int4Linear` in the place of the linear layer at `path`, on the device of `groups`, and run it once.

    Raises:
        Infeasible: PyTorch has no kernel for it here.
    """
    linear = model.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    try:
        module = Int4Linear(groups, linear.in_features, linear.bias)
        module(torch.zeros(1, linear.in_features, dtype=torch.bfloat16, device=groups[0].device))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        first = " ".join(str(error).split())[:200]
        raise Infeasible(f"int4: no kernel for {path} here: {first}") from error
    replace_module(model, path, module)
