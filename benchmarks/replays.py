"""Greedy speculative decoding (arXiv 2211.17192), replayed over answers whose agreements with a draft are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Replay:
    """Speculative decoding of answers."""

    tokens: int  # of the answers, after the first of each
    accepted: int
    calls: Mapping[int, int]  # of the target, by the number of tokens that were proposed

    @property
    def run(self) -> float:
        """The mean number of tokens that are accepted in a call."""
        return self.accepted / sum(self.calls.values())

    def ms(self, draft: float, reading: Mapping[int, float]) -> float:
        """A token, where a step of the draft takes `draft` ms and the target reads that many tokens in `reading`."""
        return sum(count * (n * draft + reading[n + 1]) for n, count in self.calls.items()) / self.tokens


def replayed(answers: Sequence[str], most: int, new_tokens: int) -> Replay:
    """Of answers of at most `new_tokens` tokens, with `most` proposed ones a call, or as many as can still be used.

    An answer's string has 1 for each token after its first that the draft gives too, and 0 for the others.
    """
    calls: Counter[int] = Counter()
    right = 0
    for answer in answers:
        place = 0
        while place < len(answer):
            proposed = min(most, new_tokens - 2 - place)
            block = answer[place : place + proposed]
            accepted = len(block) - len(block.lstrip("1"))
            calls[proposed] += 1
            right += accepted
            place += accepted + 1
    return Replay(sum(map(len, answers)), right, calls)


def acceptance(answers: Sequence[str]) -> float:
    """The share of 1 in the strings of all answers."""
    joined = "".join(answers)
    return joined.count("1") / len(joined)
