"""The time in which a question is to be answered, from the objectives of the fleets that it needs."""

from __future__ import annotations

from search.serve.fleet import Fleet

#: Approximate characters of a context whose sentences fill a batch.
FULL_CONTEXT = 2_000


def objective_s(answering: Fleet | None, embedding: Fleet, context: str | None) -> float:
    """Seconds for a question over a context, or over the nearest passages (None).

    A long context is several windows, or several batches of sentences: it has the objective for each.

    Args:
        answering: the fleet of question answering; None where the nearest sentence is the answer.
    """
    embeds_s = embedding.limits.slo_s
    if answering is None:
        return embeds_s * (1 + len(context or "") // FULL_CONTEXT)
    if context is None:
        return max(answering.limits.slo_s, embeds_s)
    return answering.limits.slo_s * answering.windows.count(context)
