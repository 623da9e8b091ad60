"""No bars and advice of libraries between our own lines, and no reports to anybody."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Read by libraries, most when they are imported. What the user has set stays.
QUIET = {
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
    """Make this process quiet, and those that it starts: only for processes that are this program's own."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")


@contextmanager
def quietly() -> Iterator[None]:
    """For what a library reads of the environment inside the block, such as when it is imported.

    Afterwards the process, which may be somebody else's, is as it was before.
    """
    absent = [name for name in QUIET if name not in os.environ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ.update({name: QUIET[name] for name in absent})
        try:
            yield
        finally:
            for name in absent:
                os.environ.pop(name, None)
