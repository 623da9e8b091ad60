"""A quantised GGUF file: what a run, its record and its reports say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import command
import numpy as np
import pytest

from search.cli.main import main
from search.config import model_folder
from search.config.gguf import quantised_note
from search.config.load import load_config
from search.deliver.best_config import plain_json, schema
from search.deliver.study_attributes import NOTHING_FINAL, record_of
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
