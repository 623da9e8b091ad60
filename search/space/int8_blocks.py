"""Int4 with some blocks in int8 (`bits.int8_blocks`): each number of blocks is a deployment of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.config.schema import RunConfig
from search.errors import UserError
from search.space.deployments import INT8_BLOCKS, Deployment
from search.tasks import task_of
from spaces.axes.bits import WITH_INT8_BLOCKS
from spaces.generation.program import CacheSettings
from spaces.knob import Knob


def every_deployment(
    config: RunConfig,
    knobs: Mapping[str, Knob],
    runtime: str,
    precisions: Sequence[str],
    caches: Sequence[CacheSettings],
) -> list[Deployment]:
    """The deployments of a runtime, with each number of int8 blocks where the precision can have some.

    Raises:
        UserError: int8 blocks are named for a task whose models have none.
    """
    numbers = block_numbers(config, knobs)
    return [
        Deployment(runtime, precision, cache, number)
        for precision in precisions
        for cache in caches
        for number in (numbers if precision in WITH_INT8_BLOCKS else (0,))
    ]


def block_numbers(config: RunConfig, knobs: Mapping[str, Knob]) -> tuple[int, ...]:
    """The numbers of int8 blocks that are searched.

    Raises:
        UserError: as `every_deployment`.
    """
    knob = knobs.get(INT8_BLOCKS)
    if knob is None or knob.single == knob.off:
        return (0,)
    if not task_of(config).generates:
        where = config.where(f"space.{INT8_BLOCKS}")
        raise UserError(f"{where}: must be left out unless the task is causal-lm, got the task {config.task}")
    return tuple(int(number) for number in knob.values())
