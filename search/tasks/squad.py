"""The metrics of extractive question answering: exact match and token F1, as SQuAD's own scripts score.

The rules are those of the v2.0 script (Rajpurkar et al. 2018), which also knows questions without an answer. It gives
what the v1.1 script (Rajpurkar et al. 2016) gives wherever every gold answer holds more than articles and punctuation.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """`text` in lower case, without ASCII punctuation and the articles a, an, the; words parted by one space."""
    # Articles are looked for after punctuation is gone, as the scripts do: "a-b" is the word "ab".
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the prediction is one of the gold answers, up to `normalise`; without golds, if it is empty too."""
    return float(normalise(prediction) in _normalised(golds))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """F1 of the words shared with the gold answer that fits best, up to `normalise`.

    An empty prediction, or no gold answer, is "no answer": 1.0 where both are, 0.0 where one is.
    """
    words = normalise(prediction).split()
    return max(_word_f1(words, gold.split()) for gold in _normalised(golds))


def _normalised(golds: Sequence[str]) -> list[str]:
    """The gold answers that have words, or one empty answer where none has."""
    return [text for gold in golds if (text := normalise(gold))] or [""]


def _word_f1(words: Sequence[str], gold: Sequence[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    shared = (Counter(words) & Counter(gold)).total()
    return 2 * shared / (len(words) + len(gold))  # of precision shared / words and recall shared / gold
