"""Smaller students cut from the teacher: fewer blocks, and a narrower residual stream."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from spaces import slicing
from spaces.anatomy import Anatomy, anatomy_of
from spaces.axis import Phase
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.knob import Knob, Plan, Settings
from spaces.least_squares import compensate
from spaces.shape import Shape
from spaces.slicing import Cut
from spaces.statistics import EMBEDDING, INPUT_OF, Statistics

#: Statistics of a block with one value per coordinate of the residual stream.
HIDDEN_VECTORS = ("mean.attention_in", "mean.ffn_in", "gradient.output", "gradient.down")
WIDTH_MULTIPLE = 32  # widths between its multiples leave vector units partly unused


class Distill:
    """Students that start as a slice of the teacher, so that distillation only has to refine them.

    Depth keeps the blocks whose removal changes the outputs most (by KL divergence, one block at a time). Width keeps
    the coordinates of the residual stream with the most energy, and every matrix that reads the stream is replaced by
    its least-squares approximation on these coordinates (`compensate`), which recovers what the dropped coordinates
    share with them. Recovery then distils the teacher's outputs into the student (Hinton et al. 2015, arXiv
    1503.02531; students from teacher blocks: Sanh et al. 2019, arXiv 1910.01108, section 3).
    """

    name = "distill"
    phase = Phase.SHAPE
    source = "Hinton et al. 2015; Sanh et al. 2019"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        depth = Knob("layers", off=shape.depth, low=1, high=shape.depth, step=1, help="blocks the student keeps")
        if not shape.prunable_hidden:
            return (depth,)
        width = Knob("width", off=1.0, low=0.5, high=1.0, step=0.125, help="share of the hidden size it keeps")
        return (depth, width)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        shape = statistics.shape
        count, width = int(settings.get("layers", shape.depth)), float(settings.get("width", 1.0))
        if not 1 <= count <= shape.depth:
            raise Infeasible(f"distill.layers must be in [1, {shape.depth}], got {count}")
        if not 0 < width <= 1:
            raise Infeasible(f"distill.width must be in (0, 1], got {width}")
        scores = torch.stack(statistics.stacked("importance"))
        blocks = sorted(scores.topk(count).indices.tolist())
        plan: Plan = {"blocks": blocks}
        hidden = max(WIDTH_MULTIPLE, round(width * shape.hidden / WIDTH_MULTIPLE) * WIDTH_MULTIPLE)
        if width < 1 and hidden < shape.hidden:  # a hidden size that is no multiple stays whole when width is off
            if not shape.prunable_hidden:
                raise Infeasible(
                    "distill.width: this model's embeddings have a width of their own, or it has a convolution"
                )
            energy = statistics.tensors["hidden.energy"]
            plan["hidden"] = slicing.encode_ranges(sorted(energy.topk(hidden).indices.tolist()))
        return plan

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        shape, hidden = statistics.shape, _hidden(plan)
        tensors: dict[str, Tensor] = {}
        for new, old in enumerate(plan["blocks"]):
            prefix = f"block.{old}."
            of_block = {k.removeprefix(prefix): t for k, t in statistics.tensors.items() if k.startswith(prefix)}
            for key, tensor in of_block.items():
                if hidden is not None and key in ("input.attention_in", "input.ffn_in"):
                    tensor = tensor[hidden][:, hidden]  # noqa: PLW2901
                elif hidden is not None and key in HIDDEN_VECTORS:
                    tensor = tensor[hidden]  # noqa: PLW2901
                tensors[f"block.{new}.{key}"] = tensor
        energy = statistics.tensors["hidden.energy"]
        tensors["hidden.energy"] = energy if hidden is None else energy[hidden]
        tensors |= {
            name: statistics.tensors[name] for name in ("tokens.count", EMBEDDING) if name in statistics.tensors
        }
        layers = tuple(shape.layers[i] for i in plan["blocks"])
        size = shape.hidden if hidden is None else len(hidden)
        return Statistics(replace(shape, layers=layers, hidden=size), tensors)

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        assert isinstance(model, TaskModel)
        anatomy = anatomy_of(model.backbone)
        anatomy.set_depth(plan["blocks"])
        hidden = _hidden(plan)
        if hidden is not None:
            slicing.reshape(model, _width_cuts(model, anatomy, hidden))
            model.tie()
            model.backbone.config.hidden_size = len(hidden)  # type: ignore[union-attr]

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        assert isinstance(model, TaskModel) and isinstance(source, TaskModel)
        anatomy = anatomy_of(model.backbone)
        hidden = _hidden(plan)
        if hidden is None:
            return  # the blocks that stay are those of the source
        cuts = _width_cuts(model, anatomy, hidden)
        root = _path_of(model, anatomy)
        renamed: dict[str, str] = {}
        for new, old in enumerate(plan["blocks"]):
            here = f"{root}{anatomy.family.layers}.{new}."
            renamed |= {p: p.replace(here, f"{root}{anatomy.family.layers}.{old}.") for p in cuts if p.startswith(here)}
        slicing.fill(model, source, cuts, renamed)
        before = anatomy_of(source.backbone)
        for new, old in enumerate(plan["blocks"]):
            for role in (r for r in anatomy.roles() if r not in ("output", "down")):
                moment, mean = (statistics.block(old, f"{kind}.{INPUT_OF[role]}") for kind in ("input", "mean"))
                compensate(anatomy.linear(new, role), before.linear(old, role), hidden, moment, mean)


def _hidden(plan: Plan) -> list[int] | None:
    return slicing.decode_ranges(plan["hidden"]) if "hidden" in plan else None


def _path_of(model: TaskModel, anatomy: Anatomy) -> str:
    path = next(name for name, module in model.named_modules() if module is anatomy.backbone)
    return f"{path}." if path else ""


def _width_cuts(model: TaskModel, anatomy: Anatomy, hidden: list[int]) -> dict[str, Cut]:
    """Every module that reads or writes the residual stream, by path from the task model."""
    family, root = anatomy.family, _path_of(model, anatomy)
    cuts: dict[str, Cut] = {f"{root}{path}": Cut(columns=hidden) for path in anatomy.embeddings}
    cuts |= {f"{root}{path}": Cut(rows=hidden) for path in anatomy.outer_norms}
    if family.pooler and getattr(anatomy.backbone, "pooler", None) is not None:
        cuts[f"{root}{family.pooler}"] = Cut(columns=hidden, rows=hidden)
    readers = model.hidden_readers()
    for path in readers:
        inner = path.endswith(("dense", "pre_classifier"))  # hidden to hidden, before the last layer
        cuts[path] = Cut(columns=hidden, rows=hidden if inner else None)
    cuts |= {path: Cut(rows=hidden) for path in model.hidden_norms()}
    for last in ("model.classifier.out_proj", "model.classifier"):
        if any(p.endswith(("dense", "pre_classifier")) for p in readers) and _is_linear(model, last):
            cuts[last] = Cut(columns=hidden)
    for index in range(len(anatomy.blocks)):
        here = f"{root}{family.layers}.{index}."
        cuts |= {f"{here}{path}": Cut(rows=hidden) for path in anatomy.norms(index)}
        for role, path in anatomy.roles().items():
            writes = role in ("output", "down")
            cuts[f"{here}{path}"] = Cut(rows=hidden) if writes else Cut(columns=hidden)
    return cuts


def _is_linear(model: nn.Module, path: str) -> bool:
    return any(name == path and isinstance(module, nn.Linear) for name, module in model.named_modules())
