"""What a new task has beside its file: a head with its losses, a metric, lines in registries, and rows for tests."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from torch import Tensor
from torch.nn import functional

from objectives import quality
from objectives.metric import mean_of_rows
from search import tasks
from spaces import heads
from spaces.heads import Head, Native
from spaces.losses import Losses

from .tagging import Tagging


def tag_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of logits (B, L, C) against the tags (B, T) of the first tokens of words."""
    return functional.cross_entropy(logits.float().transpose(1, 2), targets[:, : logits.shape[1]])


def tag_soft_loss(logits: Tensor, taught: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """T^2 KL of the teacher's distributions, the mean of the real tokens."""
    student, teacher = ((one.float() / temperature).log_softmax(-1) for one in (logits, taught))
    return ((teacher.exp() * (teacher - student)).sum(-1) * mask).sum() / mask.sum() * temperature**2


def tag_divergence(logits: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """KL of the real tokens, the mean of each row."""
    a, b = logits.float().log_softmax(-1), other.float().log_softmax(-1)
    return (((a.exp() * (a - b)).sum(-1) * mask).sum(1) / mask.sum(1)).sum()


def tag_certainty(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of the likeliest tags."""
    return (logits.float().log_softmax(-1).max(-1).values * mask).sum()


TAG_ACCURACY = mean_of_rows("tag_accuracy", "share of a text's words with the right tag")
TAGS = Losses(tag_loss, tag_soft_loss, tag_divergence, tag_certainty)
HEAD = Head(
    "tags",
    "tag_logits",
    True,
    TAGS,
    "AutoModelForTokenClassification",
    "ForTokenClassification",
    Native.wrap,
    fresh=("classifier.",),
    mapping="MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    called="tagger",
)


def registered(patch: pytest.MonkeyPatch) -> None:
    """What the lines of a new task in `spaces.heads.HEADS`, `objectives.row_metrics` and `search.tasks.TASKS` do."""
    patch.setattr(heads, "HEADS", (*heads.HEADS, HEAD))
    patch.setattr(tasks, "TASKS", (*tasks.TASKS, Tagging()))
    patch.setattr(quality, "METRICS", {**quality.METRICS, TAG_ACCURACY.name: TAG_ACCURACY})


def tagged(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows {"text", "tags"}: a tag says of which list each word is."""
    kinds = {**dict.fromkeys(tiny.POSITIVE, "P"), **dict.fromkeys(tiny.NEGATIVE, "N")}
    texts = [f"{row['text']} film {'a ' * (i % 5)}" for i, row in enumerate(tiny.sentences(count, seed))]
    return [{"text": text, "tags": " ".join(kinds.get(word, "O") for word in text.split())} for text in texts]
