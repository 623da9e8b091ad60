"""A front member as an MLflow model: logged as code with its exported folder, never as a pickle."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from search.track.batch import PARAM_LENGTH
from search.track.mlflow_store import load_mlflow

#: Packages that loading a model may need, pinned at the installed version.
PINNED_PACKAGES = (
    *(
        "mlflow",
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "numpy",
        "pandas",
        "PyYAML",
        "jsonschema",
    ),
    *("psutil", "onnxruntime", "onnxruntime-gpu", "onnx", "onnxscript", "openvino", "jax"),
)


@contextmanager
def logged_model(client: Any, run: Any, name: str, folder: Path, params: Mapping[str, Any]) -> Iterator[str]:
    """Log the exported model in `folder` as a model of `run`, called `name`; yields its id.

    What fails, here or in the block, leaves no model behind: the next try would add another one to a full disk.

    Made with the client alone: `mlflow.pyfunc.log_model` needs the active run and the tracking URI of this
    process, and those are the user's.
    """
    run_id = run.info.run_id
    named = {key: str(value)[:PARAM_LENGTH] for key, value in params.items()}
    logged = client.create_logged_model(run.info.experiment_id, name=name, source_run_id=run_id, params=named)
    try:
        with tempfile.TemporaryDirectory() as partial:
            _save(folder, Path(partial) / "model", logged, run_id)
            client.log_model_artifacts(logged.model_id, str(Path(partial) / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [load_mlflow().entities.LoggedModelOutput(logged.model_id, step=0)])
        yield str(logged.model_id)
    except BaseException:
        address = urlsplit(logged.artifact_location)
        if address.scheme == "file":  # first: where the disk is full, nothing can be noted before
            shutil.rmtree(Path(url2pathname(address.path)), ignore_errors=True)
        with suppress(Exception):  # what ended it is what is told
            client.delete_logged_model(logged.model_id)
        raise


def _save(folder: Path, target: Path, logged: Any, run_id: str) -> None:
    """Write an MLflow model: `model.py` is its code, `folder` its artifact, our packages beside it."""
    mlflow = load_mlflow()
    packages = [str(Path(__file__).parents[2] / name) for name in ("search", "spaces", "objectives")]
    strings = mlflow.types.Schema([mlflow.types.ColSpec("string")])
    described = mlflow.models.Model(
        artifact_path=logged.artifact_location, model_uuid=logged.model_id, model_id=logged.model_id, run_id=run_id
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like an example beside the signature
        mlflow.pyfunc.save_model(
            path=str(target),
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={"model": str(folder)},
            code_paths=packages,
            pip_requirements=requirements(),
            signature=mlflow.models.ModelSignature(inputs=strings),
            mlflow_model=described,
        )


def requirements() -> list[str]:
    """The pinned requirements of loading a model: "torch==2.13.0" (a local version such as +cpu is on no index)."""
    pins = []
    for package in PINNED_PACKAGES:
        try:
            pins.append(f"{package}=={metadata.version(package).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            continue
    return pins
