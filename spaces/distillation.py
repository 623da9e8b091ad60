"""Distillation losses: outputs, hidden states, attention relations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spaces.anatomy import anatomy_of
from spaces.base import TaskModel

RELATIONS = ("query", "key", "value")


@dataclass
class Activations:
    """Captured in one forward pass: (B, L, H) hidden states, and (B, L, D) projections of the last attention."""

    last: Tensor | None = None
    blocks: dict[int, Tensor] = field(default_factory=dict)
    projections: dict[str, Tensor] = field(default_factory=dict)
    token_logits: Tensor | None = None  # (B, L, V) of a causal language model

    def likeliest(self, count: int) -> Likeliest | None:
        """The `count` likeliest next tokens at each position; None where no logits were captured."""
        return None if self.token_logits is None else Likeliest.of(self.token_logits, count)


@contextmanager
def capturing(
    model: TaskModel, blocks: Sequence[int] = (), relations: bool = False, likeliest: bool = False
) -> Iterator[Activations]:
    """Capture, by forward hooks, the last hidden state and the named block outputs and relations of every pass.

    With `likeliest`, what `Activations.likeliest` of a causal language model needs too.
    """
    activations = Activations()

    def keep_last(_module: nn.Module, _args: object, output: Any) -> None:
        activations.last = output.last_hidden_state

    handles = [model.backbone.register_forward_hook(keep_last)]

    def keep_token_logits(_module: nn.Module, _args: object, output: Any) -> None:
        activations.token_logits = output.logits

    if likeliest:
        handles.append(model.get_submodule("model").register_forward_hook(keep_token_logits))

    def keep(block: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            activations.blocks[block] = output[0] if isinstance(output, tuple) else output

        return hook

    def keep_first(role: str) -> Callable[..., None]:
        """DeBERTa's queries and keys are of positions too, behind those of tokens."""

        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            activations.projections.setdefault(role, output)

        return hook

    def forget(_: nn.Module, __: object) -> None:
        activations.projections = {}

    if blocks or relations:
        anatomy = anatomy_of(model.backbone)
        handles += [anatomy.blocks[i].register_forward_hook(keep(i)) for i in blocks]
        if relations:
            last, roles = anatomy.blocks[-1], anatomy.roles()
            handles.append(model.backbone.register_forward_pre_hook(forget))
            handles += [last.get_submodule(roles[r]).register_forward_hook(keep_first(r)) for r in RELATIONS]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher's output for a batch, (B, ...) or (B, L, ...), and its hidden states for the other loss terms."""

    output: Tensor
    hidden: Tensor | None = None
    blocks: Mapping[int, Tensor] = field(default_factory=dict)
    projections: Mapping[str, Tensor] = field(default_factory=dict)
    likeliest: Likeliest | None = None


@dataclass(frozen=True)
class Likeliest:
    """The teacher's k likeliest next tokens at each position of a batch."""

    ids: Tensor  # (B, L, k) int64
    log_probabilities: Tensor  # (B, L, k)

    @classmethod
    def of(cls, token_logits: Tensor, count: int) -> Likeliest:
        """Of logits over the vocabulary (B, L, V)."""
        scores = token_logits.float()
        highest = scores.topk(min(count, scores.shape[-1]), dim=-1)
        return cls(highest.indices, highest.values - scores.logsumexp(-1, keepdim=True))


@dataclass(frozen=True)
class LossWeights:
    """How much each term of the loss counts; a term of weight 0 is not computed."""

    task: float = 0.3
    soft: float = 1.0
    hidden: float = 1.0
    blocks: float = 0.0
    relations: float = 0.0


