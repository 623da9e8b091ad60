"""Replies with a long list, written in a thread and an element at a time.

`json` holds the interpreter while it writes a value: a whole list of embeddings, or of answers with long contexts,
would keep the event loop from all other requests meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response


async def long_reply(content: Mapping[str, Any], name: str) -> Response:
    """A response of the JSON object `content`, whose member `name` is a long list."""
    return Response(await asyncio.to_thread(_written, content, name), media_type="application/json")


def _written(content: Mapping[str, Any], name: str) -> bytes:
    rest = {key: value for key, value in content.items() if key != name}
    head = _json({**rest, name: []}).removesuffix("]}")
    return f"{head}{','.join(map(_json, content[name]))}]}}".encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
