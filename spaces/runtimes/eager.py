"""PyTorch as it comes: the reference."""

from __future__ import annotations

from pathlib import Path

from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes import float8
from spaces.runtimes.opening import FromWeights, require
from spaces.runtimes.torch_predict import TorchPredict, base_of, load_for, torch_precisions


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
        require(self, plan, context)
        model = load_for(folder, plan, context, self.name)
        return TorchPredict(model, base_of(folder), context.device)
