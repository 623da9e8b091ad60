"""Texts are cut into sentences and passages: abbreviations end none, and the time grows with the length alone."""

from __future__ import annotations

import time

import pytest

from search.serve.sentences import passages, sentences


def test_abbreviations_and_initials_end_no_sentence() -> None:
    text = "Dr. Smith met J. R. Jones in the U.S. Army. He left, e.g. Tuesday. Prof. Hill stayed."
    assert [text[s:e] for s, e in sentences(text)] == [
        "Dr. Smith met J. R. Jones in the U.S. Army.",
        "He left, e.g. Tuesday.",
        "Prof. Hill stayed.",
    ]


@pytest.mark.parametrize("piece", ["Mr. ", "A. ", "word", "x. y ", "x\n", "a b "])
def test_a_document_of_the_longest_allowed_length_is_cut_within_two_seconds(piece: str) -> None:
    text = (piece * 1_000_000)[:1_000_000].strip()
    began = time.process_time()
    pieces = list(passages(text))
    assert time.process_time() - began < 2.0
    assert all(0 < len(one) <= 900 for one in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
