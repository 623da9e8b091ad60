"""The error of a training whose loss is no finite number, which names the keys of the configuration."""

from __future__ import annotations

from typing import Literal

from search.config.schema import RunConfig
from search.errors import wrong

#: What gives the loss of the first batch, by section.
GIVES_LOSS = {
    "teacher": "the numbers of data.label and the model's outputs give it",
    "recover": "recover.temperature and the weights of recover scale it",
}


def diverged(config: RunConfig, section: Literal["teacher", "recover"], error: FloatingPointError) -> str:
    """What is wrong where the training of this section of the configuration ended with `error`."""
    from spaces.training import Diverged

    if not isinstance(error, Diverged):
        return f"{config.where(section)}: must be trained by a finite loss: {error}; {GIVES_LOSS[section]}"
    rate = getattr(config, section).learning_rate
    beside = f" (teacher.head_learning_rate is {config.teacher.head_learning_rate:g})" if section == "teacher" else ""
    rule = wrong(config.where(f"{section}.learning_rate"), "a rate at which the training stays finite", rate)
    return f"{rule}{beside}: {error}"
