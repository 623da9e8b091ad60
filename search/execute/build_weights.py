"""Stages "weights" and "untrained": one set of compressed weights, each made in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from objectives.process import Progress
from search.config.schema import RunConfig
from search.execute.looks import FILE as LOOKS
from search.execute.looks import look, looked_at, recover_with_looks
from search.prepare.calibration import calibrate
from spaces.knob import Value

if TYPE_CHECKING:
    from spaces.recipe import Step
from search.prepare.folders import finish, torch_with


def make_weights(
    folder: Path,
    config: RunConfig,
    steps: Sequence[Step],
    recover: Mapping[str, Value],
    data: Path,
    teacher: Path,
    statistics: Path,
    outputs: Path,
    device: str,
    threads: int,
    scratch: Path,
    shares: Sequence[float],
    progress: Progress,
) -> None:
    """One set of compressed weights: plans from the statistics, weights from the teacher, then recovery.

    The recovery is looked at after each of `shares` of it. Where the last is below 1 that is all that is written, and
    the training's state to `scratch`, where the next call for these weights goes on.
    """
    from spaces import build
    from spaces.base import read_config, write_folder
    from spaces.statistics import Statistics

    torch = torch_with(threads)
    progress("compressing", 0.0)
    known = Statistics.load(statistics / "statistics.safetensors")
    plans = build.decide(steps, known)
    torch.manual_seed(config.seed)
    model = build.build(build.load(teacher), plans, known)
    base, _ = read_config(teacher)
    if recover:
        from search.execute.recovery import Recovery

        recovery = Recovery(plans, recover, config, data, teacher, outputs, device, base.inputs, scratch, progress)
        seen = recover_with_looks(
            shares,
            partial(look, model, config, data, base.inputs, device),
            partial(recovery.train, model),
            scratch.with_suffix(".looks"),
            looked_at(config),
        )
        seen.write(folder / LOOKS)
        if shares[-1] < 1:
            return
    write_folder(folder, model, base, plans)
    finish(folder, model, base.inputs, data)


def make_untrained(
    folder: Path, steps: Sequence[Step], data: Path, teacher: Path, statistics: Path, threads: int, progress: Progress
) -> None:
    """A model of the planned shape with arbitrary weights, which takes the time of a trained one: nothing is filled."""
    from spaces import build, registry
    from spaces.base import read_config, skeleton, write_folder
    from spaces.statistics import Statistics

    torch = torch_with(threads)
    progress("an untrained copy", 0.0)
    plans = build.decide(steps, Statistics.load(statistics / "statistics.safetensors"))
    base, _ = read_config(teacher)
    torch.manual_seed(0)
    model = skeleton(base)
    for name, plan in plans.items():
        registry.axis_named(name).reshape(model, plan)
    write_folder(folder, model, base, plans)
    calibrate(folder, model, base.inputs, data)
