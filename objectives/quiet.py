"""Turns off progress bars, advice, warnings and telemetry of libraries."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Environment variables that libraries read, most of them on import. Values that the user has set are kept.
QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "OPENVINO_TELEMETRY_DISABLED": "1",
    "DO_NOT_TRACK": "1",
    # A server that does not answer costs seconds: by itself MLflow tries for minutes, at every call.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "PYTHONWARNINGS": "ignore",
}


def quiet() -> None:
    """Set `QUIET_ENVIRONMENT` for this process and those it starts; only for processes that belong to this program."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that cannot be written is no news


@contextmanager
def quietly() -> Iterator[None]:
    """Set `QUIET_ENVIRONMENT` inside the block, for libraries that read the environment there, as on import.

    The environment is restored afterwards, because the process may be the user's own.
    """
    absent = [name for name in QUIET_ENVIRONMENT if name not in os.environ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ.update({name: QUIET_ENVIRONMENT[name] for name in absent})
        try:
            yield
        finally:
            for name in absent:
                os.environ.pop(name, None)
