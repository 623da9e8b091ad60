"""A long document is stored in several writes, so that answers are stored meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from search.serve.database.archive import NewAnswer, NewPassage
from search.serve.document_store import PASSAGES_AT_ONCE, store_document
from search.serve.service import Service

ANSWER = NewAnswer("r", "who?", None, "she", 0.5, 3, 6, None, "v", {})


def test_answers_are_stored_between_the_parts_of_a_long_document(
    served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = served.archive
    add, sizes, answers = archive.add_passages, list[int](), list[Any]()

    def adding(passages: Sequence[NewPassage]) -> Any:
        sizes.append(len(passages))
        future = add(passages)
        answers.append(archive.answered(ANSWER))
        return future

    monkeypatch.setattr(archive, "add_passages", adding)
    passages = [NewPassage("s", i, f"text {i % 70}") for i in range(75)]
    numbers = asyncio.run(store_document(archive, passages))
    assert sizes == [PASSAGES_AT_ONCE, PASSAGES_AT_ONCE, 11] and len({one.result(5) for one in answers}) == 3
    assert numbers[70:] == numbers[:5] and [one.text for one in archive.passages()] == [f"text {i}" for i in range(70)]
    assert asyncio.run(store_document(archive, passages)) == numbers and asyncio.run(store_document(archive, [])) == []
