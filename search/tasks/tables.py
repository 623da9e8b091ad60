"""Columns of a data file; through `datasets`, of a folder that it saved and of a hub data set."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import UserError, Where, listed, unknown
from search.tasks.files import FileContent, TextFormat, class_names, read_file

if TYPE_CHECKING:
    from search.config.schema import DataConfig


@dataclass(frozen=True)
class Table:
    """Chosen columns of one split, as Python values."""

    origin: str  # the file, or the hub name and split: for messages
    columns: dict[str, list[Any]]
    classes: tuple[str, ...] | None  # names of the numbers in the column of the last key, where the data carry them
    notes: tuple[str, ...] = ()  # how a file was read, where that is not plain


def read_table(data: DataConfig, split: str, where: Where, keys: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """The columns of one split that `keys` of `data` name, and those of the `optional` names that are there.

    Raises:
        UserError: the file or data set cannot be read, is empty, or lacks a column.
    """
    source = data.splits[split]
    wanted = [(key, column) for key in keys for column in _columns(getattr(data, key))]
    columns = tuple(dict.fromkeys((*(column for _, column in wanted), *optional)))
    if data.name is None and Path(source).is_dir():
        origin = source
        with _quiet():
            content = _selected(_from_folder(Path(source), where(f"data.{split}")), columns)
    elif data.name is None:
        origin, file = source, Path(source)
        options = TextFormat(data.encoding, "\t" if data.delimiter == "tab" else data.delimiter)
        content = read_file(file, columns, options, where(f"data.{split}"))
    else:
        origin = f"{data.name} [{source}]"
        with _quiet():
            content = _selected(_from_hub(data, split, where), columns)
    if not content.rows:
        raise UserError(f"{where(f'data.{split}')}: no rows in {origin}")
    for key, column in wanted:
        if column not in content.columns:
            names = [name if len(name) <= 40 else f"{name[:37]}..." for name in content.names]
            raise unknown(f"{where(f'data.{key}')}: in {origin}", "column", column, names)
    notes = tuple(f"{Path(source).name}: {note}" for note in content.notes)
    last = getattr(data, keys[-1])
    classes = content.classes.get(last) if isinstance(last, str) else None
    return Table(origin, content.columns, classes, notes)


def _columns(named: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named or ()


def _selected(rows: Any, wanted: Sequence[str]) -> FileContent:
    """A data set of the hub or of a folder in the form of a file."""
    names = tuple(rows.column_names)
    there = [name for name in wanted if name in names]
    classes = class_names(rows.features, there)
    return FileContent(names, len(rows), {name: rows[name][:] for name in there}, classes)


def _from_folder(folder: Path, at: str) -> Any:
    """The table that `datasets.Dataset.save_to_disk` wrote."""
    from datasets import load_from_disk

    try:
        return load_from_disk(folder)
    except Exception as error:  # of datasets and pyarrow, by what is broken
        raise UserError(f"{at}: {folder} cannot be read as a folder of datasets: {_first_line(error)}") from None


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
    """Around questions to the hub about a failed request: if they fail too, `first`, the request's error, is raised."""
    try:
        yield
    except UserError:
        raise
    except Exception:
        raise UserError(f"{where}: cannot be loaded: {_first_line(first)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without log lines for errors that become a UserError."""
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
