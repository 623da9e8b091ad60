"""The log of a study, `mlruns/logs/<study>.log`: what every run of it did, with the traceback of all that failed."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

from search.errors import UserError

log = logging.getLogger(__name__)
OURS = logging.getLogger("search")
OURS.addHandler(logging.NullHandler())  # without a run nothing is printed

#: A log that is larger when a run begins is kept as `<study>.log.1`, and a new one is begun.
LARGEST_BYTES = 20_000_000
LINE_FORMAT = "%(asctime)s %(levelname)s [%(subject)s] %(message)s"
VERSIONS = ("torch", "transformers", "tokenizers", "numpy", "optuna", "mlflow", "onnxruntime", "openvino", "torchao")
#: Prefix of an exception's note that names the log with its traceback.
LOGGED = "the traceback is in "

_path: ContextVar[Path | None] = ContextVar("path", default=None)
_subject: ContextVar[str] = ContextVar("subject", default="run")


def log_path(mlruns: Path, study: str) -> Path:
    return mlruns / "logs" / f"{study}.log"


@contextmanager
def run_log(mlruns: Path, study: str) -> Iterator[Path]:
    """Append what this thread logs under "search" to the study's log; an exception leaves its traceback there.

    A run that is refused (UserError) leaves no new file behind.
    """
    path = log_path(mlruns, study)
    new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    if not new and path.stat().st_size > LARGEST_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    handler = _Handler(path)
    OURS.addHandler(handler)
    if OURS.level == logging.NOTSET:
        OURS.setLevel(logging.INFO)
    token = _path.set(path)
    try:
        yield path
    except UserError as error:
        log.error("refused: %s", error)
        if new:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # other logs are there
                path.parent.rmdir()
        raise
    except KeyboardInterrupt:
        log.warning("interrupted")
        raise
    except BaseException as error:
        log.exception("the run failed")
        error.add_note(f"{LOGGED}{path}")
        raise
    else:
        log.info("the run ended")
    finally:
        _path.reset(token)
        OURS.removeHandler(handler)
        handler.close()
        if not any(isinstance(other, _Handler) for other in OURS.handlers):  # no other run in this process
            OURS.setLevel(logging.NOTSET)


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Log records inside the block carry `subject`, such as "trial 7"."""
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)


def current_log() -> str:
    """The log of the run in this thread, from the folder that holds the results: "mlruns/logs/x.log"; or ""."""
    path = _path.get()
    return "" if path is None else "/".join(path.parts[-3:])


def logged_in(error: BaseException) -> str:
    """Where the traceback of `error` is, in words; "" where no run logged it."""
    notes = getattr(error, "__notes__", ())
    return next((note for note in reversed(notes) if note.startswith(LOGGED)), "")


def log_start(config: Mapping[str, Any]) -> None:
    """Log the versions, the platform and the configuration of a run."""
    log.info("a run begins: %s", " ".join(sys.argv))
    versions = {}
    for name in VERSIONS:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    log.info("Python %s, %s, %s", platform.python_version(), platform.platform(), json.dumps(versions))
    log.info("configuration: %s", json.dumps(config, default=str, ensure_ascii=False))


class _Handler(logging.FileHandler):
    """Takes the records of the thread that its run is in."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._of = path
        self.setFormatter(logging.Formatter(LINE_FORMAT))

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__["subject"] = _subject.get()
        return _path.get() == self._of and bool(super().filter(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name there
        """Ignored: code that needs the disk reports that it is full."""
