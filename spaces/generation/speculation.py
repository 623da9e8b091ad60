"""Speculative decoding (Leviathan et al. 2023) whose draft is looked up in the text itself (Saxena 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spaces.generation.program import Program, RewindingProgram
from spaces.knob import Plan

DRAFT = 7  # most tokens of a draft
#: Tokens that must occur earlier in the text, in this order, before what followed them there is proposed.
LONGEST, SHORTEST = 4, 2


def require_exact(program: Program, plan: Plan) -> None:
    """Raise ValueError where speculation might change the tokens of a program of this precision.

    In fp32 a token that is read with others gets the logits of one that is read alone within 1e-5. Where weights or
    activations have fewer bits, a difference in the last bit may move an activation to the next number of the grid:
    half of the answers of SmolLM2-135M in int8 and int4 had another token somewhere.
    """
    named = {str(plan.get(name, "fp32")) for name in ("precision", "head")} - {"fp32"}
    if named:
        raise ValueError(
            f"speculation needs a model in fp32, got {' and '.join(sorted(named))}: tokens that are read together are "
            "rounded otherwise than one by one, and answers would change"
        )
    Speculation(program)


class Lookup:
    """A text whose last tokens are looked up in what comes before them. Each token is added in constant time."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        # By n-gram: the place after its newest occurrence. The last one is entered with the token after it.
        self._places: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Add one token to the end of the text."""
        place = len(self._tokens)
        for count in range(SHORTEST, min(LONGEST, place) + 1):
            self._places[tuple(self._tokens[place - count :])] = place
        self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """What followed the newest earlier occurrence of the longest n-gram at the end of the text, at most `most`.

        Where that reaches the end of the text, the draft continues with its own tokens: repeating texts keep repeating.
        """
        tokens, end = self._tokens, len(self._tokens)
        for count in range(min(LONGEST, end), SHORTEST - 1, -1):
            place = self._places.get(tuple(tokens[end - count :]))
            if place is not None:
                return [tokens[place + i % (end - place)] for i in range(most)]
        return []


class Speculation:
    """Greedy decoding of one prompt, several tokens a call where a draft proves right.

    A draft costs reading time where it proves wrong, so after a rejection it may be as long as what was accepted, one
    token at least, and twice as long after each draft that was accepted as a whole. The tokens are those of greedy
    decoding; logits of several tokens that are read at once differ from those of one by one by rounding only.
    """

    def __init__(self, program: Program, lookup: Callable[[Sequence[int]], Lookup] = Lookup) -> None:
        """Raises ValueError where the program cannot read several tokens in one call and take rejected ones back."""
        if not isinstance(program, RewindingProgram) or not program.rewinds:
            raise ValueError(
                "prompt_lookup needs a cache that takes back rejected tokens (dynamic or static), "
                "and that of this model does not"
            )
        self._program, self._lookup = program, lookup
        self.calls = 0  # of the model after the prompt
        self.proposed = 0  # tokens
        self.accepted = 0

    def __call__(self, input_ids: np.ndarray, new_tokens: int) -> Iterator[np.ndarray]:
        """`new_tokens` arrays (1,) int64 after a prompt (1, L) without padding."""
        logits, cache = self._program.prefill(input_ids, np.ones_like(input_ids))
        text = self._lookup(input_ids[0].tolist())
        chosen, left, most = logits.argmax(-1), new_tokens, DRAFT
        while True:
            yield chosen
            text.add(int(chosen[0]))
            left -= 1
            if not left:
                return
            draft = text.draft(min(most, left - 1))
            self.calls += 1
            if not draft:
                chosen = self._program.decode(chosen, cache).argmax(-1)
                continue
            begin = cache.length
            block = np.array([[int(chosen[0]), *draft]], np.int64)
            # (N,): what follows each token of the block.
            predictions = self._program.extend(block, cache)[0].argmax(-1)
            right = accepted(draft, predictions)
            self._program.truncate(cache, begin + 1 + right)
            self.proposed += len(draft)
            self.accepted += right
            most = min(DRAFT, 2 * most) if right == len(draft) else max(1, right)
            for token in draft[:right]:
                yield np.array([token], np.int64)
                text.add(token)
            left -= right
            chosen = predictions[right : right + 1]


def accepted(draft: Sequence[int], predictions: np.ndarray) -> int:
    """How many tokens of a draft are those that the model chooses; `predictions` (len(draft) + 1,) int64."""
    wrong = np.flatnonzero(predictions[:-1] != np.asarray(draft))
    return int(wrong[0]) if len(wrong) else len(draft)
