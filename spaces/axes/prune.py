"""Structured pruning: attention heads and feed-forward neurons that matter least, physically removed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from spaces import slicing
from spaces.anatomy import Anatomy, LayerShape, Shape, anatomy_of
from spaces.axis import Infeasible, Knob, Phase, Plan, Settings
from spaces.base import TaskModel
from spaces.slicing import Cut
from spaces.statistics import Statistics

RIDGE = 1e-2  # of the mean variance of the kept inputs
NEURON_MULTIPLE = 16  # a block's neurons come in whole vector registers


class Prune:
    """Keeps a share of all heads and of all neurons, chosen over the whole model at once.

    fisher: the largest Fisher information of the masks, over all blocks together (Kwon et al. 2022, arXiv
    2204.09656, sections 4.1 and 4.2, with independent units). uniform: the same scores, the same share in every block.
    magnitude: weight norms, the same share in every block; the usual naive choice, kept for comparison.
    Every block keeps at least one head and `NEURON_MULTIPLE` neurons. What remains is tuned so that each matrix
    behind a cut gives, in least squares over the calibration tokens, what it gave before (`compensate`).
    """

    name = "prune"
    phase = Phase.PRUNE
    source = "Kwon et al. 2022, arXiv 2204.09656"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        neurons = Knob("neurons", off=1.0, low=0.125, high=1.0, step=0.125, help="share of feed-forward neurons kept")
        criterion = Knob(
            "criterion",
            off="fisher",
            choices=("fisher", "uniform", "magnitude"),
            mode=True,
            help="what matters least",
        )
        tuning = Knob(
            "tuning", off="least-squares", choices=("least-squares", "none"), mode=True, help="of what remains"
        )
        if not shape.prunable_heads:
            return (neurons, criterion, tuning)
        heads = Knob("heads", off=1.0, low=0.25, high=1.0, step=0.125, help="share of attention heads kept")
        return (heads, neurons, criterion, tuning)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        criterion = str(settings.get("criterion", "fisher"))
        shape = statistics.shape
        plan: Plan = {}
        for unit, at_least, multiple in (("heads", 1, 1), ("neurons", NEURON_MULTIPLE, NEURON_MULTIPLE)):
            share = float(settings.get(unit, 1.0))
            if not 0 < share <= 1:
                raise Infeasible(f"prune.{unit} must be in (0, 1], got {share}")
            if unit == "heads" and share < 1 and not shape.prunable_heads:
                raise Infeasible("prune.heads: the heads of this model family cannot differ from block to block")
            scores = statistics.stacked(unit if criterion != "magnitude" else f"{unit}_norm")
            kept = keep(scores, share, at_least, multiple, everywhere=criterion == "fisher")
            plan[unit] = [slicing.spelled(indices) for indices in kept]
        plan["tuning"] = str(settings.get("tuning", "least-squares"))
        return plan

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        shape = statistics.shape
        unit = shape.head_dim * shape.group
        tensors: dict[str, Tensor] = dict(statistics.tensors)
        layers = []
        for index in range(shape.depth):
            heads, neurons = _kept(plan, index)
            dims = _expand(heads, unit)
            for key, chosen in (("heads", heads), ("neurons", neurons)):
                for suffix in ("", "_norm"):
                    name = f"block.{index}.{key}{suffix}"
                    tensors[name] = tensors[name][chosen]
            for place, chosen in (("attention_out", dims), ("ffn_out", neurons)):
                name, mean = f"block.{index}.input.{place}", f"block.{index}.mean.{place}"
                tensors[name] = tensors[name][chosen][:, chosen]
                tensors[mean] = tensors[mean][chosen]
            keys = _expand(heads, shape.head_dim)
            written = {"query": dims, "key": keys, "value": keys, "up": neurons, "up.0": neurons, "up.1": neurons}
            for role, chosen in written.items():
                name = f"block.{index}.gradient.{role}"
                if name in tensors:
                    tensors[name] = tensors[name][chosen]
            layers.append(LayerShape(heads=len(heads), neurons=len(neurons)))
        return Statistics(replace(shape, layers=tuple(layers)), tensors)

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        assert isinstance(model, TaskModel)
        anatomy = anatomy_of(model.backbone)
        for index, block in enumerate(anatomy.blocks):
            slicing.reshape(block, _cuts(anatomy, plan, index))

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        assert isinstance(model, TaskModel) and isinstance(source, TaskModel)
        anatomy, origin = anatomy_of(model.backbone), anatomy_of(source.backbone)
        for index, (block, old) in enumerate(zip(anatomy.blocks, origin.blocks, strict=True)):
            cuts = _cuts(origin, plan, index)
            slicing.fill(block, old, cuts, {})
            if plan["tuning"] == "none":
                continue
            for role, place in (("output", "attention_out"), ("down", "ffn_out")):
                kept = cuts[origin.roles()[role]].columns
                before, after = origin.linear(index, role), anatomy.linear(index, role)
                moment, mean = statistics.block(index, f"input.{place}"), statistics.block(index, f"mean.{place}")
                if kept is not None and len(kept) < before.in_features:
                    compensate(after, before, list(kept), moment, mean)


def keep(scores: list[Tensor], share: float, at_least: int, multiple: int, *, everywhere: bool) -> list[list[int]]:
    """Indices kept in each block: `share` of all units, the highest scores first.

    everywhere: the blocks compete for one budget; otherwise each keeps its own share. Each block's count is
    rounded to a `multiple` where the block is wide enough for that to mean anything.
    """
    if share >= 1:
        return [list(range(len(s))) for s in scores]
    if everywhere:
        every = torch.cat(scores)
        # The threshold is the score of the last unit inside the budget.
        budget = max(1, round(share * len(every)))
        order = every.argsort(descending=True, stable=True)
        inside = torch.zeros(len(every), dtype=torch.bool)
        inside[order[:budget]] = True
        counts = [int(part.sum()) for part in torch.split(inside, [len(s) for s in scores])]
    else:
        counts = [round(share * len(s)) for s in scores]
    kept = []
    for score, count in zip(scores, counts, strict=True):
        step = multiple if len(score) >= 4 * multiple else 1
        rounded = round(count / step) * step
        chosen = min(len(score), max(at_least if len(score) >= 4 * at_least else 1, rounded))
        kept.append(sorted(score.argsort(descending=True, stable=True)[:chosen].tolist()))
    return kept


@torch.no_grad()
def compensate(after: nn.Linear, before: nn.Linear, kept: list[int], moment: Tensor, mean: Tensor) -> None:
    """Set `after`, which sees only the `kept` inputs, to the least-squares stand-in for `before`.

    Minimises E |W x + b - W' x_K - b'|^2 in W' and b': W' = W S[:, K] S[K, K]^-1 with S the covariance of x, and
    b' = b + W m - W' m_K (without a bias: S the second moment). It contains the per-unit scales of Kwon et al.
    2022, section 4.4, as the special case of a diagonal W' W^-1. `moment` (in, in) is E[x x^T], `mean` (in,) E[x].
    Cost: one (kept, kept) Cholesky factorisation in float64.
    """
    w = before.weight.double().cpu()
    second, first = moment.double(), mean.double()
    spread = second if before.bias is None else second - torch.outer(first, first)
    inside = spread[kept][:, kept]
    # A little of the diagonal: what the calibration tokens hardly vary in must not be extrapolated from.
    ridge = RIDGE * inside.diagonal().mean().clamp(min=1e-12)
    factor = torch.linalg.cholesky(inside + ridge * torch.eye(len(kept), dtype=torch.float64))
    # The ridge pulls towards the weights as they were, so shrink the difference, not the weights.
    gap = w @ spread[:, kept] - w[:, kept] @ inside
    tuned = w[:, kept] + torch.cholesky_solve(gap.T, factor).T
    after.weight.copy_(tuned)
    if before.bias is not None:
        after.bias.copy_(before.bias.double().cpu() + w @ first - tuned @ first[kept])


def _kept(plan: Plan, index: int) -> tuple[list[int], list[int]]:
    return slicing.indices_of(plan["heads"][index]), slicing.indices_of(plan["neurons"][index])


def _expand(units: list[int], size: int) -> list[int]:
    """Unit indices as the indices of their coordinates."""
    return [unit * size + i for unit in units for i in range(size)]


def _cuts(anatomy: Anatomy, plan: Plan, index: int) -> dict[str, Cut]:
    heads, neurons = _kept(plan, index)
    roles, group, head_dim = anatomy.roles(), anatomy.shape.group, anatomy.head_dim
    query, key_value = _expand(heads, group * head_dim), _expand(heads, head_dim)
    cuts = {
        roles["query"]: Cut(rows=query),
        roles["key"]: Cut(rows=key_value),
        roles["value"]: Cut(rows=key_value),
        roles["output"]: Cut(columns=query),
        roles["down"]: Cut(columns=neurons),
    }
    return cuts | {path: Cut(rows=neurons) for role, path in roles.items() if role.startswith("up")}
