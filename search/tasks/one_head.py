"""Defaults of tasks with one head; torch is imported only when a loss is computed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from search.config.schema import DataConfig
from search.tasks.parity_rule import LOGIT_PARITY, Parity
from search.tasks.task import ALONE, TERMS

if TYPE_CHECKING:
    import numpy as np
    import torch

    from search.config.schema import ModelConfig
    from search.tasks.tokens import Encoded
    from spaces.base import TaskModel
    from spaces.losses import Losses


class BaseTask:
    """A task with one head: the defaults of `search.tasks.task.Task`, with the losses of that head."""

    own_head: str
    keys: type[DataConfig] = DataConfig
    problem_type: str | None = None
    chosen_by: str | None = None
    #: "module:class" of each variant, whose file imports this task's.
    variant_classes: tuple[str, ...] = ()
    outputs: int | None = None
    supervised = True
    distills = frozenset(TERMS)
    labelled = False
    generates = False
    embeds = False
    slides = False
    parity: Parity = LOGIT_PARITY
    call = ALONE
    reply_model = "search.serve.replies:Replies"

    @cached_property
    def variants(self) -> tuple[Any, ...]:
        named = (name.partition(":")[::2] for name in self.variant_classes)
        return tuple(getattr(import_module(module), name)() for module, name in named)

    def variant(self, problem_type: str | None, data: Any, metric: str) -> Any:
        """The first variant whose key of `data` is given, or whose problem type it is; else the task itself."""
        for one in self.variants:
            if one.problem_type == problem_type if one.chosen_by is None else getattr(data, one.chosen_by) is not None:
                return one
        return self

    def head(self, model: ModelConfig, described: Any) -> str:
        return self.own_head

    def unusable(self, problem_type: str | None, outputs: int) -> str:
        return ""

    def most_rows(self, rows: int, max_length: int) -> int:
        """`rows` itself: a row costs as much as a row of a usual task."""
        return rows

    def forecast_rows(self, rows: Any) -> tuple[Encoded, np.ndarray] | None:
        """None: recoveries of these tasks are short, so `plan` does not time their training steps."""
        return None

    def paired(self, data: Any) -> bool:
        return False

    def asked(self, rows: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} names a reply_model of its own")

    def fitted(self, targets: np.ndarray) -> Self:
        """The task itself, since its targets have no unit."""
        return self

    def training(self, model: TaskModel, fresh: bool) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def losses(self) -> Losses:
        """The losses for the outputs of `own_head`."""
        from spaces.heads import head_named

        return head_named(self.own_head).losses

    def loss(self, output: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.losses.loss(output, targets, mask)

    def soft_loss(
        self, output: torch.Tensor, taught: torch.Tensor, mask: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        return self.losses.soft_loss(output, taught, mask, temperature)

    def divergence(self, output: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.losses.divergence(output, other, mask)

    def certainty(self, output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.losses.certainty(output, mask)
