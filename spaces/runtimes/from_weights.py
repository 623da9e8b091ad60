"""Runtimes that run the stored weights, without files of their own but for weights in int4."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spaces.base import WEIGHTS
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import int4, int4_weights


class FromWeights:
    """Mixin of runtimes that run the stored weights, without files of their own but for weights in int4."""

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (int4_weights.int4_file(plan),) if plan["precision"] == int4.INT4 else (WEIGHTS,)

    def made_by(self, context: Context) -> Mapping[str, str]:
        return {}

    def made_from(self, plan: Plan, folder: Path) -> Plan | None:
        return None
