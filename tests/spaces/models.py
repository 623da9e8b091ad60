"""Tiny random models of every family, and batches for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from spaces import build, calibration, registry, sensitivity
from spaces.anatomy import anatomy_of
from spaces.axis import Axis
from spaces.base import Base, TaskModel, skeleton, write_folder
from spaces.heads import PooledEncoder, head_named
from spaces.knob import Knob, Value
from spaces.losses import class_certainty
from spaces.pooling import Pooling
from spaces.recipe import DEPLOYED, Step
from spaces.shape import LayerShape, Shape
from spaces.statistics import Statistics
from spaces.statistics_pass import collect

LABELS = ("negative", "neutral", "positive")
VOCABULARY = 61
DEPTH, HIDDEN, HEADS, NEURONS = 3, 64, 4, 64
POSITIONS = 40
LENGTHS = ((7, 4, 7, 2), (5, 5, 1))  # of the rows of two batches, so that most rows have padding

_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": NEURONS,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
_DECODER = {**_ENCODER, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "bos_token_id": 2}
_DECODER |= {"eos_token_id": 3, "pad_token_id": 1}
_DISTILBERT = {"vocab_size": VOCABULARY, "dim": HIDDEN, "n_layers": DEPTH, "n_heads": HEADS, "hidden_dim": NEURONS}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": DEPTH, "n_head": HEADS, "n_inner": NEURONS}
_GPT2 |= {"n_positions": POSITIONS, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
#: As DeBERTa-v3 has them.
_DEBERTA = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
_DEBERTA |= {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0}
#: Full attention in the first block, attention to a token and its neighbours in the others.
_MODERNBERT = {"local_attention": 2, "global_attn_every_n_layers": 3}
_MODERNBERT |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


@dataclass(frozen=True)
class Case:
    """A transformers configuration that makes one tiny model."""

    model_type: str
    config: Mapping[str, Any]


#: Every model type of `spaces.families.FAMILIES`, and ELECTRA with embeddings of a width of their own.
CASES: dict[str, Case] = {
    "bert": Case("bert", {**_ENCODER, "type_vocab_size": 2}),
    "roberta": Case("roberta", {**_ENCODER, "type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": Case("xlm-roberta", {**_ENCODER, "type_vocab_size": 1, "pad_token_id": 1}),
    "camembert": Case("camembert", {**_ENCODER, "type_vocab_size": 1, "pad_token_id": 1}),
    "electra": Case("electra", {**_ENCODER, "embedding_size": HIDDEN}),
    "electra-projected": Case("electra", {**_ENCODER, "embedding_size": 32}),
    "distilbert": Case("distilbert", {**_DISTILBERT, "max_position_embeddings": POSITIONS, "pad_token_id": 0}),
    "mpnet": Case("mpnet", {**_ENCODER, "pad_token_id": 1}),
    "llama": Case("llama", _DECODER),
    "mistral": Case("mistral", {**_DECODER, "sliding_window": 4}),
    "qwen2": Case("qwen2", _DECODER),
    "qwen3": Case("qwen3", _DECODER),
    "deberta-v2": Case("deberta-v2", {**_ENCODER, **_DEBERTA}),
    "gpt2": Case("gpt2", _GPT2),
    "modernbert": Case("modernbert", {**_ENCODER, **_MODERNBERT}),
}


def tiny(case: str = "bert", head: str = "mean", seed: int = 0) -> tuple[TaskModel, Base]:
    """A random model in eval mode; every weight, bias and norm is far enough from its default to matter."""
    from transformers import AutoConfig

    spec = CASES[case]
    labels = ("start", "end") if head == "span" else LABELS
    config = AutoConfig.for_model(
        spec.model_type, **spec.config, num_labels=len(labels), attention_dropout=0.0, use_cache=False
    )
    pooling = Pooling().to_json() if head == "embedding" else {}
    names = ("input_ids", "attention_mask")
    base = Base(f"tiny/{case}", "main", head, labels, names, config.to_dict(), head_settings=pooling)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = skeleton(base)
        for parameter in model.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn(parameter.shape) * spread)
    return model.eval(), base


def batch_of(base: Base, lengths: tuple[int, ...] = LENGTHS[0], seed: int = 0) -> dict[str, Tensor]:
    """Rows of these lengths, padded to the longest on the right: ids (B, L), mask (B, L)."""
    pad = int(base.config["pad_token_id"])
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, VOCABULARY, size=(len(lengths), max(lengths)))
    mask = np.arange(max(lengths))[None, :] < np.array(lengths)[:, None]
    arrays = {"input_ids": np.where(mask, ids, pad), "attention_mask": mask.astype(np.int64)}
    return {name: torch.from_numpy(arrays[name]) for name in base.inputs}


def arrays_of(base: Base, lengths: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in batch_of(base, lengths, seed).items()}


def labelled(base: Base) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Two batches with labels."""
    rng = np.random.default_rng(1)
    return [
        (batch_of(base, lengths, seed), torch.from_numpy(rng.integers(0, len(LABELS), len(lengths))))
        for seed, lengths in enumerate(LENGTHS)
    ]


