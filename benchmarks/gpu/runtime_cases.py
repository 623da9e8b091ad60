"""What the table of runtimes has rows of: models, shapes, runtimes and precisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import timed_models

BERT_BASE = {
    **timed_models.CONFIG,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
WHOLE, THINNER, SHORTER = "whole", "half of heads and neurons", "half of the layers"
HALVES = (THINNER, SHORTER)
#: Cheap to open, and not. Precisions that a runtime has no kernels for are rows too.
LIGHT = (
    ("cuda_graph", "bf16"),
    ("eager", "bf16"),
    ("eager", "fp32"),
    ("eager", "fp16"),
    ("eager", "tf32"),
    ("eager", "fp8"),
    ("eager", "2:4 fp16"),
    ("cuda_graph", "fp16"),
    ("cuda_graph", "fp32"),
    ("cuda_graph", "tf32"),
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("tensorrt", "fp16"),
    ("xla", "fp32"),
)
HEAVY = (
    ("compiled", "bf16"),
    ("aot_inductor", "bf16"),
    ("compiled", "fp8"),
    ("compiled", "2:4 fp16"),
    ("compiled", "fp16"),
    ("compiled", "fp32"),
    ("compiled", "tf32"),
    ("aot_inductor", "fp16"),
    ("aot_inductor", "fp32"),
    ("eager", "2:4 bf16"),
    ("compiled", "2:4 bf16"),
)
SLOWEST = tuple(("compiled-max-autotune", precision) for precision in ("bf16", "fp16", "fp32", "fp8"))
BEST = (("cuda_graph", "bf16"), ("eager", "bf16"), ("compiled", "bf16"), ("aot_inductor", "bf16"))
MODELS = {"BERT-base": (BERT_BASE, 128), "MiniLM": (timed_models.CONFIG, 32)}


@dataclass(frozen=True)
class Case:
    """One process: a model's shape under a runtime and a precision."""

    model: str
    shape: str
    runtime: str
    precision: str

    @property
    def sparse(self) -> bool:
        return self.precision.startswith("2:4")

    @property
    def kernel_precision(self) -> str:
        """As the runtimes call it; TF32 is a way to multiply fp32."""
        precision = self.precision.removeprefix("2:4 ")
        return "fp32" if precision == "tf32" else precision


def cases() -> Iterator[Case]:
    """Most informative first, each once."""
    blocks = (
        ("BERT-base", (WHOLE,), LIGHT),
        ("BERT-base", (WHOLE,), HEAVY),
        ("MiniLM", (WHOLE,), LIGHT),
        ("BERT-base", HALVES, BEST),
        ("MiniLM", (WHOLE,), HEAVY),
        ("MiniLM", HALVES, BEST),
        ("BERT-base", (WHOLE,), SLOWEST),
        ("MiniLM", (WHOLE,), SLOWEST),
        ("BERT-base", HALVES, (*LIGHT, *HEAVY, *SLOWEST)),
        ("MiniLM", HALVES, (*LIGHT, *HEAVY, *SLOWEST)),
    )
    distinct = {Case(m, s, *kind): None for m, shapes, kinds in blocks for s in shapes for kind in kinds}
    yield from distinct


def dry_cases() -> Iterator[Case]:
    """Toy ones: each way that a case can end, and each shape."""
    yield Case("toy", WHOLE, "cuda_graph", "bf16")
    yield Case("toy", WHOLE, "eager", "fp32")
    yield Case("toy", THINNER, "eager", "tf32")
    yield Case("toy", SHORTER, "eager", "fp32")
    yield Case("toy", WHOLE, "eager", "fp8")
    yield Case("toy", WHOLE, "eager", "2:4 fp16")


def named(case: Case) -> dict[str, Any]:
    return {"model": case.model, "shape": case.shape, "runtime": case.runtime, "precision": case.precision}


def case_of(row: Mapping[str, Any]) -> Case:
    return Case(row["model"], row["shape"], row["runtime"], row["precision"])
