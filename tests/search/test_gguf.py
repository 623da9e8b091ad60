"""A quantised GGUF file: what a run, its record and its reports say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import command
import numpy as np
import pytest
from safetensors.numpy import load_file

from search.cli.main import main
from search.config import model_folder
from search.config.gguf import dequantised, quantised_note
from search.config.load import load_config
from search.deliver.best_config import plain_json, schema
from search.deliver.study_attributes import NOTHING_FINAL, record_of
from search.errors import UserError
from search.prepare.data import prepare_data
from search.prepare.model import describe_model
from search.report.page import front_html
from search.report.text import front_json, note
from search.space.choices import names

from . import factory
from .test_causal_lm import llama, texts

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")


def gguf_file(path: Path, *types: str) -> Path:
    """A GGUF file with a matrix of each type, the first as large as all others together, and a norm."""
    writer = gguf.GGUFWriter(path, "llama")
    for number, name in enumerate(types):
        rows = max(1, len(types) - 1) if number == 0 else 1
        weight = np.random.default_rng(number).normal(size=(rows, 64)).astype(np.float32)
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(f"w{number}", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.add_tensor("norm", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_gguf(path: Path) -> np.ndarray:
    """A GGUF file of a random Llama over bytes, its token table in 8 bits; returns that table."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|endoftext|>", *bytes_to_unicode().values(), "ab"]
    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    kind = gguf.GGMLQuantizationType.Q8_0
    table = gguf.quants.quantize(rng.normal(size=(len(tokens), 32)).astype(np.float32), kind)
    writer.add_tensor("token_embd.weight", table, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    sizes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    for name, size in (sizes | {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}).items():
        writer.add_tensor(f"blk.0.{name}.weight", rng.normal(size=size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read: np.ndarray = gguf.quants.dequantize(table, kind)
    return read


def test_a_file_becomes_a_folder_of_its_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    table = llama_gguf(tmp_path / "tiny.gguf")
    folder = dequantised(tmp_path, "tiny.gguf", "model.gguf_file")
    weights = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], table)
    assert "lm_head.weight" not in weights, "the table is the output matrix too"
    assert AutoTokenizer.from_pretrained(folder)("abc")["input_ids"] == [257, 67]
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert dequantised(tmp_path, "tiny.gguf", "model.gguf_file") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_file_that_ends_early_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    llama_gguf(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model\.gguf_file: cut\.gguf cannot be read: "):
        dequantised(tmp_path, "cut.gguf", "model.gguf_file")
    assert not list((tmp_path / "hub" / "dequantised").iterdir())


def test_types_of_a_quantised_file_are_named_with_their_shares(tmp_path: Path) -> None:
    (text,) = quantised_note(gguf_file(tmp_path / "small.gguf", "Q4_1", "Q8_0"))
    assert text.startswith("the weights of small.gguf were quantised before, Q4_1 (50% of them), Q8_0 (50% of them);")


def test_a_file_in_floating_point_has_no_note(tmp_path: Path) -> None:
    assert quantised_note(gguf_file(tmp_path / "whole.gguf", "F16", "F32")) == ()


def test_a_run_says_at_its_start_that_its_weights_were_quantised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = llama(tmp_path / "model")
    gguf_file(tmp_path / "packed.gguf", "Q4_1")
    monkeypatch.setattr(model_folder, "dequantised", lambda folder, name, where: whole)
    lines = [json.dumps(row) for row in texts(60, 0)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = command.write_config(
        tmp_path / "config.yaml",
        task="causal-lm",
        model={"name": ".", "gguf_file": "packed.gguf"},
        data={"train": "rows.jsonl", "validation": None, "test": None, "max_length": 16, "doc_stride": 4},
        teacher={"epochs": 0},
        workload={"prompt": 16, "new_tokens": 4},
    )
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 0
    wanted = "the weights of packed.gguf were quantised before, Q4_1"
    assert f"note: {wanted}" in capsys.readouterr().out
    described, data = tmp_path / "described", tmp_path / "data"
    described.mkdir()
    data.mkdir()
    loaded = load_config(config, [], names())
    describe_model(described, loaded, lambda stage, done: None)
    prepare_data(data, loaded, described, lambda stage, done: None)
    assert any(wanted in text for text in json.loads((data / "data.json").read_text())["notes"])


def test_notes_of_a_run_are_in_its_record_and_its_reports() -> None:
    front = factory.front()
    study = replace(factory.study(front), notes=("the weights of x.gguf were quantised before, Q4_1 <all>",))
    data = plain_json(front_json(front, study))
    assert data["notes"] == list(study.notes)
    shown = "<b>Note:</b> the weights of x.gguf were quantised before, Q4_1 &lt;all&gt;."
    assert shown in front_html(front, study) and study.notes[0] in note(front, study)
    stored = {**NOTHING_FINAL, "hardware": {}, "rows": {}, "notes": data["notes"]}
    assert record_of({"mlruns": "m"}, stored).notes == study.notes
    assert "notes" in schema("front")["properties"]
