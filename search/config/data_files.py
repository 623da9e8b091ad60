"""Where the data of a configuration are: files, folders with a table or with splits, or a hub name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from search.config.schema import DataConfig
from search.config.source import Source
from search.errors import UserError, listed, wrong

DELIMITED = (".csv", ".tsv")
TEXTS = (*DELIMITED, ".json", ".jsonl", ".txt")
FORMATS = (*TEXTS, ".parquet")
#: Metadata files that `datasets.Dataset.save_to_disk` writes into a folder.
SAVED = ("state.json", "dataset_info.json")
#: What a split may be called in a folder, by the key of the configuration; the names are those of `datasets`.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def located_beside(data: DataConfig, source: Source) -> DataConfig:
    """With absolute paths of the files beside the rows, as multiple-choice questions or a corpus.

    Raises:
        UserError: a file is missing or of no known format.
    """
    paths = {key: _path(f"data.{key}", path, source) for key, path in data.beside.items()}
    for key, path in paths.items():
        _check_table(path, data.beside[key], source.where(f"data.{key}"))
    named: dict[str, Any] = {key: str(path) for key, path in paths.items()}
    return replace(data, **named)


def located_data(data: DataConfig, source: Source) -> DataConfig:
    """With absolute paths, and with the splits of a folder that has several, unless the data are a hub name.

    Raises:
        UserError: a file or folder is missing or holds no data, or a key does not apply to the kind of source.
    """
    for split, value in data.splits.items():
        if split != "train" and value == data.train:
            raise wrong(source.where(f"data.{split}"), "other rows than data.train (or left out: cut from it)", value)
    if data.name is not None:
        if source.resolve("data.name", data.name).is_file():
            raise wrong(source.where("data.name"), "a hub name; a file goes to data.train", data.name)
        for key in ("encoding", "delimiter"):
            if getattr(data, key) is not None:
                raise wrong(source.where(f"data.{key}"), "left out of hub data", getattr(data, key))
        return data
    if data.config is not None:
        raise wrong(source.where("data.config"), "left out unless data.name is a hub name", data.config)
    paths = {split: _path(f"data.{split}", path, source) for split, path in data.splits.items()}
    if paths["train"].is_dir() and not _is_saved(paths["train"]):
        paths = _splits(paths["train"], data.train, source.where("data.train")) | {
            split: path for split, path in paths.items() if split != "train"
        }
    for split, path in paths.items():
        _check_table(path, data.splits.get(split, str(path)), source.where(f"data.{split}"))
    for key, formats in (("encoding", TEXTS), ("delimiter", DELIMITED)):
        if getattr(data, key) is not None and not any(path.suffix.lower() in formats for path in paths.values()):
            rule = f"left out where no file ends in {' or '.join(formats)}"
            raise wrong(source.where(f"data.{key}"), rule, getattr(data, key))
    named = {split: str(path) for split, path in paths.items()}
    return replace(data, train=named["train"], validation=named.get("validation"), test=named.get("test"))


def _path(key: str, path: str, source: Source) -> Path:
    file = source.resolve(key, path)
    if not file.exists():
        raise UserError(f"{source.where(key)}: no such file: {file}{_beside(file)}")
    return file


def _is_saved(folder: Path) -> bool:
    """Whether it is one table that `datasets.Dataset.save_to_disk` wrote."""
    return all((folder / name).is_file() for name in SAVED)


def _is_table(path: Path) -> bool:
    return _is_saved(path) if path.is_dir() else path.suffix.lower() in FORMATS


def _check_table(path: Path, value: str, where: str) -> None:
    """Raise UserError where `path`, which the user wrote as `given`, is no file or folder of one table."""
    if _is_table(path):
        return
    rule = f"a file ending in {' or '.join(FORMATS)}"
    if not path.is_dir():
        raise wrong(where, rule, value)
    inside = [other.name for other in sorted(path.iterdir()) if _is_table(other)]
    hint = f" (a folder with {listed(inside, 8)}: name one of them)" if inside else ""
    raise UserError(f"{wrong(where, f'{rule}, or a folder of one table saved by datasets', value)}{hint}")


def _splits(folder: Path, value: str, where: str) -> dict[str, Path]:
    """The table of each split in a folder, by its name.

    Raises:
        UserError: there is none for train, or a split has several.
    """
    tables = [path for path in sorted(folder.iterdir()) if _is_table(path)]
    by_split: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        named = [path for path in tables if (path.name if path.is_dir() else path.stem).lower() in names]
        if len(named) > 1:
            files = listed(path.name for path in named)
            raise UserError(f"{where}: {folder} has several files of the split {split} ({files}); name one of them")
        if named:
            by_split[split] = named[0]
    if "train" not in by_split:
        rule = (
            f"a file ending in {' or '.join(FORMATS)}, a folder that datasets saved, or one with a file train and, "
            "where there are any, validation and test"
        )
        has = f" (it has {listed((path.name for path in tables), 8)})" if tables else " (it has no file of data)"
        raise UserError(f"{wrong(where, rule, value)}{has}")
    return by_split


def _beside(file: Path) -> str:
    """A hint that lists the data files in the folder of `file`, or ""."""
    names = sorted(p.name for p in file.parent.glob("*") if p.suffix in FORMATS) if file.parent.is_dir() else []
    return f" (in that folder: {listed(names, 8)})" if names else ""
