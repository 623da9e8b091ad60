"""What each axis of compression costs in accuracy and gives in speed, alone and together.

    python -m benchmarks.axes                  three seeds; teachers and students are trained once and kept
    python -m benchmarks.axes --quick          one seed on a stored teacher, fewer models
    python -m benchmarks.axes --check          exit 1 where a promised figure is missed

On the embedded default's model and data; teachers of two epochs. A loss is points of test accuracy against the
teacher, paired by row and pooled over seeds, with its 95 % interval; "within 1 point" is the point estimate. Which
model stands for "weights alone" and "all together" is chosen on validation: the smallest within half a point. Speed is
at batch 1 and 32, at the test rows' own lengths, each ratio measured in three fresh pairs of processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import header
from benchmarks.lab import EAGER, ONNX, ONNX_INT8, TEACHER, Deployment, Lab, Loss, Model, timed
from search.prepare.statistics import make_statistics

THIRD = {"prune.heads": 0.667, "prune.neurons": 0.5}
DEEP = {"prune.heads": 0.5, "prune.neurons": 0.25}
UNTUNED = {"prune.tuning": "none"}
MAGNITUDE = {"prune.criterion": "magnitude"}
DIAGONAL = {"prune.criterion": "diagonal"}

#: With no training at all.
ONE_SHOT = (
    Model("a third of heads, half of neurons: Fisher, tuned", THIRD),
    Model("  Fisher, untuned", {**THIRD, **UNTUNED}),
    Model("  Fisher without rearrangement, tuned", {**THIRD, **DIAGONAL}),
    Model("  Fisher without rearrangement, untuned", {**THIRD, **DIAGONAL, **UNTUNED}),
    Model("  magnitude, tuned", {**THIRD, **MAGNITUDE}),
    Model("  magnitude, untuned", {**THIRD, **MAGNITUDE, **UNTUNED}),
    Model("half of heads, 3/4 of neurons: Fisher, tuned", DEEP),
    Model("  as deep: Fisher, untuned", {**DEEP, **UNTUNED}),
    Model("  as deep: Fisher without rearrangement, tuned", {**DEEP, **DIAGONAL}),
    Model("  as deep: magnitude, untuned", {**DEEP, **MAGNITUDE, **UNTUNED}),
    Model("half of the products, jointly: Fisher, tuned", {"prune.flops": 0.5}),
    Model("half of the weights in factors: whitened, one budget", {"low_rank.rank": 0.5}),
    Model("  whitened, one share each", {"low_rank.rank": 0.5, "low_rank.allocation": "uniform"}),
    Model(
        "  plain SVD, one share each",
        {"low_rank.rank": 0.5, "low_rank.allocation": "uniform", "low_rank.method": "plain"},
    ),
    Model("three quarters of the hidden size", {"distill.width": 0.75}),
    Model("half of the token table in factors", {"low_rank.embeddings": 0.5}),
)
#: One axis each, with an epoch of recovery.
RECOVERED = (
    Model("4 of 6 blocks", {"distill.layers": 4}, 1.0),
    Model("3 of 6 blocks", {"distill.layers": 3}, 1.0),
    Model("half of heads, 3/4 of neurons", DEEP, 1.0),
    Model("half of the weights in factors", {"low_rank.rank": 0.5}, 1.0),
)
#: Of these the smallest that is good enough on validation stands for all axes of weights.
CANDIDATES = (
    Model("4 blocks, 2/3 of heads, half of neurons", {"distill.layers": 4, **THIRD}, 2.0),
    Model("4 blocks, half of heads, quarter of neurons", {"distill.layers": 4, **DEEP}, 2.0),
    Model("3 blocks, half of heads, quarter of neurons", {"distill.layers": 3, **DEEP}, 2.0),
)
WITHIN = 1.0  # points
#: Of that on validation, which chooses: the smallest of several that are inside is there by luck too.
CHOSEN_WITHIN = 0.5


def row(name: str, loss: Loss, ratios: dict[str, Any], size: float | None) -> tuple[str, ...]:
    cells = [f"{ratios[key][0]:.2f}x" if key in ratios else "" for key in COLUMNS_OF_SPEED]
    return (name, str(loss), *cells, "" if size is None else f"{size:.1f}")


COLUMNS_OF_SPEED = ("eager b1", "onnx b1", "int8 b1", "eager b32", "onnx b32", "int8 b32")


def speeds(lab: Lab, model: Model, seconds: float) -> dict[str, Any]:
    """Times faster than the teacher: under ONNX Runtime over eager, over ONNX Runtime, and int8 over int8."""
    ratios = {}
    for batch in (1, 32):
        ratios[f"eager b{batch}"] = lab.ratio(model, ONNX, EAGER, batch, seconds)
        if model == TEACHER:  # against itself there is nothing to see
            continue
        ratios[f"onnx b{batch}"] = lab.ratio(model, ONNX, ONNX, batch, seconds)
        ratios[f"int8 b{batch}"] = lab.ratio(model, ONNX_INT8, ONNX_INT8, batch, seconds)
    return ratios


def chosen(lab: Lab, deployment: Deployment) -> tuple[Model, dict[str, Loss]]:
    """The smallest candidate that is inside `CHOSEN_WITHIN` on validation; the best one if none is."""
    losses = {model.name: lab.loss(model, deployment, "validation") for model in CANDIDATES}
    inside = [m for m in CANDIDATES if losses[m.name].points <= CHOSEN_WITHIN]
    if not inside:
        return min(CANDIDATES, key=lambda m: losses[m.name].points), losses
    return min(inside, key=lambda m: lab.size_mb(m, EAGER)), losses


def statistics_seconds(lab: Lab) -> float:
    """Of the one pass that pruning, low rank and precision are decided from."""
    setting = lab.setting(lab.seeds[0])
    with tempfile.TemporaryDirectory() as folder:
        arguments = (setting.config, setting.data, setting.teacher, setting.context.device, setting.context.threads)
        return timed(make_statistics, Path(folder), *arguments, lambda stage, done: None)


def promises(losses: dict[str, Loss], figures: dict[str, Any]) -> list[header.Promise]:
    plain, whitened = losses["  plain SVD, one share each"], losses[ONE_SHOT[11].name]
    weights, together = figures["weights alone"], figures["all together"]
    third, deep = losses[ONE_SHOT[0].name], losses[ONE_SHOT[6].name]
    return [
        header.Promise("no training, a third of heads, half of neurons: points lost", third.points, high=1.5),
        header.Promise("no training, half of heads, 3/4 of neurons: points lost", deep.points, high=4.0),
        header.Promise("whitened factors: share of plain SVD's loss", whitened.points / plain.points, high=0.5),
        header.Promise("weights alone: points lost", weights["loss"].points, high=WITHIN),
        header.Promise("weights alone: times faster, same runtime and precision", weights["ratio"][0], low=1.8),
        header.Promise("all together: points lost", together["loss"].points, high=WITHIN),
        header.Promise("all together: times faster than the teacher in int8", together["over int8"][0], low=1.8),
        header.Promise("all together: times faster than eager fp32", together["over eager"][0], low=5.0),
        header.Promise("stretch, weights alone: times faster", weights["ratio"][0], low=2.5, stretch=True),
        header.Promise(
            "stretch, all together: over the teacher in int8", together["over int8"][0], low=2.5, stretch=True
        ),
        header.Promise("stretch, all together: over eager fp32", together["over eager"][0], low=8.0, stretch=True),
        header.Promise("int8 alone: points lost", figures["int8"].points, high=0.5),
        header.Promise("statistics: seconds", figures["statistics_s"], high=60.0),
    ]


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"), help="where teachers and students are kept")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2; with --quick 0")
    parser.add_argument("--seconds", type=float, default=6.0, help="of blocks in one timing (default: 6)")
    arguments = parser.parse_args()
    seeds = arguments.seeds or ([0] if arguments.quick else [0, 1, 2])
    about = header.hardware()
    print(f"{header.heading(about)}\nthe embedded default, teachers of two epochs, seeds {seeds}\n", flush=True)
    lab = Lab(arguments.mlruns.absolute(), seeds)
    for seed in seeds:
        lab.setting(seed)
    took = statistics_seconds(lab)
    teacher = lab.accuracy(TEACHER, EAGER, "test")
    losses = {model.name: lab.loss(model, EAGER, "test") for model in ONE_SHOT}
    print(f"teacher: {teacher:.2%} of the test rows; statistics {took:.1f} s\n\nwith no training at all")
    print(header.table(("model", "points lost on test"), [(n, str(lost)) for n, lost in losses.items()]), flush=True)
    if not arguments.quick:
        recovered = {model.name: lab.loss(model, EAGER, "test") for model in RECOVERED}
        print("\none axis and an epoch of recovery")
        print(header.table(("model", "points lost on test"), [(n, str(f)) for n, f in recovered.items()]), flush=True)
    best, on_validation = chosen(lab, ONNX)
    best_int8, on_validation_int8 = chosen(lab, ONNX_INT8)
    rows, speed = [], {}
    assert len({model.name for model in (*ONE_SHOT, *RECOVERED, *CANDIDATES)}) == len(ONE_SHOT + RECOVERED + CANDIDATES)
    for model in {model.name: model for model in (TEACHER, best, best_int8)}.values():
        speed[model.name] = speeds(lab, model, arguments.seconds)
        rows.append(row(model.name, lab.loss(model, ONNX, "test"), speed[model.name], lab.size_mb(model, ONNX)))
        rows.append(row(f"{model.name}, int8", lab.loss(model, ONNX_INT8, "test"), {}, lab.size_mb(model, ONNX_INT8)))
    figures = {
        "statistics_s": took,
        "teacher": teacher,
        "int8": lab.loss(TEACHER, ONNX_INT8, "test"),
        "weights alone": {"loss": lab.loss(best, ONNX, "test"), "ratio": speed[best.name]["onnx b1"]},
        "all together": {
            "loss": lab.loss(best_int8, ONNX_INT8, "test"),
            "over int8": speed[best_int8.name]["int8 b1"],
            "over eager": lab.ratio(best_int8, ONNX_INT8, EAGER, 1, arguments.seconds),
        },
    }
    print("\ntimes faster than the teacher: in ONNX Runtime over eager, over ONNX Runtime, and int8 over int8")
    print(header.table(("model", "points lost on test", *COLUMNS_OF_SPEED, "MB"), rows))
    print("\nloss on validation, which chose:")
    for model in CANDIDATES:
        print(f"  {model.name}: {on_validation[model.name]}; int8 {on_validation_int8[model.name]}")
    tables = {"losses": losses, "figures": figures, "speed": speed, "validation": on_validation}
    return header.finish(arguments, about, tables, promises(losses, figures))


if __name__ == "__main__":
    sys.exit(main())
