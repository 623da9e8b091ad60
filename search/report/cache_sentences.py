"""Sentences on the caches of language models: memory per token, and caches that are slower here than another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from objectives.generation_times import TPOT
from objectives.kv_cache import A_TOKEN
from search.front.formatting import quantity, text
from search.front.front import Front
from search.front.outcome import Outcome
from search.space.deployments import Deployment
from search.space.space import Space
from spaces.generation.cache_size import bytes_a_token, cached_precision
from spaces.generation.program import CacheSettings

#: Descriptions of each kind of cache, for `list`.
CACHE_DESCRIPTIONS: Mapping[str, str] = {
    "dynamic": "grows with each token, and is copied at each; keys and values in full precision",
    "static": "allocated once for prompt and answer, and written in place; keys and values in full precision",
    "int8": "the newest tokens in full precision, older ones in 8 bits and scales: about 0.27 of the bytes of fp32",
    "int4": "the newest tokens in full precision, older ones in 4 bits and scales: about 0.15 of the bytes of fp32",
    "sliding": "the first tokens and a window of the newest: no more bytes than that; what is between is forgotten",
}


def slower_caches(front: Front) -> tuple[str, ...]:
    """A sentence for each cache with slower tokens than another one under the same weights and runtime.

    Only where the confidence intervals of the two times do not overlap.
    """
    sentences = []
    for members in _alike(front).values():
        fastest = min(members, key=lambda outcome: outcome.value(TPOT.name))
        for outcome in members:
            mine, best = (one.measurements[TPOT.name] for one in (outcome, fastest))
            if mine.interval[0] > best.interval[1]:
                sentences.append(
                    f"the {name_of(outcome)} of {outcome.number} is slower here: {text(mine)} a token, and "
                    f"{text(best)} with the {name_of(fastest)} of {fastest.number}"
                )
    return tuple(sentences)


def _alike(front: Front) -> dict[tuple[object, ...], list[Outcome]]:
    """Measured outcomes in groups that differ only in the kind of cache."""
    groups: dict[tuple[object, ...], list[Outcome]] = {}
    for outcome in front.outcomes:
        if outcome.status == "complete" and TPOT.name in outcome.measurements:
            recipe = outcome.recipe
            bits = recipe.step("bits")
            settings = tuple(sorted((bits.settings if bits else {}).items()))
            speculation = Deployment.of(recipe.params).cache.speculation
            groups.setdefault((recipe.weights_digest, recipe.runtime.name, settings, speculation), []).append(outcome)
    return groups


def name_of(outcome: Outcome) -> str:
    """The name of its cache, such as "static cache"; the runtime's own where the recipe names none."""
    measured = outcome.measurements.get(A_TOKEN.name)
    named = Deployment.of(outcome.recipe.params).cache.kind
    return f"{named if measured is None else measured.conditions.get('kind', named)} cache"


def kv_cache_lines(space: Space) -> Iterator[str]:
    """Memory per token of the uncompressed model's caches, for each searched kind and precision, where it is known."""
    if "cache.kind" not in space.knobs:
        return
    if space.shape is None:
        yield "cache     bytes of a token are not known: they are counted from the sizes of layers"
        return
    heads = [layer.heads for layer in space.shape.layers]
    said: dict[str, list[str]] = {}
    for deployment in space.deployments:
        stored = cached_precision(deployment.runtime, deployment.precision)
        kb = bytes_a_token(heads, space.shape.head_dim, deployment.cache, stored) / 1e3
        said.setdefault(quantity(kb, "KB"), []).append(_in_words(deployment.cache))
    for size, kinds in said.items():
        yield f"cache     {size} for each token of a row: {', '.join(dict.fromkeys(kinds))} (uncompressed)"


def _in_words(cache: CacheSettings) -> str:
    if cache.kind == "sliding":
        return f"sliding, {cache.sinks + cache.window} tokens at most"
    return f"{cache.kind}, but for the newest {cache.recent}" if cache.exact_tokens is not None else cache.kind
