"""torch.compile: the graph lowered to fused kernels (Ansel et al. 2024, ASPLOS)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from spaces.axis import Context, Infeasible, Plan, Predict
from spaces.base import WEIGHTS
from spaces.runtimes.torch_predict import TorchPredict, inputs_of, load_for, torch_widths

GRAPHS = 256  # compiled in one process, over all models


class Compiled:
    """TorchInductor with dynamic batch and length, so one compilation serves every input."""

    name = "compiled"
    source = "Ansel et al. 2024, PyTorch 2"
    install = "apt-get install g++ (or any C++ compiler named by CXX)"

    def missing(self, context: Context) -> str | None:
        if context.device == "cpu" and not _compiler():
            return "torch.compile needs a C++ compiler, and none is on the PATH"
        return None

    def widths(self, context: Context) -> tuple[str, ...]:
        return torch_widths(context)

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (WEIGHTS,)

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        why = self.missing(context)
        if why:
            raise Infeasible(why)
        model = load_for(folder, plan, context, self.name)
        inputs = inputs_of(folder)
        # Graphs are counted by the forward function, which all models share: past the limit a model would run
        # eagerly and nothing would say so.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        predict = TorchPredict(torch.compile(model, dynamic=True), inputs, context.device)
        # Sizes of 0 and 1 are specialised, so the general graph is compiled by a batch of 2, then that of 1.
        try:
            for rows in (2, 1):
                predict({name: np.ones((rows, 16), dtype=np.int64) for name in inputs})
        except Exception as error:  # Inductor raises many types; all mean that it does not compile here
            first = " ".join(str(error).split())[:200]
            raise Infeasible(f"torch.compile failed: {first}") from error
        return predict


def _compiler() -> str | None:
    import os

    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
