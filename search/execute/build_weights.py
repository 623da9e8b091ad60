"""Stage "weights": one set of compressed weights, made in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from objectives.process import Progress
from search.config.schema import RunConfig
from search.execute.looks import FILE as LOOKS
from search.execute.looks import look, looked_at, recover_with_looks
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
