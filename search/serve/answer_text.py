"""Incremental decoding: the text of an answer, token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

CONTEXT = 16  # tokens of the prompt that are decoded along: some tokenizers drop the space before a first token
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what an incomplete character is decoded to


class AnswerText:
    """Turns tokens into pieces of text, which together are the decoded answer.

    A piece ends where later tokens cannot change it: not within a character of several bytes, and not within the
    possible beginning of a stop string. The answer ends before a token of `ends` or a string of `stop`. `prompt` are
    the token ids before the answer.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Collection[str], ends: Collection[int]) -> None:
        self._tokenizer, self._stop, self._ends = tokenizer, stop, ends
        self._tokens = list(prompt[-CONTEXT:])
        self._before = len(self._decoded())  # characters of the prompt
        self._given = 0  # characters of the answer
        self.done = False

    def add(self, token: int) -> str:
        """The text that one more token completes; "" where it completes none, and after the end."""
        if self.done:
            return ""
        if token in self._ends:
            return self.finish()
        self._tokens.append(token)
        return self._piece(last=False)

    def finish(self) -> str:
        """The rest of the text, where no token follows."""
        return "" if self.done else self._piece(last=True)

    def _piece(self, *, last: bool) -> str:
        text = self._decoded()[self._before :]
        stops = [at for at in map(text.find, self._stop) if at >= 0]
        self.done = last or bool(stops)
        if stops:
            text = text[: min(stops)]
        elif not last:
            text = text.rstrip(REPLACEMENT)
            text = text[: len(text) - max((_begun(text, stop) for stop in self._stop), default=0)]
        piece, self._given = text[self._given :], max(self._given, len(text))
        return piece

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)
