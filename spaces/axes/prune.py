"""Structured pruning: attention heads and feed-forward neurons that matter least, physically removed."""

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
from spaces.shape import LayerShape, Shape
from spaces.slicing import Cut
from spaces.statistics import Statistics

NEURON_MULTIPLE = 16  # so that a block's neurons fill whole vector registers


class Prune:
    """Keeps a share of all heads and of all neurons, chosen over the whole model at once.

    `criterion`: "fisher" keeps the units whose masks have the largest Fisher information over all blocks together,
    then rearranges them inside each block by their joint effect (Kwon et al. 2022, arXiv 2204.09656, sections 4.1 to
    4.3). "diagonal" is the same without the rearrangement; "uniform" has the same scores, but the same share in every
    block; "magnitude" scores by weight norms, with the same share in every block, as a naive baseline. `flops` is one
    budget for heads and neurons together, divided so that the least Fisher information is lost; `heads` and `neurons`
    are then upper bounds. Every block keeps at least one head and `NEURON_MULTIPLE` neurons. With `tuning` each matrix
    behind a cut reproduces its former outputs in least squares over the calibration tokens (`compensate`).
    """

    name = "prune"
    phase = Phase.PRUNE
    source = "Kwon et al. 2022, arXiv 2204.09656"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        neurons = Knob("neurons", off=1.0, low=0.125, high=1.0, step=0.125, help="share of feed-forward neurons kept")
        criterion = Knob(
            "criterion",
            off="fisher",
            choices=("fisher", "diagonal", "uniform", "magnitude"),
            method=True,
            help="how heads and neurons are scored",
        )
        tuning = Knob(
            "tuning",
            off="least-squares",
            choices=("least-squares", "none"),
            method=True,
            help="of the matrices behind the cuts",
        )
        flops = Knob(
            "flops", off=1.0, low=0.25, high=1.0, step=0.125, opt_in=True, help="share of the blocks' products kept"
        )
        if not shape.prunable_heads:
            return (neurons, criterion, tuning)  # with one kind of unit a budget is the same as its share
        heads = Knob("heads", off=1.0, low=0.25, high=1.0, step=0.125, help="share of attention heads kept")
        return (heads, neurons, flops, criterion, tuning)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        criterion = str(settings.get("criterion", "fisher"))
        shape = statistics.shape
        shares = {unit: float(settings.get(unit, 1.0)) for unit in ("heads", "neurons", "flops")}
        for unit, share in shares.items():
            if not 0 < share <= 1:
                raise Infeasible(f"prune.{unit} must be in (0, 1], got {share}")
        if min(shares["heads"], shares["flops"]) < 1 and not shape.prunable_heads:
            raise Infeasible("prune.heads, prune.flops: the heads of this family cannot differ from block to block")
        if shares["flops"] < 1:
            shares |= share_out(statistics, shares["flops"], shares["heads"], shares["neurons"])
        plan: Plan = {}
        for unit, at_least, multiple in (("heads", 1, 1), ("neurons", NEURON_MULTIPLE, NEURON_MULTIPLE)):
            scores = statistics.stacked(unit if criterion != "magnitude" else f"{unit}_norm")
            everywhere = criterion in ("fisher", "diagonal")
            remaining = keep(scores, shares[unit], at_least, multiple, everywhere=everywhere)
            if criterion == "fisher":
                rows = statistics.stacked(f"{unit}_rows")
                remaining = [rearrange(g, indices) for g, indices in zip(rows, remaining, strict=True)]
            plan[unit] = [slicing.encode_ranges(indices) for indices in remaining]
        plan["tuning"] = str(settings.get("tuning", "least-squares"))
        return plan

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        shape = statistics.shape
        unit = shape.head_dim * shape.group
        tensors: dict[str, Tensor] = dict(statistics.tensors)
        layers = []
        for index in range(shape.depth):
            heads, neurons = _units(plan, index)
            dims = _expand(heads, unit)
            for key, chosen in (("heads", heads), ("neurons", neurons)):
                for suffix in ("", "_norm"):
                    name = f"block.{index}.{key}{suffix}"
                    tensors[name] = tensors[name][chosen]
                name = f"block.{index}.{key}_rows"
                tensors[name] = tensors[name][:, chosen]
            for read, chosen in (("attention_out", dims), ("ffn_out", neurons)):
                name, mean = f"block.{index}.input.{read}", f"block.{index}.mean.{read}"
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
            anatomy.set_heads(index, len(_units(plan, index)[0]))

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        assert isinstance(model, TaskModel) and isinstance(source, TaskModel)
        anatomy, origin = anatomy_of(model.backbone), anatomy_of(source.backbone)
        for index, (block, old) in enumerate(zip(anatomy.blocks, origin.blocks, strict=True)):
            cuts = _cuts(origin, plan, index)
            slicing.fill(block, old, cuts, {})
            if plan["tuning"] == "none":
                continue
            for role, read in (("output", "attention_out"), ("down", "ffn_out")):
                columns = cuts[origin.roles()[role]].columns
                before, after = origin.linear(index, role), anatomy.linear(index, role)
                moment, mean = statistics.block(index, f"input.{read}"), statistics.block(index, f"mean.{read}")
                if columns is not None and len(columns) < before.in_features:
                    compensate(after, before, list(columns), moment, mean)


