"""Fixtures of several files: a project to load configurations in, an export, and a tracking store of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from search.config.load import load_config
from search.config.schema import RunConfig
from search.deliver.export import export
from search.front.front import Front
from search.serve.worker import Factory, Workers
from search.space.choices import names

from . import factory


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a model and data, and a shell that stands somewhere else."""
    project, shell = tmp_path / "project", tmp_path / "shell"
    (project / "model").mkdir(parents=True)
    shell.mkdir()
    (project / "model" / "config.json").write_text('{"model_type": "bert"}')
    save_file({"weight": np.ones(2, dtype=np.float32)}, project / "model" / "model.safetensors")
    (project / "train.csv").write_text("text,label\nfine,1\nbad,0\n")
    monkeypatch.chdir(shell)
    return project


@pytest.fixture
def configured(tmp_path: Path, tiny_data: Path) -> Callable[..., RunConfig]:
    """A configuration over the tiny data and a model that is trained already."""

    def make(model: Path, *overrides: str, **changes: Any) -> RunConfig:
        data = {
            "train": str(tiny_data / "train.csv"),
            "validation": str(tiny_data / "validation.jsonl"),
            "test": str(tiny_data / "test.parquet"),
        }
        written = {"model": {"name": str(model)}, "task": "classification", "data": data, "teacher": {"epochs": 0}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**written, **changes}))
        return load_config(tmp_path / "c.yaml", overrides, names())

    return make


@pytest.fixture(scope="module", autouse=True)
def _own_store() -> Iterator[None]:
    """The tests' tracking stores are their own, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Front:
    return factory.stored(factory.front(), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def exported(front: Front, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "movie-reviews"
    export(front, factory.study(front), folder)
    return folder


@pytest.fixture
def best(exported: Path, tmp_path: Path) -> Path:
    """A best-config file to spoil."""
    copy = tmp_path / "best-config.yaml"
    copy.write_text((exported / "best-config.yaml").read_text())
    return copy


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    """A service that answers with the nearest sentence."""
    from services import service

    with service(tmp_path) as backend:
        yield backend


@pytest.fixture
def extracting(tmp_path: Path) -> Iterator[Any]:
    """A service that answers with a span."""
    from services import service

    with service(tmp_path, extracting=True) as backend:
        yield backend


@pytest.fixture
def start() -> Iterator[Callable[..., Workers]]:
    """Makes worker processes that end with the test."""
    running: list[Workers] = []

    def make(factories: Mapping[int, Factory], **options: Any) -> Workers:
        running.append(Workers(factories, **options))
        return running[-1]

    yield make
    for workers in running:
        workers.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty database of each kind."""
    import postgres

    from search.serve.database.engine import url_of

    if request.param == "sqlite":
        yield url_of(None, tmp_path_factory.mktemp("database"))
        return
    pytest.importorskip("psycopg")
    if postgres.programs() is None:
        pytest.skip("PostgreSQL's programs are not installed")
    with postgres.server() as address:
        yield url_of(address, Path())


@pytest.fixture
def engine(database_url: str) -> Iterator[Any]:
    """An engine with the newest tables, which are empty."""
    from search.serve.database.engine import downgrade, open_engine

    opened = open_engine(database_url)
    yield opened
    downgrade(opened)
    opened.dispose()


@pytest.fixture
def archive(engine: Any) -> Iterator[Any]:
    """The reads and writes of an empty database."""
    from search.serve.database.archive import Archive
    from search.serve.database.writer import Writer

    writer = Writer(engine)
    yield Archive(engine, writer)
    writer.close()
