"""The sections of a configuration: their keys, types, rules and defaults."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from search.config.fields import Count, Fraction, Name, NonNegative, Positive, Rule

Rungs = Annotated[
    tuple[Fraction, ...],
    Rule("rising, each below 1", lambda v: all(a < b for a, b in pairwise((*v, 1.0)))),
]
Tokens = Annotated[int, Rule("at least 4", lambda v: v >= 4)]


def _is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
        b"x".decode(name)
    except UnicodeError:  # that byte alone is none of its characters
        return True
    except (LookupError, ValueError):  # LookupError too where it is a codec between bytes, such as base64
        return False
    return True


def _is_mark(text: str) -> bool:
    return len(text) == 1 and not text.isalnum() and text not in '"\r\n\0'


Encoding = Annotated[Name, Rule("an encoding that Python knows, as utf-8, cp1252 or utf-16", _is_encoding)]
Delimiter = Annotated[
    str, Rule('one character that parts fields, as ";" or "\\t"', lambda v: len(v) == 1 and v not in '"\r\n\0')
]


@dataclass(frozen=True)
class ModelConfig:
    """The model to compress: a local folder, a hub name, or `package:<module>/<folder>`."""

    name: Name
    revision: Name = "main"
    head: Literal["auto", "mean"] = "auto"  # auto: the model's own head if it has one, else mean-pooled


@dataclass(frozen=True)
class DataConfig:
    """Rows of a task: files (csv, tsv, json, jsonl, parquet), or splits of the hub data set `name`."""

    train: Name
    validation: Name | None = None  # None: cut from train
    test: Name | None = None  # None: cut from train
    name: Name | None = None  # a hub name; train, validation, test are then names of splits
    config: Name | None = None  # the hub data set's configuration
    text: Name = "text"
    text_pair: Name | None = None
    label: Name = "label"
    label_names: tuple[Name | int, ...] | None = None  # the data's labels in their order, or names of bare numbers
    max_length: Tokens = 128
    limit: Count | None = None  # rows of each split
    encoding: Encoding | None = None  # of text files; None: by their byte order mark, else UTF-8
    delimiter: Delimiter | None = None  # of csv and tsv files; None: a comma, a tab

    @property
    def splits(self) -> dict[str, str]:
        """The file or split of each part that is given."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: value for name, value in parts.items() if value is not None}


@dataclass(frozen=True)
class TeacherConfig:
    """Fine-tuning of the uncompressed model; no epochs: it is used as it is."""

    epochs: NonNegative = 2.0
    batch: Count = 32
    learning_rate: Positive = 1e-4
    head_learning_rate: Positive = 1e-3
    freeze_embeddings: bool = True
    warmup: Fraction = 0.06  # of the steps
    early_stopping: Count | None = None  # looks, a quarter of an epoch apart, without a lower held-out loss


@dataclass(frozen=True)
class RecoverConfig:
    """Distillation from the teacher that repairs a candidate."""

    epochs: NonNegative = 1.0
    batch: Count = 32
    learning_rate: Positive = 2e-4
    temperature: Positive = 2.0
    task_weight: NonNegative = 0.3
    soft_weight: NonNegative = 1.0
    hidden_weight: NonNegative = 1.0  # the last hidden state
    block_weight: NonNegative = 0.0  # the output of every block, against the teacher's block that it came from
    relation_weight: NonNegative = 0.0  # how tokens resemble each other in the last attention (MiniLMv2)
    early_stopping: Count | None = None  # looks, a quarter of an epoch apart, without a lower held-out loss
    rows: Count | None = None  # of the training split


@dataclass(frozen=True)
class LimitsConfig:
    """What a candidate must keep to be on the front."""

    max_latency_ms: Positive | None = None  # median
    max_loss: NonNegative | None = None  # points of the metric against the uncompressed model
    min_accuracy: Fraction | None = None  # of the task's metric
    max_size_mb: Positive | None = None
    #: Bounds by the name of any objective: the most of what is better lower, the least of what is better higher.
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkloadConfig:
    """The inputs that are timed."""

    batch: Count = 1
    length: Tokens | Literal["data"] = 32
    threads: Count | None = None  # of a model that is timed; None: one a CPU


@dataclass(frozen=True)
class BudgetConfig:
    trials: Count = 40  # the study's total
    timeout: Positive | None = None  # seconds, export included
    trial_timeout: Positive = 1800.0  # seconds
    least_gain: NonNegative = 0.0  # stop when the next trial is expected to add less, as a share of the hypervolume


@dataclass(frozen=True)
class MeasureConfig:
    """How long each candidate is timed."""

    quick_s: Positive = 1.5
    final_s: Positive = 2.4  # of blocks of one model in the final campaign, over its three sets of fresh processes
    reuse: bool = True  # what an earlier search measured here under the same conditions; finalists are timed again
    validation_rows: Count | None = None  # rows that choose; None: all


@dataclass(frozen=True)
class EconomyConfig:
    """What saves training: looks at candidates before they are recovered in full, and what is not trained for them."""

    rungs: Rungs = (0.0, 0.25)  # shares of the recovery after which a candidate is looked at; []: none
    halving: Annotated[int, Rule("at least 2", lambda v: v >= 2)] = 2  # one of so many goes on to the next rung
    rows: Count = 1024  # of the validation split, that lower rungs look at
    keep: Fraction = 0.85  # of the metric above that of the most frequent class; what keeps less is not looked for
    reject: bool = True  # what cannot reach the front is not trained
    audit: Fraction = 0.1  # of those that would be rejected, how many are trained all the same


@dataclass(frozen=True)
class CacheConfig:
    """What stages made, kept for later trials and searches in `<mlruns>/cache`."""

    max_gb: Positive | None = 20.0  # above it, what was used longest ago is removed; None: no limit

    @property
    def bytes(self) -> int | None:
        return None if self.max_gb is None else int(self.max_gb * 1e9)