def student(case: str = "bert") -> tuple[TaskModel, list[tuple[Mapping[str, Tensor], Tensor]], Tensor]:
    """A model, its batches as (inputs, rows), and the labels of all rows."""
    model, base = tiny(case)
    batches, labels = [], []
    for inputs, targets in labelled(base):
        start = sum(map(len, labels))
        batches.append((inputs, torch.arange(start, start + len(targets))))
        labels.append(targets)
    return model, batches, torch.cat(labels)


def statistics_of(model: TaskModel, base: Base) -> Statistics:
    losses = head_named(base.head).losses
    return collect(model, labelled(base), losses.loss, losses.divergence)


@torch.no_grad()
def logits(model: TaskModel, batch: Mapping[str, Tensor]) -> Tensor:
    return model(**batch)


def weights(model: TaskModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def masked(
    model: TaskModel, batch: Mapping[str, Tensor], removed: Callable[[int], tuple[list[int], list[int]]]
) -> Tensor:
    """Logits with head groups and neurons silenced: their outputs are zeroed where the next matrix reads them.

    `removed(block)` gives (head groups, neurons).
    """
    anatomy = anatomy_of(model.backbone)
    unit = anatomy.head_dim * anatomy.shape.group
    handles = []
    for index in range(len(anatomy.blocks)):
        heads, neurons = removed(index)
        gone = {"output": [h * unit + i for h in heads for i in range(unit)], "down": neurons}
        for role, columns in gone.items():

            def silence(_: Any, args: tuple[Tensor, ...], columns: list[int] = columns) -> tuple[Tensor]:
                quiet = args[0].clone()
                quiet[..., columns] = 0
                return (quiet,)

            handles.append(anatomy.linear(index, role).register_forward_pre_hook(silence))
    try:
        return logits(model, batch)
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Subject:
    """A tiny model with its statistics, a padded batch, and its logits on it. Shared by tests: never changed."""

    model: TaskModel
    base: Base
    statistics: Statistics
    batch: Mapping[str, Tensor]
    logits: Tensor


@functools.cache
def subject(case: str = "bert", head: str = "mean") -> Subject:
    model, base = tiny(case, head)
    batch = batch_of(base)
    return Subject(model, base, statistics_of(model, base), batch, logits(model, batch))


def shape_of(model: TaskModel, before: Shape) -> Shape:
    """The sizes a model really has, read from its matrices, factored or not; `before` gives what no axis changes."""
    anatomy = anatomy_of(model.backbone)
    roles = anatomy.roles()
    layers = []
    for block in anatomy.blocks:
        key, down = block.get_submodule(roles["key"]), block.get_submodule(roles["down"])
        layers.append(LayerShape(heads=key.out_features // before.head_dim, neurons=down.in_features))
    hidden = {b.get_submodule(roles[r]).in_features for b in anatomy.blocks for r in ("query", "key", "value")}
    hidden |= {b.get_submodule(roles[r]).out_features for b in anatomy.blocks for r in ("output", "down")}
    assert len(hidden) == 1, hidden
    size = hidden.pop()
    embedding = model.pooled.pooling.size(size) if isinstance(model, PooledEncoder) else 0
    return replace(before, hidden=size, layers=tuple(layers), embedding=embedding)


def shape_after(plans: build.Plans, statistics: Statistics) -> Shape:
    """The sizes that the axes' plans alone predict."""
    for name, plan in plans.items():
        statistics = registry.axis_named(name).carry(statistics, plan)
    return statistics.shape


def sizes(axis: Axis, shape: Shape) -> list[Knob]:
    """The knobs that switch an axis on."""
    return [knob for knob in axis.knobs(shape) if not knob.method]


def middling(axis: Axis, shape: Shape) -> dict[str, Value]:
    """Every size of an axis set between its ends, its methods off."""
    settings: dict[str, Value] = {k.name: k.off for k in axis.knobs(shape)}
    for knob in sizes(axis, shape):
        others = [v for v in knob.values() if v != knob.off]
        settings[knob.name] = others[len(others) // 2]
    return settings


def built(subject: Subject, *steps: Step) -> tuple[TaskModel, build.Plans]:
    plans = build.decide(steps, subject.statistics)
    return build.build(subject.model, plans, subject.statistics).eval(), plans


def stored(folder: Path, case: str = "bert", head: str = "mean") -> Path:
    """A folder of a model cut by every axis, to one block: exporters and compilers take their time for each."""
    original = subject(case, head)
    settings = {a.name: middling(a, original.statistics.shape) for a in registry.axes() if a.name not in DEPLOYED}
    settings["distill"]["layers"] = 1
    model, plans = built(original, *(Step(name, chosen) for name, chosen in settings.items()))
    write_folder(folder, model, original.base, plans)
    return folder


def calibrated(folder: Path, case: str = "bert", head: str = "mean") -> Path:
    """A folder of a whole model, with the files that integer precisions are made with."""
    original = subject(case, head)
    write_folder(folder, original.model, original.base, {})
    lengths = tuple(int(n) for n in np.random.default_rng(5).integers(3, 14, 24))
    calibration.write(folder, arrays_of(original.base, lengths, seed=5))
    model, _ = tiny(case, head)
    sensitivity.write(
        folder, sensitivity.measure_sensitivity(model, [batch_of(original.base, lengths, seed=5)], class_certainty)
    )
    return folder


def hooked(handle: RemovableHandle) -> bool:
    """Whether the hook of this handle is still on its module."""
    return bool(handle.id in (handle.hooks_dict_ref() or ()))
