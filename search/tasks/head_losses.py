"""The losses of a task's outputs, by the kind of output; torch is imported when one is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class HeadLosses:
    """What `search.tasks.task.Task` says of losses, by the functions of one kind in `spaces.losses`."""

    kind: str  # of `spaces.losses.LOSSES`
    generates = False

    def most_rows(self, rows: int, max_length: int) -> int:
        """As `search.tasks.task.Task.most_rows`: no fewer."""
        return rows

    def loss(self, output: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from spaces.losses import LOSSES

        return LOSSES[self.kind].loss(output, targets, mask)

    def soft_loss(
        self, output: torch.Tensor, taught: torch.Tensor, mask: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        from spaces.losses import LOSSES

        return LOSSES[self.kind].soft_loss(output, taught, mask, temperature)

    def divergence(self, output: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from spaces.losses import LOSSES

        return LOSSES[self.kind].divergence(output, other, mask)

    def certainty(self, output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from spaces.losses import LOSSES

        return LOSSES[self.kind].certainty(output, mask)
