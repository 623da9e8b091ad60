"""The figures of one model in a final campaign: clock times, the speedup over the baseline, and the conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from objectives import latency, noise
from objectives.arrays import Floats
from objectives.campaign import Campaign, Set
from objectives.estimate import Estimate
from objectives.measurement import Measurement


def measurements(
    campaign: Campaign, key: int, rows: int, seed: int, conditions: Mapping[str, Any]
) -> dict[str, Measurement]:
    """The measurements of model `key` by objective; `rows` is the number of rows of a call, `seed` the bootstrap's.

    `prepare_s` is left out, because processes are opened side by side. Where models were timed in several groups the
    clock times are scaled by `Campaign.speed`, and `as_timed` in the conditions is the unscaled value.
    """
    sets, speed = campaign.sets_of(key), campaign.speed(key)
    over = campaign.ratio(campaign.anchors[0], key)
    noted = {**conditions, **_conditions(campaign, key, sets, over)}
    blocks = [one.blocks[key] for one in sets]
    tokens = [one.tokens[key] for one in sets if key in one.tokens]
    figures = latency.call_times(blocks, tokens, rows, seed, noted)
    if speed != 1.0:
        figures = [_at_speed(measurement, speed) for measurement in figures]
    figures.append(latency.SPEEDUP_RATIO.measured(over.value, over.interval, len(sets) * campaign.plan.rounds, noted))
    device = [one.device[key] for one in sets if key in one.device]
    if device:
        figures.append(latency.device_time(device, seed, noted))
    figures += latency.first_call([float(one.info[key]["first_call_ms"]) for one in sets], blocks, noted)
    return {measurement.objective: measurement for measurement in figures}


def _conditions(campaign: Campaign, key: int, sets: Sequence[Set], over: Estimate) -> dict[str, Any]:
    """The conditions of the timing; each reason once, in order."""
    reasons = [reason for one in sets for reason in one.disturbances]
    fixed_shape = sets[0].info[key].get("fixed_shape", False)
    reasons += noise.of_calls("model", _centred([one.blocks[key] for one in sets])) if fixed_shape else []
    reasons += noise.of_estimate("ratio", over) if key != campaign.anchors[0] else []
    clocks = sets[-1].clocks_mhz
    return {
        "block_s": campaign.plan.block_s,
        "rounds": campaign.plan.rounds,
        "sets": len(sets),
        "models": len(sets[0].blocks),
        "warm_up": dict(sets[0].warm_up[key]),
        "others_cpu_share": round(max(one.others for one in sets), 4),
        "noisy": "; ".join(dict.fromkeys(reasons)),
        "retried_for": [reason for one in sets for reason in one.retried_for],
        **({} if clocks is None else {"gpu_clock_mhz": clocks[0], "gpu_max_clock_mhz": clocks[1]}),
    }


def _centred(sets: Sequence[Sequence[Floats]]) -> list[Floats]:
    """The blocks of all sets scaled to one median, so that differences between processes are not a second mode."""
    calls = [np.concatenate(blocks) for blocks in sets]
    middle = float(np.median(np.concatenate(calls)))
    return [times * (middle / float(np.median(times))) for times in calls]


def _at_speed(measurement: Measurement, speed: float) -> Measurement:
    factor = 1 / speed if measurement.better == "higher" else speed
    low, high = measurement.interval
    noted = {"as_timed": measurement.value, **measurement.conditions}
    return replace(
        measurement, value=measurement.value * factor, interval=(low * factor, high * factor), conditions=noted
    )
