"""Splits documents into passages, and passages into sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Length of the longest passage, in characters: about 200 tokens of English.
PASSAGE = 900
#: A sentence ends with a mark and space before a capital, a digit or a quotation, or with an empty line.
_END = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]?[A-Z0-9À-Þ])|\n\s*\n")
#: Words whose full stop ends no sentence.
_ABBREVIATIONS = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|U\.S|Inc|Ltd|Co|Gen|Col|Lt)|\b[A-Z])\.$"
)
#: The longest of them, with its full stop, and the character before it.
_LONGEST = 8
#: A character that is no space.
_WORD = re.compile(r"\S")


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence in characters, without the space around it."""
    spans, start = [], 0
    for match in _END.finditer(text):
        # Only the end is looked at: a long text without sentences would be read once for each mark otherwise.
        if _ABBREVIATIONS.search(text, max(start, match.start() - _LONGEST), match.start()):
            continue
        spans.append((start, match.start() + len(match.group().rstrip())))
        start = match.end()
    spans.append((start, len(text)))
    trimmed = (
        (s + len(text[s:e]) - len(text[s:e].lstrip()), e - (len(text[s:e]) - len(text[s:e].rstrip()))) for s, e in spans
    )
    return [(s, e) for s, e in trimmed if s < e]


def passages(text: str, most: int = PASSAGE) -> Iterator[str]:
    """Runs of whole sentences of at most `most` characters; a longer sentence is cut between words."""
    start = end = -1
    for begin, finish in sentences(text):
        if start >= 0 and finish - start > most:
            yield text[start:end]
            start = -1
        if start < 0:
            start = begin
        end = finish
        while end - start > most:
            cut = text.rfind(" ", start + 1, start + most + 1)
            cut = start + most if cut <= start else cut
            yield text[start:cut].rstrip()
            word = _WORD.search(text, cut, end)
            start = end if word is None else word.start()
    if 0 <= start < end:
        yield text[start:end]
