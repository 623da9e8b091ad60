"""Runtimes that run the stored weights without files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spaces.base import WEIGHTS
from spaces.knob import Plan
from spaces.runtime import Context


class FromWeights:
    """Mixin of runtimes that run the stored weights without files of their own."""

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (WEIGHTS,)

    def made_by(self, context: Context) -> Mapping[str, str]:
        return {}

    def made_from(self, plan: Plan, folder: Path) -> Plan | None:
        return None
