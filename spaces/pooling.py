"""Pooling of hidden states to one embedding per text, and the files of sentence-transformers that describe it.

A folder of sentence-transformers is a transformers model with `modules.json` beside it, which lists the modules that a
text passes: Transformer, Pooling, Dense (any number), Normalize (or not). Its library is not needed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.loading import ModelError, reading

Mode = Literal["mean", "cls", "max", "mean_sqrt_len", "last"]

#: sentence-transformers' name of each mode since version 6, and its key before.
MODES: Mapping[Mode, tuple[str, str]] = {
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "cls": ("cls", "pooling_mode_cls_token"),
    "max": ("max", "pooling_mode_max_tokens"),
    "mean_sqrt_len": ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
}
OLD_KEY = "pooling_mode_"  # prefix of those keys; one of them has a mode that is not supported here
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    f"torch.nn.modules.{kind.__module__.rpartition('.')[2]}.{kind.__name__}": kind
    for kind in (nn.Tanh, nn.Identity, nn.GELU, nn.ReLU)
}
ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
MODULES = "modules.json"
#: The settings of the Transformer module.
SETTINGS = "sentence_bert_config.json"
DENSE_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Dense:
    """One linear layer with its activation behind the pooling."""

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "torch.nn.modules.activation.Tanh"  # one of ACTIVATIONS


@dataclass(frozen=True)
class Pooling:
    """How hidden states become an embedding; without the weights of its dense layers."""

    mode: Mode = "mean"
    normalise: bool = True  # to length 1
    dense: tuple[Dense, ...] = ()

    def size(self, hidden: int) -> int:
        """The dimension of an embedding, for a model of this hidden size."""
        return self.dense[-1].out_features if self.dense else hidden

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {**asdict(self), "dense": [asdict(layer) for layer in self.dense]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pooling:
        """The pooling that `to_json` wrote. Raises KeyError or TypeError for other fields."""
        return cls(data["mode"], data["normalise"], tuple(Dense(**layer) for layer in data["dense"]))


class Pooled(nn.Module):
    """The modules of sentence-transformers behind its Transformer: hidden states (B, L, H) to embeddings (B, D)."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.dense = nn.ModuleList(nn.Linear(d.in_features, d.out_features, d.bias) for d in pooling.dense)
        self.activations = nn.ModuleList(ACTIVATIONS[d.activation]() for d in pooling.dense)

    def append(self, layer: Dense) -> None:
        """Add a layer with arbitrary weights behind the others, before the normalisation."""
        self.pooling = replace(self.pooling, dense=(*self.pooling.dense, layer))
        self.dense.append(nn.Linear(layer.in_features, layer.out_features, layer.bias))
        self.activations.append(ACTIVATIONS[layer.activation]())

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = pool(self.pooling.mode, hidden, attention_mask)
        for linear, activation in zip(self.dense, self.activations, strict=True):
            pooled = activation(linear(pooled))
        return F.normalize(pooled, p=2.0, dim=-1) if self.pooling.normalise else pooled


