"""XLA: the exported graph as a JAX function, compiled for a TPU where there is one, else for the CPU.

The graph is that of torch.export, lowered operator by operator with the table in `spaces.runtimes.aten_to_jax`
(Bradbury et al. 2018, JAX; "OpenXLA").
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaces import build
from spaces.base import read_config
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes.from_weights import FromWeights
from spaces.runtimes.padding import lengths_of, padded, padded_length, padding_token
from spaces.runtimes.requirements import require
from spaces.runtimes.torch_export import decomposed, export_graph
from spaces.runtimes.torch_predict import TORCH_DTYPES, in_dtype


class Xla(FromWeights):
    """fp32 (also bf16 on a TPU), one program for each batch and padded length, compiled at their first use.

    The program for another shape takes seconds, so rows are padded to few lengths, as for CUDA graphs. Nothing is
    stored: the weights are the model's own, and the programs last as long as the process.
    """

    name = "xla"
    source = "OpenXLA through JAX"
    install = 'pip install "transformer-compression-search[xla]"'

    def missing(self, context: Context) -> str | None:
        if context.device != "cpu":
            return "XLA runs on CPUs and TPUs here"
        return f"jax not installed: {self.install}" if importlib.util.find_spec("jax") is None else None

    def precisions(self, context: Context) -> tuple[str, ...]:
        return ("fp32", "bf16") if has_tpu() else ("fp32",)

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        require(self, plan, context, "here")
        if "embeddings" in plan:
            raise Infeasible(f"bits.embeddings: xla has no kernel that gathers from {plan['embeddings']} tables")
        _limit_threads(context.threads)
        return XlaPredict(folder, str(plan["precision"]))


class XlaPredict:
    """Pads a batch to one of few lengths and runs its program."""

    def __init__(self, folder: Path, precision: str) -> None:
        import jax

        from spaces.runtimes.graph_to_jax import lower

        device, base = _device(jax), read_config(folder)[0]
        model = in_dtype(build.load_model(folder), TORCH_DTYPES[precision])
        program = export_graph(model, base.inputs, "cpu")
        run, weights = lower(decomposed(program))
        # A TPU would multiply fp32 in bf16 passes unless told otherwise, and be no fp32 candidate.
        matmul_precision = "highest" if precision == "fp32" else "default"

        def exact(weights: Any, inputs: Any) -> Any:
            with jax.default_matmul_precision(matmul_precision):
                return run(weights, inputs)

        self._run = jax.jit(exact)
        self._output, self._per_token = base.output, base.per_token
        self._weights = {name: jax.device_put(_array(tensor), device) for name, tensor in weights.items()}
        self._inputs, self.lengths, self._pad = base.inputs, lengths_of(base), padding_token(base)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        length = batch["input_ids"].shape[1]
        # The arrays follow the weights to their device.
        arrays = padded(batch, self._inputs, padded_length(length, self.lengths), self._pad, np.int32)
        values = np.asarray(self._run(self._weights, arrays), dtype=np.float32)
        return {self._output: values[:, :length] if self._per_token else values}


def has_tpu() -> bool:
    """Whether this machine has a TPU that JAX would find, without the seconds that asking JAX takes."""
    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _device(jax: Any) -> Any:
    """The first TPU, or the CPU. Raises Infeasible for a TPU that is there and does not answer."""
    if not has_tpu():
        return jax.devices("cpu")[0]
    try:
        return jax.devices("tpu")[0]
    except RuntimeError as error:
        raise Infeasible(f"JAX finds no TPU: {' '.join(str(error).split())[:200]}") from error


def _limit_threads(threads: int) -> None:
    """XLA's CPU client reads how many threads it may have when it starts, which is at JAX's first use."""
    if threads:
        os.environ["NPROC"] = str(threads)


def _array(tensor: torch.Tensor) -> Any:
    """The tensor for JAX; numpy has no bfloat16 of its own, but JAX brings one."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
