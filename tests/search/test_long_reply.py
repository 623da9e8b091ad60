"""Replies with long lists keep nobody from the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from search.serve.long_reply import long_reply


@pytest.mark.parametrize(
    "content", [{"data": [{"é": 1.5}, None, 'a"b', [1, []]], "total": 3}, {"data": []}, {"usage": {}, "data": [1]}]
)
def test_a_long_reply_is_its_object_in_json(content: dict[str, Any]) -> None:
    response = asyncio.run(long_reply(content, "data"))
    assert json.loads(bytes(response.body)) == content
    assert response.headers["content-type"] == "application/json"


def test_the_elements_of_a_long_reply_are_written_one_by_one_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    threads: set[int] = set()

    def dumps(value: Any, **options: Any) -> str:
        written.append(value)
        threads.add(threading.get_ident())
        return json.dumps(value, **options)

    monkeypatch.setattr("search.serve.long_reply.json", SimpleNamespace(dumps=dumps))
    asyncio.run(long_reply({"data": ["a", "b", "c"], "total": 3}, "data"))
    assert written == [{"total": 3, "data": []}, "a", "b", "c"]
    assert len(threads) == 1 and threading.get_ident() not in threads
