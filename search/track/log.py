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

from search.store.hard_links import LINKED, link_or_copy
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

#: Name of the exported folder among the artifacts of an MLflow model (`search.track.mlflow_model` reads it).
ARTIFACT = "model"


@contextmanager
def logged_model(client: Any, run: Any, name: str, folder: Path, params: Mapping[str, Any]) -> Iterator[str]:
    """Log the exported model in `folder` as a model of `run`, called `name`; yields its id.

    Where MLflow keeps artifacts in a local folder, weights and graphs there are hard links to those in `folder`. What
    fails, here or in the block, leaves no model behind: the next try would add another one to a full disk.

    Made with the client alone: `mlflow.pyfunc.log_model` needs the active run and the tracking URI of this
    process, and those are the user's.
    """
    run_id = run.info.run_id
    named = {key: str(value)[:PARAM_LENGTH] for key, value in params.items()}
    logged = client.create_logged_model(run.info.experiment_id, name=name, source_run_id=run_id, params=named)
    stored = _local_folder(logged.artifact_location)
    try:
        with tempfile.TemporaryDirectory() as partial:
            model = Path(partial) / "model"
            inside = _save(folder, model, logged, run_id)
            linked = [] if stored is None else _without_linked(model / inside)
            client.log_model_artifacts(logged.model_id, str(model))
        for file in linked:
            assert stored is not None
            (stored / inside / file).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(folder / file, stored / inside / file)
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [load_mlflow().entities.LoggedModelOutput(logged.model_id, step=0)])
        yield str(logged.model_id)
    except BaseException:
        if stored is not None:  # first: where the disk is full, nothing can be noted before
            shutil.rmtree(stored, ignore_errors=True)
        with suppress(Exception):  # what ended it is what is told
            client.delete_logged_model(logged.model_id)
        raise


def _local_folder(address: str) -> Path | None:
    """The folder of artifacts at a `file:` address; None for a server's."""
    parts = urlsplit(address)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _without_linked(copy: Path) -> list[str]:
    """Remove the files that are linked later from the copy of a model folder; returns their names in it."""
    files = [path for path in sorted(copy.rglob("*")) if path.is_file() and path.suffix in LINKED]
    for path in files:
        path.unlink()
    return [str(path.relative_to(copy)) for path in files]


def _save(folder: Path, target: Path, logged: Any, run_id: str) -> str:
    """Write an MLflow model: `model.py` is its code, `folder` its artifact, our packages beside it.

    Returns:
        The path of the artifact in `target`.
    """
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
            artifacts={ARTIFACT: str(folder)},
            code_paths=packages,
            pip_requirements=requirements(),
            signature=mlflow.models.ModelSignature(inputs=strings),
            mlflow_model=described,
        )
    return str(described.flavors[mlflow.pyfunc.FLAVOR_NAME]["artifacts"][ARTIFACT]["path"])


def requirements() -> list[str]:
    """The pinned requirements of loading a model: "torch==2.13.0" (a local version such as +cpu is on no index)."""
    pins = []
    for package in PINNED_PACKAGES:
        try:
            pins.append(f"{package}=={metadata.version(package).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            continue
    return pins
