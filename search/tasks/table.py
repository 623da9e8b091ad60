"""Columns of a data file or of a hub data set, through `datasets`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import UserError, Where, disk_is_full, listed, unknown

if TYPE_CHECKING:
    from search.sections import DataConfig

#: Reader of `datasets` and its options. Only an empty field is a missing value: "NA" and "null" are words.
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("from_csv", {"keep_default_na": False, "na_values": [""]}),
    ".tsv": ("from_csv", {"keep_default_na": False, "na_values": [""], "sep": "\t"}),
    ".json": ("from_json", {}),
    ".jsonl": ("from_json", {}),
    ".parquet": ("from_parquet", {}),
}


@dataclass(frozen=True)
class Table:
    """Chosen columns of one split, as Python values."""

    origin: str  # the file, or the hub name and split: for messages
    columns: dict[str, list[Any]]
    classes: tuple[str, ...] | None  # names of the label column's numbers, where the data carry them


def read_table(data: DataConfig, split: str, where: Where) -> Table:
    """The text, text_pair and label columns of one split.

    Raises:
        UserError: the file or data set cannot be read, is empty, or lacks a column.
    """
    source = data.splits[split]
    with _quiet():
        if data.name is None:
            origin = source
            found = _from_file(Path(source), where(f"data.{split}"))
        else:
            origin = f"{data.name} [{source}]"
            found = _from_hub(data, split, where)
    if not len(found):
        raise UserError(f"{where(f'data.{split}')}: no rows in {origin}")
    wanted = {"text": data.text, "text_pair": data.text_pair, "label": data.label}
    for key, column in wanted.items():
        if column is not None and column not in found.column_names:
            raise unknown(f"{where(f'data.{key}')}: in {origin}", "column", column, found.column_names)
    columns = {column: found[column][:] for column in wanted.values() if column is not None}
    return Table(origin, columns, getattr(found.features[data.label], "names", None))


def _from_file(file: Path, where: str) -> Any:
    from datasets import Dataset

    if not file.is_file():
        raise UserError(f"{where}: no such file: {file}")
    if file.stat().st_size == 0:
        raise UserError(f"{where}: {file} is empty")
    reader, options = READERS[file.suffix.lower()]
    # Nothing beside the user's data, nothing left behind, no stale copy: the rows are held in memory.
    with tempfile.TemporaryDirectory() as cache:
        try:
            return getattr(Dataset, reader)(str(file), cache_dir=cache, keep_in_memory=True, **options)
        except Exception as error:  # each format brings its own exceptions, wrapped or not
            if disk_is_full(error):
                raise
            cause = _first_line(error.__cause__ or error)
            if "corresponds to no data" in cause:
                raise UserError(f"{where}: no rows in {file}") from None
            raise UserError(f"{where}: {file} cannot be read as {file.suffix[1:].lower()}: {cause}") from None


def _from_hub(data: DataConfig, split: str, where: Where) -> Any:
    from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    assert data.name is not None
    at = where("data.name")
    try:
        return load_dataset(data.name, data.config, split=data.splits[split], trust_remote_code=False)
    except DatasetNotFoundError:
        raise UserError(f'{at}: no data set "{data.name}" on the hub; a file goes to data.train') from None
    except ConnectionError as error:
        raise UserError(
            f'{at}: the hub is out of reach for "{data.name}" ({_first_line(error)}); give files in data.train'
        ) from None
    except ValueError as error:
        with _asking(error, at):
            configs: Sequence[str] = get_dataset_config_names(data.name)
            if data.config is not None and data.config not in configs:
                raise unknown(where("data.config"), f"configuration of {data.name}", data.config, configs) from None
            if data.config is None and len(configs) > 1 and "default" not in configs:
                raise UserError(f"{where('data.config')}: {data.name} needs one of {listed(configs)}") from None
            splits = get_dataset_split_names(data.name, data.config)
            if data.splits[split] not in splits:
                raise unknown(where(f"data.{split}"), f"split of {data.name}", data.splits[split], splits) from None
        raise UserError(f"{at}: {data.name} cannot be loaded: {_first_line(error)}") from None
    except Exception as error:  # scripts, broken archives, authentication
        raise UserError(f"{at}: {data.name} cannot be loaded: {_first_line(error)}") from None


@contextmanager
def _asking(first: Exception, where: str) -> Iterator[None]:
    """When the hub does not answer what is wrong with a request, the request's own error is what there is."""
    try:
        yield
    except UserError:
        raise
    except Exception:
        raise UserError(f"{where}: cannot be loaded: {_first_line(first)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no log lines about what becomes a UserError."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels, bars = [logger.level for logger in loggers], datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
