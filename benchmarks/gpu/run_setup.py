"""Where a run of the stages happens: its device, its folders, and the model it searches over."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class RunSetup:
    """A run: on the GPU, or `dry`, on the CPU at toy size."""

    out: Path
    dry: bool = False

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def work(self) -> Path:
        """What stages make and find again: models, and the results of the searches. A later run goes on with it."""
        folder = Path(os.environ.get("GPU_WORK") or HERE / "work", "dry" if self.dry else "cuda")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def model(self) -> Path:
        """The embedded default's model, from whichever part of the bundle has it.

        Raises:
            FileNotFoundError: no part that is here has it.
        """
        folders = sorted((HERE / "bundle").glob("part-*/model"))
        if not folders:
            raise FileNotFoundError(f"no part of the bundle in {HERE / 'bundle'} holds the model: see README.md")
        return folders[0]

    @property
    def questions(self) -> Path | None:
        """A folder of whole files for question answering: `GPU_QUESTIONS`, else that of the bundle, or None."""
        named = os.environ.get("GPU_QUESTIONS")
        folders = [Path(named)] if named else sorted((HERE / "bundle").glob("part-*/questions"))
        return folders[0] if folders else None

    def environment(self, limit_s: float) -> dict[str, str]:
        """Variables of a stage that may take `limit_s` from now on."""
        return {
            "GPU_STAGE_UNTIL": repr(time.time() + limit_s),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "GIT_PYTHON_REFRESH": "quiet",  # MLflow asks for git, which a bare machine may not have
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # or JAX, once asked, would take most of the GPU's memory
        }

    @property
    def left_s(self) -> float:
        """Seconds that this stage has left."""
        return max(0.0, float(os.environ.get("GPU_STAGE_UNTIL", "inf")) - time.time())
