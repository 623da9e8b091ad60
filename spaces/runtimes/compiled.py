"""torch.compile: the graph lowered to fused kernels (Ansel et al. 2024, ASPLOS)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.generation.program import CacheSettings
from spaces.generation.static_program import DecodeStep, StaticProgram
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes import float8, int4
from spaces.runtimes.from_weights import FromWeights
from spaces.runtimes.requirements import require
from spaces.runtimes.torch_predict import TorchPredict, base_of, causal_for, kernels_for, load_for, torch_precisions

MOST_GRAPHS = 256  # that may be compiled in one process, over all models
COMPILER_INSTALL = "apt-get install g++ (or any C++ compiler named by CXX)"
#: Options that keep the tables of each product's candidates out of the terminal.
QUIET_OPTIONS = {"autotune_num_choices_displayed": 0, "max_autotune_report_choices_stats": False}


class Compiled(FromWeights):
    """TorchInductor with dynamic batch and length, so one compilation serves every input."""

    name = "compiled"
    source = "Ansel et al. 2024, PyTorch 2"
    install = COMPILER_INSTALL

    def missing(self, context: Context) -> str | None:
        return no_compiler("torch.compile") if context.device == "cpu" else None

    def precisions(self, context: Context) -> tuple[str, ...]:
        return (*torch_precisions(context), *float8.precisions(context))

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        require(self, plan, context, precisions=kernels_for(self, folder, context))
        model = load_for(folder, plan, context, self.name)
        base = base_of(folder)
        # Graphs are counted by the forward function, which all models share: past the limit a model would run
        # eagerly and nothing would say so.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        predict = TorchPredict(self.compile(model, context), base, context.device)
        # Sizes of 0 and 1 are specialised, so the general graph is compiled by a batch of 2, then that of 1.
        try:
            for rows in (2, 1):
                predict({name: np.ones((rows, 16), dtype=np.int64) for name in base.inputs})
        except Exception as error:  # Inductor raises many types; all mean that it does not compile here
            first = " ".join(str(error).split())[:200]
            raise Infeasible(f"torch.compile failed: {first}") from error
        return predict

    def compile(self, model: TaskModel, context: Context) -> Callable[..., Tensor]:
        """`model` compiled for all batches and lengths."""
        return torch.compile(model, dynamic=True)

    def generating_precisions(self, context: Context) -> tuple[str, ...]:
        return (*self.precisions(context), *int4.int4_precisions(context))

    def cache_kinds(self, context: Context) -> tuple[str, ...]:
        return ("static",)

    def open_program(self, folder: Path, plan: Plan, settings: CacheSettings, context: Context) -> StaticProgram:
        """The decoding step is compiled at its first token, once for each number of rows and for all prompt lengths."""
        require(self, plan, context, precisions=self.generating_precisions(context))
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        model = causal_for(folder, plan, context, self.name)
        return StaticProgram(model, settings, context.device, self.compile_step)

    def compile_step(self, step: DecodeStep) -> DecodeStep:
        """A decoding step compiled for fixed shapes."""
        return torch.compile(step, dynamic=False)


class MaxAutotuned(Compiled):
    """`Compiled`, with every matrix product timed in each form that Inductor has for it, and the fastest kept.

    On a GPU these are the options of torch's mode "max-autotune": Triton templates, replayed as CUDA graphs (one for
    each batch and length). On a CPU they are C++ templates, which need constant weights: there the weights are frozen
    into the graph, and without that the mode would choose between nothing.
    Compiling takes long: more than a minute for MiniLM.
    """

    name = "compiled-max-autotune"
    source = "Ansel et al. 2024, PyTorch 2 (max-autotune)"

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        # Dynamo reads this one while it traces, before the options reach Inductor.
        with torch._inductor.config.patch(freezing=context.device == "cpu"):
            return super().open(folder, plan, context)

    def compile(self, model: TaskModel, context: Context) -> Callable[..., Tensor]:
        options = {**torch._inductor.list_mode_options("max-autotune"), **QUIET_OPTIONS}
        if context.device == "cpu":
            options |= {"freezing": True, "triton.cudagraphs": False}
        return torch.compile(model, dynamic=True, options=options)

    def compile_step(self, step: DecodeStep) -> DecodeStep:
        """Without CUDA graphs: they refuse a step that writes to its inputs, the cache."""
        options = {**torch._inductor.list_mode_options("max-autotune"), **QUIET_OPTIONS, "triton.cudagraphs": False}
        return torch.compile(step, dynamic=False, options=options)


def no_compiler(what: str) -> str | None:
    """Why `what` cannot compile here, or None."""
    return None if cpp_compiler() else f"{what} needs a C++ compiler, and none is on the PATH: {COMPILER_INSTALL}"


def cpp_compiler() -> str | None:
    """The path of the C++ compiler: the one that CXX names, else the first on the PATH; None where there is none."""
    import os

    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
