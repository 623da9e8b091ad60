"""What the PyTorch runtimes share: a model on a device in a precision, called with numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spaces import build, two_of_four
from spaces.base import Base, TaskModel, is_causal, read_config
from spaces.bf16 import has_bf16
from spaces.errors import Infeasible
from spaces.generation.program import GeneratingRuntime
from spaces.heads import Causal
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import float8, int4, int4_weights
from spaces.sparse_storage import expand

#: The dtype of weights and activations by precision; of fp8 and int4, of all but the weights of products.
TORCH_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.bfloat16,
    "int4": torch.bfloat16,
}


def torch_precisions(context: Context) -> tuple[str, ...]:
    """The precisions that PyTorch computes in natively, without emulation, on this device."""
    if context.device == "cuda":
        return ("fp32", "bf16", "fp16") if has_bf16(context.device) else ("fp32", "fp16")
    return ("fp32", "bf16") if has_bf16(context.device) else ("fp32",)


def kernels_for(runtime: GeneratingRuntime, folder: Path, context: Context) -> tuple[str, ...]:
    """The precisions that a PyTorch runtime has for the model in `folder`: a causal language model may have more."""
    return runtime.generating_precisions(context) if is_causal(folder) else runtime.precisions(context)


def load_for(folder: Path, plan: Plan, context: Context, runtime: str) -> TaskModel:
    """The stored model on the device in the planned precision. Raises Infeasible for tables it has no kernel for."""
    precision = str(plan["precision"])
    if "embeddings" in plan:
        raise Infeasible(f"bits.embeddings: {runtime} has no kernel that gathers from {plan['embeddings']} tables")
    if context.threads:
        torch.set_num_threads(context.threads)
    model = int4_weights.open_int4(folder, plan, context.device) if precision == int4.INT4 else build.as_stored(folder)
    model = in_dtype(model, TORCH_DTYPES[precision]).to(context.device)
    two_of_four.lower(model)
    expand(model)  # what is left is sparse for its size only
    if precision == float8.FP8:
        float8.lower(model)
    return model


def causal_for(folder: Path, plan: Plan, context: Context, runtime: str) -> nn.Module:
    """The transformers model of a stored causal language model, as `load_for`. Raises Infeasible for another head."""
    model = load_for(folder, plan, context, runtime)
    if not isinstance(model, Causal):
        raise Infeasible(f"{runtime}: the model of {folder} has no causal head, so it generates no text")
    return model.model


def in_dtype(model: TaskModel, dtype: torch.dtype) -> TaskModel:
    """`model`, converted in place to `dtype`, but for the frequencies of rotary embeddings.

    Rounded to bf16 a frequency is off by up to 0.4 %: after a thousand positions that is several radians.
    """
    exact = {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    model.to(dtype)
    for name, buffer in exact.items():
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, buffer)
    return model


class TorchPredict:
    """A callable over numpy batches around a torch function of the model's named inputs."""

    def __init__(self, call: Callable[..., Tensor], base: Base, device: str) -> None:
        self._call, self._device = call, device
        self._inputs, self._output = base.inputs, base.output

    def tensors(self, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """The model's inputs of `batch`, on the device."""
        return {name: torch.from_numpy(batch[name]).to(self._device, non_blocking=True) for name in self._inputs}

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            output = self._call(**self.tensors(batch))
        return {self._output: output.float().cpu().numpy()}


def base_of(folder: Path) -> Base:
    """The base model of a stored model. Raises ModelError."""
    return read_config(folder)[0]
