"""A model folder is used only when its weights are whole, safe to open, and really there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from search.errors import UserError
from search.model_folder import check_model, fingerprint, model_name, weight_files
from search.source import Source


def save(folder: Path, name: str = "model.safetensors", value: float = 1.0) -> None:
    save_file({"weight": np.full(3, value, dtype=np.float32)}, folder / name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save(folder)
    return folder


def refuses(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model(folder, "c.yaml: model.name")


def test_a_whole_folder_passes(model: Path) -> None:
    check_model(model, "")
    assert weight_files(model) == [model / "model.safetensors"]


def test_a_pickle_is_never_opened(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refuses(model, r"^c.yaml: model.name: .* only pickles \(pytorch_model.bin\).*save_pretrained")


def test_what_is_missing_or_broken_is_named(model: Path) -> None:
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    refuses(model, "model.safetensors is truncated or no safetensors file")
    weights.write_bytes(b"")
    refuses(model, "model.safetensors is truncated or no safetensors file")
    weights.unlink()
    refuses(model, r"no weights \(\*.safetensors\)")
    (model / "config.json").write_text("{}")
    refuses(model, "no model_type")
    (model / "config.json").write_text("{")
    refuses(model, "config.json in .* is not valid JSON")
    (model / "config.json").unlink()
    refuses(model, "no config.json in")
    refuses(model / "nothing", "must be a folder")


def test_every_shard_must_be_there(model: Path) -> None:
    (model / "model.safetensors").unlink()
    save(model, "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses(model, "1 of 2 weight files missing in .*: b.safetensors")
    save(model, "b.safetensors")
    check_model(model, "")
    (model / "model.safetensors.index.json").write_text("[]")
    refuses(model, "not a valid index")


def test_the_fingerprint_follows_the_content_not_the_place(model: Path, tmp_path: Path) -> None:
    before = fingerprint(model)
    moved = model.rename(tmp_path / "moved")
    assert fingerprint(moved) == before
    save(moved, value=2.0)
    assert fingerprint(moved) != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", r"no such model folder: /.*nothing"),
        ("a/b/c", "no such model folder"),
        (
            "package:no_such_package/model",
            r"needs the Python package no_such_package, which is not installed",
        ),
        ("package:json/no-such-folder", "the package json has no folder no-such-folder"),
        ("package:", "needs the Python package"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^c.yaml: model.name: .*{message}"):
        model_name(name, Source("c.yaml", tmp_path))
