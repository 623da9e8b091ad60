"""A model folder is used only when its weights are whole, safe to open, and really there."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from search.config.model_folder import SNAPSHOT, check_model, model_fingerprint, model_name, weight_files
from search.config.source import Source
from search.errors import UserError


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
    before = model_fingerprint(model)
    moved = model.rename(tmp_path / "moved")
    assert model_fingerprint(moved) == before
    save(moved, value=2.0)
    assert model_fingerprint(moved) != before


def test_the_modules_of_sentence_transformers_count(model: Path) -> None:
    for folder in ("1_Pooling", "2_Dense"):
        (model / folder).mkdir()
    (model / "modules.json").write_text("[]")
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    save(model / "2_Dense")
    fingerprints = {model_fingerprint(model)}
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    fingerprints.add(model_fingerprint(model))
    save(model / "2_Dense", value=2.0)
    fingerprints.add(model_fingerprint(model))
    assert len(fingerprints) == 3


@pytest.mark.parametrize("vocabulary", ["vocab.txt", "spiece.model", "source.spm", "bpe.codes", "merges.bpe"])
def test_every_vocabulary_that_a_tokenizer_reads_is_fetched_and_counts(model: Path, vocabulary: str) -> None:
    before = model_fingerprint(model)
    (model / vocabulary).write_text("the 1")
    assert model_fingerprint(model) != before
    assert any(fnmatch(vocabulary, pattern) for pattern in SNAPSHOT)


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


def described(model: Path, file: str = "config.json", **changes: object) -> None:
    path = model / file
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "quantization_config: .*bitsa",
        ),
        ({"quantization_config": {"quant_method": "one that nobody knows"}}, "nobody knows"),
        ({"compression_config": {"format": "int-quantized"}}, "compression_config"),
        ({"quantization": {"group_size": 64, "bits": 4}}, 'quantization: {"group_size": 64'),
    ],
)
def test_a_model_that_is_quantised_already_is_refused(model: Path, changes: dict[str, object], message: str) -> None:
    described(model, **changes)
    refuses(model, rf"^c.yaml: model.name: .* is already quantised .*{message}.*give the original model")
    described(model, quantization_config=None, compression_config={}, quantization=None)
    check_model(model, "")


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32"])
def test_weights_that_are_packed_are_refused_whatever_the_config_says(model: Path, kind: str) -> None:
    counts = {"embeddings.position_ids": np.arange(4).reshape(1, 4), "attn.bias": np.ones((1, 1, 4, 4), dtype=np.uint8)}
    whole = {"weight": np.ones((2, 2), dtype=np.float16)}
    save_file({**counts, **whole}, model / "model.safetensors")
    check_model(model, "")
    save_file({**counts, "layer.qweight": np.ones((2, 2), dtype=kind)}, model / "model.safetensors")
    refuses(model, "model.safetensors is already quantised .layer.qweight holds [IU](8|32) numbers")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_for_code_of_its_own_is_refused(model: Path, file: str) -> None:
    described(model, file, auto_map={"AutoModel": "modeling_mine.Mine"})
    refuses(
        model, rf'{file} asks for code of its own \(auto_map: {{"AutoModel": "modeling_mine.Mine"}}\), which is never'
    )
    described(model, file, auto_map={})
    check_model(model, "")


def test_what_is_no_whole_model_of_transformers_is_named(model: Path) -> None:
    described(model, model_type=["bert"])
    refuses(model, "has no model_type")
    described(model, model_type="bert", schema_version=1, base={}, plans={})
    refuses(model, "was exported by this program, compressed already; give the original model")
    (model / "config.json").write_text('{"model_type": "bert"}')
    (model / "model.safetensors").rename(model / "model.fp16.safetensors")
    refuses(model, r"must be in model.safetensors, or in files that .*index.json names, got model.fp16.safetensors")
    (model / "model.fp16.safetensors").rename(model / "model.gguf")
    refuses(model, r"no weights \(\*.safetensors\) in .*; model.gguf is another format")
    (model / "adapter_config.json").write_text("{}")
    refuses(model, r"has a PEFT adapter .*merge_and_unload")
    (model / "adapter_config.json").unlink()
    (model / "tokenizer_config.json").write_text("{")
    refuses(model, "tokenizer_config.json in .* is not valid JSON")


def test_an_index_names_files_of_its_own_folder(model: Path) -> None:
    index = {"weight_map": {"x": "../elsewhere.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses(model, 'must name files of that folder, got "../elsewhere.safetensors"')
