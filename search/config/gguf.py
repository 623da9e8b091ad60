"""Weights in a GGUF file, dequantised once into a folder that transformers reads as any other."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections import Counter
from pathlib import Path

from search.errors import UserError
from search.store.atomic import sweep
from search.store.owner import temporary

#: The packages with which transformers reads such a file.
NEEDED = ("gguf", "accelerate")
#: Types of tensors that are no quantisation.
UNQUANTISED = ("F64", "F32", "F16", "BF16")
GGUF_INSTALL = 'pip install -e ".[language-models]"'


def check_gguf(folder: Path, name: str, where: str) -> Path:
    """The GGUF file `name` of `folder`. Raises UserError: no such file, or a required package is not installed."""
    file = folder / name
    if Path(name).name != name or not file.is_file():
        files = sorted(path.name for path in folder.glob("*.gguf")) if folder.is_dir() else []
        hint = f"; it has {', '.join(files)}" if files else "; it has no *.gguf"
        raise UserError(f"{where}: must be a file of {folder}, got {name}{hint}")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(f"{where}: {file} is no GGUF file")
    lacking = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if lacking:
        raise UserError(f"{where}: {name} needs the packages {' and '.join(lacking)}, not installed: {GGUF_INSTALL}")
    return file


def dequantised(folder: Path, name: str, where: str) -> Path:
    """A folder with the model and tokenizer of a GGUF file in float32, as `save_pretrained` writes them.

    Made once, in the cache of the hub's library (`HF_HOME`), named by the file's content.

    Raises:
        UserError: as `check_gguf`; transformers cannot read the file.
    """
    from huggingface_hub import constants

    file = check_gguf(folder, name, where)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    parent = Path(constants.HF_HOME) / "dequantised"
    target = parent / f"{file.stem}-{digest}"
    if target.is_dir():
        return target
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)  # what a kill has left there
    scratch = temporary(target)
    scratch.mkdir()
    try:
        _write(folder, name, scratch, where)
        try:
            os.rename(scratch, target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def quantised_note(file: Path) -> tuple[str, ...]:
    """A note that the weights of a GGUF file are quantised, with their types; none where all are floating point."""
    from gguf import GGUFReader

    counts: Counter[str] = Counter()
    for tensor in GGUFReader(file).tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    types = [(name, count) for name, count in counts.most_common() if name not in UNQUANTISED]
    if not types:
        return ()
    shares = ", ".join(f"{name} ({count / counts.total():.0%} of them)" for name, count in types)
    return (
        f"the weights of {file.name} were quantised before, {shares}; they are dequantised here, and a grid of as few "
        "bits finds such weights again: int4 and int8 lose less than they would of other weights",
    )


def _write(folder: Path, name: str, target: Path, where: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from spaces.loading import ModelError, reading

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with reading(f"{name} cannot be read"):
            tokenizer = AutoTokenizer.from_pretrained(
                folder, gguf_file=name, local_files_only=True, trust_remote_code=False
            )
            model = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=name, dtype=torch.float32, local_files_only=True, trust_remote_code=False
            )
            # The weights are plain numbers now; with these left `save_pretrained` refuses.
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
    except ModelError as error:
        raise UserError(f"{where}: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