def pool(mode: Mode, hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """One vector per text (B, H) from hidden states (B, L, H), which may be padded at either side (mask (B, L))."""
    mask = attention_mask.unsqueeze(-1)  # (B, L, 1)
    if mode == "max":
        return hidden.masked_fill(mask == 0, float("-inf")).amax(1)
    if mode in ("mean", "mean_sqrt_len"):
        # Sums in float32 where the model is in half precision: a long text has more tokens than 16 bits add exactly.
        wide = torch.float32 if hidden.dtype in (torch.float16, torch.bfloat16) else hidden.dtype
        count = mask.to(hidden.dtype).sum(1, dtype=wide).clamp(min=1e-9)  # (B, 1)
        total = (hidden * mask.to(hidden.dtype)).sum(1, dtype=wide)
        return (total / (count if mode == "mean" else count.sqrt())).to(hidden.dtype)
    # (int32, because ONNX Runtime has no ArgMax of int64; the first of equals is taken.)
    real = attention_mask.to(torch.int32)
    if mode == "cls":
        position = real.argmax(1)
    else:
        # The last real token is the first from behind; a text without any gives zeros.
        position = hidden.shape[1] - 1 - real.flip(1).argmax(1)
        hidden = hidden * mask.to(hidden.dtype)
    index = position.reshape(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


def read_pooling(folder: Path, hidden: int | None = None) -> tuple[Pooling, dict[str, Tensor]]:
    """(the pooling of a model folder, the state of a `Pooled` of it in float32).

    `hidden` is the hidden size of the model in the folder, where it is known.

    A folder without `modules.json` is a plain transformers model: mean pooling and length 1 are the default for it.

    Raises:
        ModelError: files that cannot be read, unsupported modules, another embedding size than the model's hidden size,
            or weights that are pickled or of other shapes.
    """
    modules = folder / MODULES
    if not modules.exists():
        return Pooling(), {}
    parts = _modules(modules)
    _check_transformer(folder, parts[0][1])
    settings = folder / parts[1][1] / "config.json"
    mode, width = _read_mode(settings)
    if hidden is not None and width != hidden:
        raise ModelError(f"{settings}: the embedding dimension must be the model's hidden size {hidden}, got {width}")
    layers: list[Dense] = []
    tensors: dict[str, Tensor] = {}
    for name, path in parts[2:]:
        if name == "Dense":
            layer, weights = _read_dense(folder / path, width)
            tensors |= {f"dense.{len(layers)}.{key}": tensor for key, tensor in weights.items()}
            layers.append(layer)
            width = layer.out_features
        elif (config := folder / path / "config.json").exists():
            _require(config, _read(config), _EMBEDDING)
    return Pooling(mode, parts[-1][0] == "Normalize", tuple(layers)), tensors


#: Inputs and outputs of a module, which files of newer versions name and older ones imply.
_EMBEDDING = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


def _read(file: Path, kind: type = dict) -> Any:
    with reading(f"{file} cannot be read"):
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, kind):
        raise ModelError(f"{file}: must hold {'an object' if kind is dict else 'a list'}")
    return content


def _require(file: Path, settings: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if settings.get(key) not in (None, value):
            raise ModelError(f"{file}: {key} must be {json.dumps(value)}, got {json.dumps(settings[key])}")


def _modules(file: Path) -> list[tuple[str, str]]:
    """(class name, folder) of each module: a Transformer, a Pooling, Dense layers, perhaps a Normalize."""
    modules = []
    for i, module in enumerate(_read(file, list)):
        kind, path = (module.get(key) if isinstance(module, dict) else None for key in ("type", "path"))
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ModelError(f"{file}: module {i} must have a type and a path")
        name = kind.rpartition(".")[2]
        if not kind.startswith("sentence_transformers.") or name not in ORDER:
            raise ModelError(
                f"{file}: module {i} must be one of {', '.join(ORDER)} of sentence_transformers, got {kind}"
            )
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ModelError(f"{file}: the path of module {i} must be inside the folder, got {path}")
        modules.append((name, path))
    names = [name for name, _ in modules]
    dense = names[2:-1] if names[-1:] == ["Normalize"] else names[2:]
    if names[:2] != ["Transformer", "Pooling"] or set(dense) - {"Dense"}:
        rule = "must be Transformer, Pooling, any number of Dense, and Normalize or not, in this order"
        raise ModelError(f"{file}: the modules {rule}, got {', '.join(names) or 'none'}")
    return modules


def _check_transformer(folder: Path, path: str) -> None:
    """Raise ModelError where the first module is not the plain transformers model of the folder."""
    if path not in ("", "."):
        raise ModelError(f"{folder / MODULES}: the Transformer must be in the folder itself, got path {path}")
    texts = folder / "config_sentence_transformers.json"
    if texts.exists():
        _require(texts, _read(texts), {"default_prompt_name": None})
    settings = folder / SETTINGS
    if settings.exists():
        content = _read(settings)
        values = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
        _require(settings, content, values)
        if content.get("do_lower_case") and not _lowers(folder / "tokenizer.json"):
            raise ModelError(f"{settings}: do_lower_case must be false, because the tokenizer does not lower-case")


def _lowers(tokenizer: Path) -> bool:
    """Whether a tokenizer of the tokenizers library lower-cases texts itself."""
    normalizer = (_read(tokenizer).get("normalizer") if tokenizer.exists() else None) or {}
    parts = [normalizer, *normalizer.get("normalizers", ())]
    return any(part.get("lowercase") is True or part.get("type") == "Lowercase" for part in parts)


def _read_mode(file: Path) -> tuple[Mode, int]:
    """(mode, hidden size) of a Pooling module."""
    content = _read(file)
    named = content.get("pooling_mode")
    if named is None:
        named = [key for key, value in content.items() if key.startswith(OLD_KEY) and value] or ["mean"]
    named = [str(name) for name in (named if isinstance(named, list) else [named])]
    modes: list[Mode] = [mode for mode, names in MODES.items() if set(names) & set(named)]
    if len(named) != 1 or len(modes) != 1:
        valid = ", ".join(name for name, _ in MODES.values())
        raise ModelError(f"{file}: the pooling mode must be one of {valid}, got {' and '.join(named) or 'none'}")
    width = content.get("embedding_dimension", content.get("word_embedding_dimension"))
    return modes[0], _count(file, "word_embedding_dimension", width)


def _count(file: Path, key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ModelError(f"{file}: {key} must be a whole number above 0, got {json.dumps(value)}")
    return value


def _read_dense(folder: Path, width: int) -> tuple[Dense, dict[str, Tensor]]:
    """A Dense module that takes embeddings of `width` numbers, with its weights."""
    file = folder / "config.json"
    content = _read(file)
    _require(file, content, {**_EMBEDDING, "in_features": width, "use_residual": False})
    activation = str(content.get("activation_function", Dense.activation))
    if activation not in ACTIVATIONS:
        raise ModelError(f"{file}: activation_function must be one of {', '.join(ACTIVATIONS)}, got {activation}")
    dense = Dense(
        width, _count(file, "out_features", content.get("out_features")), content.get("bias") is not False, activation
    )
    weights = folder / DENSE_WEIGHTS
    if not weights.exists():
        raise ModelError(f"{weights}: no such file; weights are read from safetensors only, never from pickles")
    with reading(f"{weights} cannot be read"):
        tensors = load_file(weights)
    shapes = {"weight": (dense.out_features, width), **({"bias": (dense.out_features,)} if dense.bias else {})}
    stored = {key.removeprefix("linear."): tensor.to(torch.float32) for key, tensor in tensors.items()}
    stored_shapes = {key: tuple(tensor.shape) for key, tensor in stored.items()}
    if stored_shapes != shapes:
        raise ModelError(f"{weights}: must hold the tensors that config.json describes, {shapes}, got {stored_shapes}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in stored.values()):
        raise ModelError(f"{weights}: holds numbers that are infinite or not a number")
    return dense, stored


def write_sentence_transformers(
    folder: Path, pooling: Pooling, tensors: Mapping[str, Tensor], max_seq_length: int, hidden: int
) -> None:
    """Add sentence-transformers' files, which every version opens, to a transformers model of hidden size `hidden`.

    `tensors` is the state of a `Pooled` of `pooling`; `max_seq_length` counts special tokens such as [CLS] too.
    """
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    names = ["Transformer", "Pooling", *("Dense" for _ in pooling.dense), *(["Normalize"] if pooling.normalise else [])]
    folders = [paths.get(name, f"{i}_{name}") for i, name in enumerate(names)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, folders, strict=True))
    ]
    _write(folder / MODULES, modules)
    _write(folder / SETTINGS, {"max_seq_length": max_seq_length, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})
    modes = {key: mode == pooling.mode for mode, (_, key) in MODES.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})
    for i, layer in enumerate(pooling.dense):
        layer_folder = folder / folders[2 + i]
        config = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias}
        _write(layer_folder / "config.json", {**config, "activation_function": layer.activation})
        keys = ["weight", "bias"] if layer.bias else ["weight"]
        save_file(
            {f"linear.{key}": tensors[f"dense.{i}.{key}"].contiguous() for key in keys}, layer_folder / DENSE_WEIGHTS
        )
    if pooling.normalise:
        _write(folder / folders[-1] / "config.json", _EMBEDDING)


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