@dataclass(frozen=True)
class Distillation:
    """Loss of a student: targets, the teacher's output, and its hidden states and attention relations.

    `task(output, targets, mask)` is the loss against the data's targets, `soft(output, taught, mask, temperature)` that
    against the teacher's output, or `likeliest_loss` where `likeliest` is set. The hidden term is the mean square error
    per token of the last hidden state, relative to the teacher's energy. The blocks term is the same for intermediate
    blocks, `mapped` from the student's to the teacher's (TinyBERT, Jiao et al. 2020, arXiv 1909.10351, section 3.2).
    The relations term compares queries, keys and values among the tokens of the last block (MiniLMv2, Wang et al. 2021,
    arXiv 2012.15828, section 3).
    `teacher(rows, inputs)` gives the teacher's outputs, stored or computed; `columns` are the coordinates of the
    teacher's hidden states that a narrower student has.
    """

    targets: Tensor
    teacher: Callable[[Tensor, Mapping[str, Tensor]], TeacherOutputs]
    task: Callable[[Tensor, Tensor, Tensor], Tensor]
    soft: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    temperature: float
    weights: LossWeights
    columns: Tensor | None = None
    mapped: Mapping[int, int] = field(default_factory=dict)
    relation_heads: int = 12
    likeliest: bool = False

    def __call__(self, model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        wanted = self.weights
        mapped = self.mapped if wanted.blocks > 0 else {}
        with capturing(model, tuple(mapped), wanted.relations > 0, self.likeliest) as activations:
            output = model(**inputs)
        taught = self.teacher(rows, inputs)
        mask = inputs["attention_mask"]
        value = wanted.task * self.task(output, self.targets[rows].to(output.device), mask)
        if self.likeliest:
            assert activations.token_logits is not None and taught.likeliest is not None
            value = value + wanted.soft * likeliest_loss(activations.token_logits, taught.likeliest, mask)
        else:
            value = value + wanted.soft * self.soft(output, taught.output.to(output.device), mask, self.temperature)
        if taught.hidden is not None and wanted.hidden > 0:
            assert activations.last is not None
            target = self._narrow(taught.hidden, activations.last)
            value = value + wanted.hidden * hidden_loss(activations.last, target, mask)
        for ours, theirs in mapped.items():
            state, target = activations.blocks[ours], taught.blocks[theirs]
            value = value + wanted.blocks / len(mapped) * hidden_loss(state, self._narrow(target, state), mask)
        if wanted.relations > 0:
            value = value + wanted.relations * relation_loss(
                activations.projections, taught.projections, mask, self.relation_heads
            )
        return value

    def _narrow(self, target: Tensor, like: Tensor) -> Tensor:
        target = target.to(like.device)
        return target if self.columns is None else target[..., self.columns.to(target.device)]


def likeliest_loss(token_logits: Tensor, taught: Likeliest, attention_mask: Tensor) -> Tensor:
    """KL(teacher || student) of the next token in nats, all but the teacher's likeliest tokens counted as one.

    `token_logits` (B, L, V), mask (B, L) with padding at the right; the mean over the tokens that follow another.
    Counting tokens as one never makes the divergence larger (the log sum inequality).
    """
    keep = attention_mask[:, 1:].bool()
    ours = token_logits[:, :-1][keep].float()  # (tokens, V)
    ids, theirs = (one.to(token_logits.device)[:, :-1][keep] for one in (taught.ids, taught.log_probabilities.float()))
    student = ours.gather(-1, ids) - ours.logsumexp(-1, keepdim=True)
    rest, others = (torch.log1p(-one.exp().sum(-1).clamp(max=1 - 1e-6)) for one in (student, theirs))
    divergence = (theirs.exp() * (theirs - student)).sum(-1) + others.exp() * (others - rest)
    return divergence.mean()


def hidden_loss(hidden: Tensor, target: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over real tokens of |h - t|^2 / mean |t|^2; (B, L, H) each, mask (B, L)."""
    keep = attention_mask.bool()
    h, t = hidden[keep].float(), target[keep].float()
    return (h - t).square().mean() / t.square().mean().clamp(min=1e-12)


def relation_loss(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], attention_mask: Tensor, heads: int
) -> Tensor:
    """KL(teacher || student) of the similarities between tokens, summed over queries, keys and values.

    Every projection (B, L, D) is split into relation heads, the largest number up to `heads` that divides both widths,
    so a student with fewer attention heads can be taught. Mean over relation heads and real tokens (MiniLMv2, section
    3.1).
    """
    keep = attention_mask.bool()
    value = torch.zeros((), device=attention_mask.device)
    for role, student in ours.items():
        teacher = theirs[role].to(student.device)
        shared = _shared_heads(student.shape[-1], teacher.shape[-1], heads)
        s, t = (_relations(x.float(), shared, keep) for x in (student, teacher))
        divergence = (t.exp() * (t - s)).masked_fill(~keep[:, None, None, :], 0.0).sum(-1)  # (B, R, L)
        value = value + divergence.transpose(1, 2)[keep].mean()
    return value


def _shared_heads(ours: int, theirs: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if ours % n == 0 and theirs % n == 0)


def _relations(x: Tensor, heads: int, keep: Tensor) -> Tensor:
    """Log-softmax over tokens of scaled inner products: (B, L, D) to (B, heads, L, L); padding gets a low score."""
    rows, length, width = x.shape
    split = x.view(rows, length, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    # A finite low score: with minus infinity, 0 * inf would make the divergence not a number.
    return scores.masked_fill(~keep[:, None, None, :], -1e4).log_softmax(-1)
