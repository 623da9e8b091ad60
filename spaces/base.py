"""Base models: loading them, their heads, and the folders their compressed forms are stored in.

Weights are read from safetensors only: a pickle can run code, so it is refused.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from spaces.heads import MeanPooled, Native, PooledEncoder, TaskModel, head_named
from spaces.knob import Plan
from spaces.loading import ModelError, load_weights, model_config
from spaces.pooling import read_pooling

__all__ = [
    "REFUSAL",
    "WEIGHTS",
    "Base",
    "MeanPooled",
    "ModelError",
    "Native",
    "TaskModel",
    "has_own_head",
    "load_base",
    "read_config",
    "read_weights",
    "skeleton",
    "write_folder",
]

WEIGHTS = "model.safetensors"
#: transformers shows two things of a config in its errors: a `model_type` it does not know (AutoModel), and
#: `transformers_weights` that name no safetensors file (BertModel and other classes). With this sentence in both, every
#: from_pretrained on a compressed folder refuses, instead of filling the wrong shapes with random weights.
REFUSAL = "compressed; open this folder with search.load(DIR), its shapes are not those of a plain transformers model"


@dataclass(frozen=True)
class Base:
    """What is needed to build the uncompressed architecture without its weights."""

    name: str
    revision: str
    head: str  # of `spaces.heads.HEADS`
    output_names: tuple[str, ...]  # of the numbers of an output where the data name them, as a classifier's labels
    inputs: tuple[str, ...]  # names of the tensors it takes
    config: Mapping[str, Any] = field(repr=False)  # the transformers configuration
    #: How its tokenizer frames texts: the fields of `objectives.workload.Frame`; empty where it is unknown.
    frame: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Settings of the head; for an embedding the fields of `spaces.pooling.Pooling`.
    head_settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def output(self) -> str:
        """The name of the model's output."""
        return head_named(self.head).output

    @property
    def per_token(self) -> bool:
        """Whether the output is (B, L, ...), one row per token, and not (B, ...)."""
        return head_named(self.head).per_token

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        values = {"labels" if name == "output_names" else name: value for name, value in asdict(self).items()}
        return {
            **values,
            "labels": list(self.output_names),
            "inputs": list(self.inputs),
            "config": dict(self.config),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Base:
        """The base that `to_json` wrote. Raises KeyError or TypeError for other fields."""
        others = {name: value for name, value in data.items() if name != "labels"}
        return cls(**{**others, "output_names": tuple(data["labels"]), "inputs": tuple(data["inputs"])})


def load_base(
    folder: Path,
    name: str,
    revision: str,
    head: str,
    output_names: Sequence[str],
    frame: Mapping[str, Any],
    problem_type: str | None = None,
) -> tuple[TaskModel, Base]:
    """The base model in `folder` with a head of this kind, for outputs of these names, in float32 on the CPU.

    head "auto" keeps the model's own classification head where its architecture has one, else it is "mean". `name` and
    `revision` are what the user calls it, for the record. `frame` says how its tokenizer frames texts and what it pads
    with. `problem_type` is that of a transformers classifier; None keeps the one of its configuration.

    Raises:
        ModelError: missing, unreadable, foreign or pickled weights, or an architecture that takes no such head.
    """
    config = model_config(folder, name)
    if head == "auto":
        head = "native" if has_own_head(config) else "mean"
    chosen = head_named(head)
    if problem_type is not None:
        config.problem_type = problem_type
    if output_names:  # (transformers calls the outputs of any head labels)
        config.num_labels = len(output_names)
        config.id2label = dict(enumerate(output_names))
        config.label2id = {name: i for i, name in enumerate(output_names)}
    else:
        config.num_labels = chosen.outputs
    config.dtype = torch.float32  # whatever the checkpoint is stored in: `skeleton` is built from this
    pad = frame.get("pad")
    if pad is not None and not _is_token(config.pad_token_id, config):
        config.pad_token_id = pad
    fresh = () if chosen.is_own(config) else chosen.fresh
    model = load_weights(chosen.transformers(), folder, config, name, fresh)
    if chosen.finds_end and pad is not None and isinstance(getattr(model, "score", None), nn.Linear):
        # A decoder's head reads the last token that is not padding, and knows it by this.
        config.pad_token_id = model.config.pad_token_id = pad  # type: ignore[union-attr]
    inputs = ("input_ids", "attention_mask", *(("token_type_ids",) if _takes_types(model, config, frame) else ()))
    settings: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    if chosen.embeds:
        pooling, tensors = read_pooling(folder)
        settings = pooling.to_json()
    base = Base(name, revision, head, tuple(output_names), inputs, config.to_dict(), dict(frame), settings)
    wrapped = chosen.wrap(model, len(output_names), name, settings)
    if isinstance(wrapped, PooledEncoder):
        wrapped.pooled.load_state_dict(tensors)
    return wrapped, base


def _is_token(number: Any, config: Any) -> bool:
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return isinstance(number, int) and 0 <= number < (number + 1 if rows is None else rows)


def _takes_types(model: nn.Module, config: Any, frame: Mapping[str, Any]) -> bool:
    """Whether the model is given the tokenizer's token types: where both use them and not all are 0.

    Left out, a model with a table of types takes 0 for all; others (GPT-2, XLNet) take none at all.
    """
    type_ids = [kind for kinds in (*frame.get("types", ()), frame.get("text_types", ())) for kind in kinds]
    if not type_ids or "token_type_ids" not in inspect.signature(model.forward).parameters:
        return False
    kinds = getattr(config, "type_vocab_size", None)
    return kinds is None or (kinds > 1 and max(type_ids) > 0)


def has_own_head(config: Any, head: str = "native") -> bool:
    """Whether a transformers configuration is that of a model with a head of this kind."""
    return head_named(head).is_own(config)


def skeleton(base: Base) -> TaskModel:
    """The uncompressed architecture with arbitrary weights."""
    from transformers import AutoConfig

    data = dict(base.config)
    config = AutoConfig.for_model(data.pop("model_type"), **data)
    head = head_named(base.head)
    model = head.transformers().from_config(config, dtype=torch.float32, trust_remote_code=False)
    return head.wrap(model, len(base.output_names), base.name, base.head_settings)


def write_folder(folder: Path, model: TaskModel, base: Base, plans: Mapping[str, Plan]) -> None:
    """Write `model.safetensors`, and a `config.json` from which `skeleton` and the plans rebuild the shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))
    refusal = {"model_type": REFUSAL, "transformers_weights": REFUSAL}
    config = {**refusal, "schema_version": 1, "base": base.to_json(), "plans": dict(plans)}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def read_config(folder: Path) -> tuple[Base, dict[str, Plan]]:
    """Base and plans of a folder that `write_folder` made.

    Raises:
        ModelError: no config.json, or one that `write_folder` did not write.
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text())
        return Base.from_json(data["base"]), dict(data["plans"])
    except FileNotFoundError:
        raise ModelError(f"{folder}: no config.json; a compressed model folder has one") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: not the config of a compressed model folder ({type(error).__name__}: {error})"
        ) from None


def is_causal(folder: Path) -> bool:
    """Whether the model that is stored in `folder` is a causal language model. Raises ModelError as `read_config`."""
    return read_config(folder)[0].head == "causal"


def read_weights(model: TaskModel, folder: Path) -> None:
    """Fill `model` from the folder's safetensors; every tensor must be there and have its shape.

    Raises:
        ModelError: missing, foreign or truncated file, or a pickle.
    """
    path = folder / WEIGHTS
    if not path.exists():
        pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
        pickle = f"; {pickles[0]} is a pickle, which can run code and is never loaded" if pickles else ""
        raise ModelError(f"{folder}: no {WEIGHTS}{pickle}")
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise ModelError(f"{path}: a pickle, not safetensors; pickles can run code and are never loaded")
    try:
        load_model(model, str(path), strict=True)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from None
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: its weights do not fit the model its config.json describes: {first}") from None
