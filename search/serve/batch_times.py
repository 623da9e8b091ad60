"""Times of a second batch size, measured where a model runs: the record of a front often has that of one.

variant = batched(variant, model)           # an exported model with a record
variant = timed_variant(answer, row, 14)    # a model without one
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from search.serve.variants import Variant

if TYPE_CHECKING:
    from search.serve.exported_model import ExportedModel

#: Batch sizes at which a model without a record is timed.
TIMED = (1, 8)
#: Tokens of the larger of two calls of a model with a record, which has two rows at least. Few, because runtimes keep
#: the memory of their largest call.
CALL_TOKENS = 256


def batched(variant: Variant, model: ExportedModel) -> Variant:
    """`with_batches` of an exported model, on rows as long as its record's; windows of a longer text are full ones."""
    from search.tasks import task_named

    most = int(model.record.config["data"]["max_length"])
    tokens = most if task_named(model.record.recipe.task).slides else min(variant.length, most)

    def took_s(rows: int) -> float:
        batch = model.made_up(rows, tokens)
        return median_s(lambda: model.output(batch), 5)

    return with_batches(variant, min(max(CALL_TOKENS // tokens, 2), TIMED[-1]), took_s)


def with_batches(variant: Variant, rows: int, took_s: Callable[[int], float]) -> Variant:
    """The variant with the time of a second batch size, unless its record has two or more.

    The record's own time stays, so that variants compare as they were measured; only the ratio of the two is taken.

    Args:
        rows: of the second size, where the record has that of one row; one row where it has that of several.
        took_s: median seconds of a call on so many rows, measured here.
    """
    if len(variant.points) > 1:
        return variant
    [(measured, seconds)] = variant.points
    other = rows if measured == 1 else 1
    ratio = took_s(other) / took_s(measured)
    return replace(variant, points=tuple(sorted([(measured, seconds), (other, seconds * ratio)])))


def timed_variant(answer: Callable[[Sequence[Any]], Any], row: Any, length: int) -> Variant:
    """The variant of a model without a record, timed here on `row` of about `length` tokens."""
    points = tuple((size, median_s(partial(answer, [row] * size), 5)) for size in TIMED)
    return Variant(number=0, quality=1.0, loss=0.0, points=points, length=length)


def median_s(call: Callable[[], Any], times: int) -> float:
    """Median seconds of a call, after a first one that allocates, and compiles where the runtime does."""
    call()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return sorted(took)[times // 2]
