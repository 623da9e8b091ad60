"""Eager PyTorch, the reference of all runtimes."""

from __future__ import annotations

from pathlib import Path

from spaces.generation.program import CACHE_KINDS, CacheSettings
from spaces.generation.torch_program import TorchProgram
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes import float8, int4
from spaces.runtimes.from_weights import FromWeights
from spaces.runtimes.requirements import require
from spaces.runtimes.torch_predict import TorchPredict, base_of, causal_for, kernels_for, load_for, torch_precisions


class Eager(FromWeights):
    """Operator by operator, scaled-dot-product attention, inference mode."""

    name = "eager"
    source = "PyTorch"
    install = ""

    def missing(self, context: Context) -> str | None:
        return None

    def precisions(self, context: Context) -> tuple[str, ...]:
        return (*torch_precisions(context), *float8.precisions(context))

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        require(self, plan, context, precisions=kernels_for(self, folder, context))
        model = load_for(folder, plan, context, self.name)
        return TorchPredict(model, base_of(folder), context.device)

    def generating_precisions(self, context: Context) -> tuple[str, ...]:
        return (*self.precisions(context), *int4.int4_precisions(context))

    def cache_kinds(self, context: Context) -> tuple[str, ...]:
        return CACHE_KINDS

    def open_program(self, folder: Path, plan: Plan, settings: CacheSettings, context: Context) -> TorchProgram:
        require(self, plan, context, precisions=self.generating_precisions(context))
        return TorchProgram(causal_for(folder, plan, context, self.name), settings, context.device)
