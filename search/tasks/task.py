"""The interface of a task: its data, head, losses, scoring of rows, and form of answers."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from search.errors import Where

if TYPE_CHECKING:
    import torch

    from search.config.schema import DataConfig, ModelConfig
    from search.tasks.parity_rule import Parity
    from search.tasks.tokens import Encoded
    from search.tasks.trained_labels import TrainedLabels
    from spaces.base import TaskModel


#: Terms of a recovery's loss, in the order of `spaces.distillation.LossWeights`; their settings are `<term>_weight`.
TERMS = ("task", "soft", "hidden", "block", "relation")
#: In `Task.distills`: the soft term is over the teacher's `recover.top_k` likeliest tokens.
LIKELIEST = "top_k"
#: `Task.call` where each row of `Rows.encoded` is a call of its own.
ALONE = "a row"


class Part(Protocol):
    """Rows of one part of the data, unencoded, in the order of the file."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """16 hex digits of the content: equal for equal rows in equal order."""
        ...

    def rows(self, chosen: np.ndarray) -> Any:
        """The rows with these indices, in this order."""
        ...

    def shown(self, row: int) -> str:
        """One row in words, for a message."""
        ...


@dataclass(frozen=True)
class Split:
    """Texts with labels."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None  # second texts, for tasks on pairs
    labels: np.ndarray  # (N,) int64; (N, C) int8 of label sets; (N,) float64 of numbers; (N, ...) int64 of other tasks

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        total = hashlib.sha256()
        for column in (self.texts, self.pairs or ()):
            for text in column:
                total.update(text.encode("utf-8", "surrogatepass") + b"\0")
            total.update(b"\1")
        total.update(self.labels.astype("<f8" if self.labels.dtype.kind == "f" else "<i8").tobytes())
        return total.hexdigest()[:16]

    def rows(self, chosen: np.ndarray) -> Split:
        pairs = None if self.pairs is None else tuple(self.pairs[i] for i in chosen)
        return Split(tuple(self.texts[i] for i in chosen), pairs, self.labels[chosen])

    def shown(self, row: int) -> str:
        from search.errors import show

        return f"the text {show(self.texts[row])} and the label {self.labels[row]}"


@dataclass(frozen=True)
class Splits:
    """Train, validation (chooses) and test (reported once), with the names of the labels where there are any."""

    train: Any  # a Part each
    validation: Any
    test: Any
    labels: tuple[str, ...] = ()  # of label 0, 1, ...
    notes: tuple[str, ...] = field(default=(), compare=False)  # what was done to the data, for the log

    @property
    def digest(self) -> str:
        parts = (self.train.digest, self.validation.digest, self.test.digest, *self.labels)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ConstantGuess:
    """The best prediction that is the same for every row, the baseline of a metric."""

    predictions: np.ndarray  # (N,), as a model's
    text: str  # "where every row is called "no""


class Rows(Protocol):
    """N scored rows of a part, tokenised: a model is fed the E rows of `encoded`, and its output is scored.

    An output is an array (E, ...), or (tokens, ...) of a head with an output a token: the rows' tokens one after the
    other, padding left out.
    """

    @property
    def encoded(self) -> Encoded: ...

    @property
    def references(self) -> np.ndarray:
        """(N,), or (N, C) for label sets: the references of predictions; zeros where predictions are scores already."""
        ...

    @property
    def classes(self) -> int:
        """Size of the label set; 0 where there is none."""
        ...

    @property
    def calls(self) -> np.ndarray:
        """(calls,) int64: how many neighbouring rows of `encoded` are fed to a model together, as the windows of a
        question are; their sum is E. A timed call is `workload.batch` of them."""
        ...

    def __len__(self) -> int:
        """The number N of scored rows."""
        ...

    def write(self, folder: Path, name: str) -> None:
        """Write the rows to `folder`; tokens and the targets of training in `<name>.npz` (`encoded.write_encoded`)."""
        ...

    def chosen(self, rows: np.ndarray) -> Any:
        """The rows with these indices (below N, rising)."""
        ...

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """(N,): a class each, or each row's own score by the metric; (N, C) 0 or 1 of label sets."""
        ...

    def constant_guess(self, metric: str) -> ConstantGuess:
        """The baseline that the teacher has to beat."""
        ...

    def problem(self) -> str:
        """Why no model can be compared on these rows, or ""."""
        ...

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        """Further figures of a report, as plain JSON."""
        ...