def keep(scores: list[Tensor], share: float, at_least: int, multiple: int, *, everywhere: bool) -> list[list[int]]:
    """Indices kept in each block: `share` of all units, by falling scores, (units,) for each block.

    `everywhere`: the blocks compete for one budget; otherwise each keeps the same share. In a block of at least
    4 * `multiple` units the count is rounded to a multiple of it, and in one of 4 * `at_least` it is at least that.
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
    indices = []
    for score, count in zip(scores, counts, strict=True):
        step = multiple if len(score) >= 4 * multiple else 1
        rounded = round(count / step) * step
        chosen = min(len(score), max(at_least if len(score) >= 4 * at_least else 1, rounded))
        indices.append(sorted(score.argsort(descending=True, stable=True)[:chosen].tolist()))
    return indices


def share_out(statistics: Statistics, flops: float, heads: float, neurons: float) -> dict[str, float]:
    """Shares of heads and of neurons that keep `flops` of the blocks' matrix products and most Fisher information.

    Tries every number of heads, gives the rest of the budget to neurons, and takes the combination that loses least
    (Kwon et al. 2022, section 4.2, algorithm 1, which treats units as independent). `heads` and `neurons` bound the
    shares from above. Cost: one sort. Raises Infeasible where no combination fits.
    """
    shape = statistics.shape
    of_heads, of_neurons = (torch.cat(statistics.stacked(unit)) for unit in ("heads", "neurons"))
    queries = shape.head_dim * shape.group
    head_cost = 2 * shape.hidden * (queries + shape.head_dim)  # query and output, key and value
    gates = 3 if "block.0.gradient.up.1" in statistics.tensors else 2
    neuron_cost = gates * shape.hidden
    budget = flops * (len(of_heads) * head_cost + len(of_neurons) * neuron_cost)
    lost_heads, lost_neurons = _lost(of_heads), _lost(of_neurons)
    most_heads, most_neurons = round(heads * len(of_heads)), round(neurons * len(of_neurons))
    best: tuple[float, int, int] | None = None
    for head_count in range(shape.depth, most_heads + 1):
        rest = min(most_neurons, int((budget - head_count * head_cost) / neuron_cost))
        if rest < min(shape.depth * NEURON_MULTIPLE, most_neurons):
            break
        lost = float(lost_heads[head_count] + lost_neurons[rest])
        if best is None or lost < best[0]:
            best = lost, head_count, rest
    if best is None:
        raise Infeasible(f"prune.flops: no heads and neurons fit into {flops:g} of the products")
    return {"heads": best[1] / len(of_heads), "neurons": best[2] / len(of_neurons)}


def _lost(scores: Tensor) -> Tensor:
    """(n + 1,): the sum of the scores that are dropped where the k highest of (n,) are kept, k = 0..n."""
    highest = scores.double().sort(descending=True).values
    return torch.cat([highest.sum()[None], highest.sum() - highest.cumsum(0)])


def rearrange(rows: Tensor, indices: list[int]) -> list[int]:
    """The same number of units, exchanged one at a time while that lowers the joint cost of the removed ones.

    rows: (N, n), gradients of the units' masks. With I = rows^T rows and r the indicator of the removed units the cost
    is r^T I r: two redundant units are cheap to remove singly and expensive together (Kwon et al. 2022, section 4.3;
    greedy). Cost: one (n, n) product, and O(n) for each removed unit.
    """
    g = rows.float()
    count = g.shape[1]
    if not 0 < len(indices) < count:
        return indices
    fisher = (g.T @ g).double()
    removed = torch.ones(count, dtype=torch.bool)
    removed[indices] = False
    together = fisher @ removed.double()  # I r
    own = fisher.diagonal()
    for unit in torch.nonzero(removed)[:, 0][own[removed].argsort(descending=True)].tolist():
        without = together - fisher[:, unit]
        # What each unit would cost beside those that stay removed.
        added = own + 2 * without
        added[removed] = torch.inf
        best = int(added.argmin())
        if float(added[best]) < float(own[unit] + 2 * without[unit]):
            removed[unit], removed[best] = False, True
            together = without + fisher[:, best]
    return torch.nonzero(~removed)[:, 0].tolist()


def _units(plan: Plan, index: int) -> tuple[list[int], list[int]]:
    """Indices of the heads and of the neurons that block `index` keeps."""
    return slicing.decode_ranges(plan["heads"][index]), slicing.decode_ranges(plan["neurons"][index])


def _expand(units: list[int], size: int) -> list[int]:
    """Unit indices as the indices of their coordinates."""
    return [unit * size + i for unit in units for i in range(size)]


def _cuts(anatomy: Anatomy, plan: Plan, index: int) -> dict[str, Cut]:
    heads, neurons = _units(plan, index)
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
