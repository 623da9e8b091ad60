"""Reading a user's model through transformers: whatever that raises is a `ModelError` with its reason.

Only calls into transformers stand inside `reading`, so that no mistake of this program passes for one of the user's.
The code that a folder brings along is never run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Not about the user's files: the machine has no memory or no space left.
_MACHINE = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE)
#: (safetensors' own errors have no number, but its words.)
_WORDS = ("not enough memory", "out of memory", *map(os.strerror, _MACHINE))


class ModelError(Exception):
    """A model folder or name that cannot be used; the message is for the user."""


def reason_of(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's text, and the next where it ends in a colon; at most `limit` characters."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    # A KeyError's text is the bare key.
    text = f"{type(error).__name__}: {text}" if isinstance(error, KeyError) else text
    return text[:limit]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn an exception of a library inside the block into a ModelError "`what`: reason".

    Raises:
        ModelError: any exception but those of a lack of memory or disk space, which are raised as they are.
    """
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # OSError, ValueError, KeyError, ImportError, AttributeError, strict fields, ...
        if getattr(error, "errno", None) in _MACHINE or any(words in str(error) for words in _WORDS):
            raise
        raise ModelError(f"{what}: {reason_of(error)}") from error


def model_config(folder: Path, name: str) -> Any:
    """The transformers configuration of a local folder; `name` is what the user calls it.

    Raises:
        ModelError: it cannot be read, or transformers knows no such architecture.
    """
    from transformers import AutoConfig

    with reading(f"the config.json of {name!r} cannot be used"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers < 1:
        raise ModelError(f"the config.json of {name!r} describes {layers} layers; a model has at least one")
    return config


def load_weights(loader: Any, folder: Path, config: Any, name: str, fresh: Sequence[str] = ()) -> nn.Module:
    """`loader.from_pretrained` in float32 on the CPU; every tensor that `config` describes comes from the folder.

    Those of a new head, whose names begin with one of `fresh`, may be missing: they are random.

    Raises:
        ModelError: weights that are missing, foreign, pickled, of other shapes, or not finite.
    """
    import torch

    cannot = f"the model {name!r} cannot be loaded"
    model: nn.Module
    with reading(cannot):
        model, loaded = loader.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # told below, with names and numbers
            output_loading_info=True,
        )
    # transformers would fill these with random numbers and only warn. (A pooler is not used.)
    absent = sorted(key for key in loaded["missing_keys"] if not key.startswith(("pooler.", *fresh)))
    if loaded["mismatched_keys"]:
        key, stored, described = sorted(loaded["mismatched_keys"])[0]
        raise ModelError(
            f"{cannot}: {len(loaded['mismatched_keys'])} tensors of its weight file have other shapes than its "
            f"config.json describes: {key} is {tuple(stored)}, not {tuple(described)}, for one"
        )
    if absent:
        raise ModelError(
            f"{cannot}: its weight file lacks {len(absent)} of the tensors its config.json describes, {absent[0]} "
            "for one"
        )
    _refuse_more_layers(model, loaded["unexpected_keys"], cannot)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{cannot}: {key} holds numbers that are infinite or not a number")
    return model


def _refuse_more_layers(model: nn.Module, unexpected: Any, cannot: str) -> None:
    """Raise ModelError where the file has layers beyond those of the config: a shorter model would be searched."""
    keys = {_numberless(key) for key in model.state_dict()}
    more = sorted(key for key in unexpected if any(part in keys for part in _endings(_numberless(key))))
    if more:
        raise ModelError(
            f"{cannot}: its weight file holds {len(more)} tensors of layers that its config.json does not describe, "
            f"{more[0]} for one"
        )


def _numberless(key: str) -> str:
    """`key` without the numbers of layers: only names with one are compared."""
    return ".".join("#" if part.isdecimal() else part for part in key.split("."))


def _endings(key: str) -> Iterator[str]:
    """`key` and what is left of it behind each dot, as long as it holds a layer's number."""
    while "#" in key:
        yield key
        key = key.partition(".")[2]


def positions_of(model: nn.Module) -> int | None:
    """Most tokens a row may have: the rows of its smallest table of positions; None where there is no table.

    Relative and rotary positions have no limit. Tables of the RoBERTa family start behind the padding token's row;
    those of the BART family have an offset.
    """
    lengths = []
    for path, module in model.named_modules():
        leaf = path.rpartition(".")[2]
        rows = getattr(module, "num_embeddings", None)
        if _names_positions(leaf) and isinstance(rows, int):
            padding, offset = getattr(module, "padding_idx", None), getattr(module, "offset", 0)
            lengths.append(rows - (padding + 1 if isinstance(padding, int) else int(offset)))
        for name, tensor in (*module.named_buffers(recurse=False), *module.named_parameters(recurse=False)):
            if name == "position_ids" and any(_names_positions(child) for child, _ in module.named_children()):
                lengths.append(int(tensor.shape[-1]))
            elif name != "position_ids" and _names_positions(name) and tensor.ndim == 2:
                lengths.append(int(tensor.shape[0]))
    return min(lengths) if lengths else None


def _names_positions(name: str) -> bool:
    """Whether a module of this name holds one row a position ("position_embeddings", "embed_positions", "wpe")."""
    parts = set(name.split("_"))
    return bool(parts & {"position", "positions", "pos", "positional", "wpe"}) and not parts & {"relative", "rel"}


def try_out(call: Any, batch: Mapping[str, Tensor], outputs: int | None, name: str, per_token: bool = False) -> None:
    """Run a model on a padded batch of at least one row, (B, L), before anything is trained.

    `outputs`: the size of the output per row, or per token with `per_token`; None: any, 0: a scalar without an axis.

    Raises:
        ModelError: it does not run, its output has another shape or is not finite, or the output of a row depends on
            its padding.
    """
    import torch

    rows, length = batch["input_ids"].shape
    lengths = batch["attention_mask"].sum(1)
    with torch.inference_mode(), reading(f"the model {name!r} does not run on its tokenizer's tokens"):
        together = call(**batch)
        alone = [call(**{n: t[i : i + 1, : lengths[i]] for n, t in batch.items()}) for i in range(rows)]
    numbers = together.shape[-1] if outputs is None else outputs
    wanted = (rows, *((length,) if per_token else ()), *((numbers,) if outputs != 0 else ()))
    if tuple(together.shape) != wanted:
        raise ModelError(f"the model {name!r} gives outputs {tuple(together.shape)} for {rows} rows, not {wanted}")
    if per_token:
        together, alone = together[batch["attention_mask"].bool()], [one[0] for one in alone]
    if not all(bool(torch.isfinite(one).all()) for one in alone):
        raise ModelError(
            f"the model {name!r} gives outputs that are infinite or not a number for its tokenizer's tokens"
        )
    difference = float((together - torch.cat(alone)).abs().max())
    if not difference <= 1e-2 * max(1.0, float(together.abs().max())):
        raise ModelError(
            f"the model {name!r} answers otherwise where a row is padded at its right (outputs differ by "
            f"{difference:.2g}), so it cannot be measured in batches"
        )