@runtime_checkable
class SecondScore(Protocol):
    """`Rows` with a second metric, which is reported but does not rank models."""

    def second(self, output: np.ndarray) -> tuple[str, Rows, np.ndarray]:
        """(metric, the rows that it scores, their part of a model's output)."""
        ...


class Task(Protocol):
    """One kind of job. A new task is a file here and a name in `TASKS`."""

    name: str
    chosen_by: str | None  # of a variant: the key of `data` that chooses it, where it is given
    metrics: tuple[str, ...]  # the default first
    own_head: str  # of `spaces.heads`: what a model may bring along
    outputs: int | None  # numbers a row, or a token; None: as many as there are labels, or any
    supervised: bool  # whether there is a loss against the data, so that a teacher can be trained
    distills: frozenset[str]  # which of `TERMS` a recovery has, and `LIKELIEST`; the weights of others do not count
    labelled: bool  # whether outputs are named labels
    generates: bool  # whether a timed call is a generation: a prompt, and tokens after it
    embeds: bool  # whether outputs are embeddings, which compare with those of the same model alone
    slides: bool  # whether a long text is read in windows that overlap by `data.doc_stride`, and not cut, when served
    reply_model: str  # "module:class", a `search.serve.exported_model.ExportedModel`: what `search.load` gives
    parity: Parity  # when two runs of one model agree
    call: str  # in words, what one of `workload.batch` is: "a row", "a question with all windows of its context"

    @property
    def keys(self) -> type[DataConfig]:
        """The section `data` of a configuration, with the keys that this task has beside those of every task."""
        ...

    @property
    def problem_type(self) -> str | None:
        """Of a classifier, as transformers calls it."""
        ...

    @property
    def variants(self) -> tuple[Task, ...]:
        """The other forms of this task, each chosen by its problem type or by a key of `data`."""
        ...

    def variant(self, problem_type: str | None, data: Any, metric: str) -> Any:
        """The form of the task, itself or one of its variants, that a configuration chooses."""
        ...

    def head(self, model: ModelConfig, described: Any) -> str:
        """The head (`spaces.heads.HEADS`) of this model; `described` is its transformers configuration."""
        ...

    def unusable(self, problem_type: str | None, outputs: int) -> str:
        """Why a model's own head cannot be used, as transformers describes it, or ""."""
        ...

    def most_rows(self, rows: int, max_length: int) -> int:
        """The number of rows of `max_length` tokens that cost as much work or memory as `rows` of a usual task."""
        ...

    def forecast_rows(self, rows: Any) -> tuple[Encoded, np.ndarray] | None:
        """(tokens, targets) of training `Rows`, on which `plan` times steps of a recovery; None: it times none."""
        ...

    def paired(self, data: Any) -> bool:
        """Whether rows are pairs of texts."""
        ...

    def load(self, data: Any, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        """Read the data, with the label numbers of `trained`, those of a head that the model has trained.

        `data` is a `keys`. Raises UserError, beginning with `where(key)`.
        """
        ...

    def encode(self, tokenizer: Any, part: Any, data: Any, labels: tuple[str, ...], where: Where = str) -> Any:
        """`Rows` of a part. Raises UserError."""
        ...

    def read(self, folder: Path, name: str) -> Any:
        """The `Rows` that were written."""
        ...

    def asked(self, rows: Any) -> Any:
        """The rows that a user gives to a loaded model, as a `Part` without references, for `encode`.

        Only tasks that use the common `reply_model` (`search.serve.replies`) need it. Their `Rows` also have
        `replies(output)`, which lists one answer a row.

        Raises:
            TypeError, ValueError: the rows are not what the task takes.
        """
        ...

    def fitted(self, targets: np.ndarray) -> Any:
        """The task in the unit of training rows with these targets."""
        ...

    def training(self, model: TaskModel, fresh: bool) -> AbstractContextManager[None]:
        """The context in which `model` is trained; `fresh`: its head is newly initialised."""
        ...

    def loss(self, output: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The training loss (scalar): of outputs (B, ...) against targets (B, ...); mask (B, L)."""
        ...

    def soft_loss(
        self, output: torch.Tensor, taught: torch.Tensor, mask: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """The distillation loss (scalar) against the teacher's output `taught` (B, ...); mask (B, L)."""
        ...

    def divergence(self, output: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The divergence of two outputs (B, ...), summed over rows (scalar)."""
        ...

    def certainty(self, output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The scalar, summed over rows, whose gradients weigh errors of the weights (`spaces.sensitivity`)."""
        ...


Answers = list[dict[str, Any]]
