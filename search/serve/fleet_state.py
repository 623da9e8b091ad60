"""The state of a fleet as the API and the page show it."""

from __future__ import annotations

import time
from typing import Any

from search.serve.fleet import Fleet


def fleet_state(fleet: Fleet) -> dict[str, Any]:
    """Its objective, load and switches, and each variant with quality, time, memory and health."""
    now = time.monotonic()
    healths, pinned, waiting, switches = fleet.dispatcher.look(
        lambda batcher: (
            dict(batcher.controller.health),
            batcher.controller.pinned,
            batcher.waiting,
            batcher.controller.switch_count,
        )
    )
    # The log has the reason: that of a model may have parts of what others asked.
    out = {
        number: "its process starts again" if health.held_until_s > now else "it failed"
        for number, health in healths.items()
        if health.out_until_s > now
    }
    return {
        "study": fleet.study,
        "metric": fleet.metric,
        "slo_ms": fleet.limits.slo_s * 1e3,
        "waiting": waiting,
        "serving": fleet.serving,
        "pinned": pinned,
        "switches": switches,
        "variants": [
            {
                "number": v.number,
                "quality": v.quality,
                "latency_ms": v.seconds(1) * 1e3,
                "memory_mb": v.memory_mb,
                "out": out.get(v.number),
            }
            for v in fleet.variants
        ],
    }
