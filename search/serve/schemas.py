"""Requests and responses of the API."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: The longest question, context or text in characters.
QUESTION, TEXT, DOCUMENT = 2_000, 50_000, 1_000_000

#: Most keys of an object in a body.
MOST_KEYS = 50

QuestionText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=QUESTION)]
NonEmptyText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT)]
#: Milliseconds in which a request must be answered; None: the objective of the service.
Within = Annotated[float, Field(gt=0, le=60_000)] | None


class Strict(BaseModel):
    """A request body that may have no other keys."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, body: Any) -> Any:
        """One error for any number of keys: an error for each of a hundred thousand takes most of a second."""
        if isinstance(body, dict) and len(body) > MOST_KEYS:
            raise ValueError(f"an object has at most {MOST_KEYS} keys, got {len(body)}")
        return body


class Ask(Strict):
    """A question; without a context the stored passages are searched."""

    question: QuestionText
    context: NonEmptyText | None = None
    within_ms: Within = None


class Pair(Strict):
    """Two texts that have one label."""

    text: NonEmptyText
    text_pair: NonEmptyText


class Classify(Strict):
    """Texts to classify, or pairs of them."""

    texts: Annotated[list[NonEmptyText | Pair], Field(min_length=1, max_length=64)]
    within_ms: Within = None


class Embed(Strict):
    """Texts to embed, as in OpenAI's embeddings endpoint."""

    input: NonEmptyText | Annotated[list[NonEmptyText], Field(min_length=1, max_length=64)]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class AddPassages(Strict):
    """A text, which is cut into passages."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=DOCUMENT)]
    source: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = "text"


class Opinion(Strict):
    """Whether an answer helped."""

    helpful: bool
    comment: Annotated[str, StringConstraints(max_length=2_000)] | None = None


def embedding_list(vectors: list[np.ndarray], texts: list[str], model: str, encoding: str) -> dict[str, Any]:
    """Embeddings (D,) as in OpenAI's embeddings endpoint. A token is counted as four characters."""

    def shown(vector: np.ndarray) -> Any:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()

    tokens = sum(1 + len(text) // 4 for text in texts)
    data = [{"object": "embedding", "index": i, "embedding": shown(vector)} for i, vector in enumerate(vectors)]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
