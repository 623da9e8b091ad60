"""The task causal-lm: windows, scores, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import tiny

from objectives.quality import loss_against, quality
from search.errors import UserError
from search.tasks.causal_lm import CausalLM, WindowRows
from search.tasks.documents import DocumentData, Documents
from search.tasks.text_windows import spans, spread

TASK = CausalLM()
DATA = DocumentData(train="unused", max_length=12, doc_stride=4)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 64}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1}


def texts(count: int, seed: int) -> list[dict[str, str]]:
    """Rows {"text"} in which a word decides the next: two cycles of words, one to a text."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        cycle = tiny.POSITIVE if rng.integers(2) else tiny.NEGATIVE
        start = int(rng.integers(len(cycle)))
        rows.append({"text": " ".join(cycle[(start + i) % len(cycle)] for i in range(int(rng.integers(8, 40))))})
    return rows


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions about such texts: the word that comes next, or one of the other cycle."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        ours, theirs = (tiny.POSITIVE, tiny.NEGATIVE) if rng.integers(2) else (tiny.NEGATIVE, tiny.POSITIVE)
        start = int(rng.integers(len(ours)))
        words = [ours[(start + i) % len(ours)] for i in range(4 + number)]
        choices = [words.pop(), theirs[start % len(theirs)]]
        rows.append({"context": " ".join(words), "choices": choices, "answer": 0})
        if rng.integers(2):
            rows[-1] |= {"choices": choices[::-1], "answer": 1}
    return rows


def llama(folder: Path, **sizes: Any) -> Path:
    """A random Llama of 2 layers with tied tables, and the word tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"vocab_size": len(tiny.WORDS), "tie_word_embeddings": True, **special, **SIZES, **sizes}
        LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    tiny.word_tokenizer().save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    """A random GPT-2 of 64 learned positions, and the word tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = GPT2Config(vocab_size=len(tiny.WORDS), n_positions=64, n_embd=32, n_layer=2, n_head=2, **special)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tiny.word_tokenizer().save_pretrained(folder)
    return folder


def without_special_tokens(folder: Path) -> None:
    """The tokenizer of `folder` puts nothing around a text."""
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))


def rows_of(count: int = 6, scored_tokens: int | None = None) -> WindowRows:
    part = Documents(tuple(row["text"] for row in texts(count, 0)), "rows", scored_tokens)
    rows: WindowRows = TASK.encode(tiny.word_tokenizer(), part, DATA, ())
    return rows


@pytest.mark.parametrize(("tokens", "limit", "overlap"), [(1, 8, 2), (2, 8, 2), (8, 8, 2), (9, 8, 2), (50, 8, 7)])
def test_every_token_but_the_first_is_scored_once_with_its_context(tokens: int, limit: int, overlap: int) -> None:
    windows = spans(tokens, limit, overlap)
    scored = [token for _, first, end in windows for token in range(first, end)]
    assert scored == list(range(1, tokens))
    assert all(end - begin <= limit and first - begin >= min(first, overlap) for begin, first, end in windows)


def test_windows_are_spread_within_the_tokens_that_are_scored() -> None:
    counts = np.array([3, 8, 8, 8, 2] * 20)
    rows = spread(counts, 100)
    assert 80 < counts[rows].sum() <= 100 and rows[0] == 0 and rows[-1] == 99 and np.diff(rows).max() < 10
    assert spread(counts, 10**6).tolist() == list(range(100))
    assert len(spread(counts, 1)) == 2


def test_rows_are_read_as_they_were_written_and_chosen(tmp_path: Path) -> None:
    rows = rows_of()
    rows.write(tmp_path, "train")
    again = TASK.read(tmp_path, "train")
    assert again.references.tolist() == rows.references.tolist()
    assert again.windows.bytes.tolist() == rows.windows.bytes.tolist()
    some = rows.chosen(np.array([0, 3]))
    assert some.references.tolist() == rows.references[[0, 3]].tolist()


def test_bytes_and_tokens_of_windows_are_those_of_the_texts() -> None:
    part = Documents(("bright ämber film " * 9, "a film"), "rows")
    rows = TASK.encode(tiny.word_tokenizer(), part, DATA, ())
    lengths = [len(tiny.word_tokenizer()(text)["input_ids"]) for text in part.texts]
    assert rows.references.sum() == sum(lengths) - 2
    # (Blanks at the end belong to no token. The first token is the tokenizer's own.)
    assert rows.windows.bytes.sum() == sum(len(text.rstrip().encode()) for text in part.texts)


def test_perplexity_is_a_ratio_of_sums_and_its_loss_a_share() -> None:
    rows = rows_of()
    output = -np.random.default_rng(0).uniform(0.5, 3, int(rows.encoded.lengths.sum())).astype(np.float32)
    scores = rows.predictions("perplexity", output)
    measurement = quality("perplexity", scores, rows.references, 0, 0, {})
    wanted = math.exp(-(scores * rows.references).sum() / rows.references.sum())
    assert measurement.value == pytest.approx(wanted) and measurement.interval[0] < wanted < measurement.interval[1]
    lost = loss_against("perplexity", scores - 0.1, scores, rows.references, 0, 0)
    assert lost.value == pytest.approx(100 * (math.exp(0.1) - 1))
    assert lost.interval == pytest.approx((lost.value, lost.value)), "what both share does not widen it"
    details = rows.details(scores)
    assert details["bits_per_byte"] * rows.windows.bytes.sum() == pytest.approx(
        math.log2(wanted) * rows.references.sum()
    )


def test_the_constant_guess_is_the_best_distribution_that_is_the_same_everywhere() -> None:
    rows = rows_of(30)
    guess = rows.constant_guess("perplexity")
    assert "frequency" in guess.text
    perplexity = quality("perplexity", guess.predictions, rows.references, 0, 0, {}).value
    assert 6 < perplexity < 14, "twelve words and an end"


def test_windows_without_room_or_without_enough_text_are_refused() -> None:
    part = Documents(("a film",), "rows.csv")
    with pytest.raises(UserError, match=r"data.max_length: must be at most the 4 tokens of rows.csv, got 12"):
        TASK.encode(tiny.word_tokenizer(), part, DATA, ())
    with pytest.raises(UserError, match=r"data.doc_stride: must be less than the 12 tokens of a window, got 12"):
        TASK.encode(tiny.word_tokenizer(), part, DocumentData(train="unused", max_length=12, doc_stride=12), ())


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model": {"name": "model", "head": "mean"}}, "model.head: must be auto for causal-lm"),
        ({"metric": "accuracy"}, "metric: must be perplexity where data.choices is left out"),
        ({"data": {"text": "words"}}, 'unknown column "words"'),
        ({"data": {"train": "blank.jsonl"}}, 'column "text"'),
        ({"data": {"max_length": 60, "train": "short.txt", "validation": "few.txt", "test": "few2.txt"}}, "few.txt"),
        ({"model": {"name": "encoder"}}, "encoder"),
        ({"model": {"name": "narrow"}}, "token embeddings"),
        ({"model": {"name": "model", "gguf_file": "weights.gguf"}}, "model.gguf_file: must be a file of"),
        ({"model": {"name": "model", "gguf_file": "broken.gguf"}}, "is no GGUF file"),
        ({"model": {"name": "model", "gguf_file": "whole.gguf"}}, "gguf and accelerate, not installed: pip install"),
        (
            {"model": {"name": "learned"}, "workload": {"prompt": 60, "length": 60, "new_tokens": 8}},
            "workload.prompt: must be at most 56 tokens, the positions of the model (gpt2) less workload.new_tokens",
        ),
        (
            {"workload": {"prompt": 61, "length": 61, "new_tokens": 4}},
            "workload.prompt: must be at most 60 tokens, the positions of the model (llama) less workload.new_tokens",
        ),
        (
            {"workload": {"prompt": 16, "length": 16, "new_tokens": 64}},
            "workload.new_tokens: must be less than the 64 tokens that are the positions of the model (llama), got 64",
        ),
        (
            {"objectives": ["metric", "recall_at_1"]},
            'must be measured here: of the metrics that is perplexity, got "re',
        ),
        ({"limits": {"others": {"f1": 0.5}}}, "limits.others.f1: must be measured here: of the metrics that is perpl"),
        (
            {"model": {"name": "bare"}, "data": {"train": "words.jsonl"}},
            "data.text: must have texts of two tokens or more, got none in",
        ),
        (
            {"workload": {"prompt": 16, "new_tokens": 1}, "objectives": ["metric", "tpot_ms"]},
            "objectives: must be left out with workload.new_tokens: 1, which has no token after the first, got",
        ),
        (
            {"objectives": ["metric", "ttft_ms/l32"]},
            "objectives: must have prompts of at most workload.prompt (16) tokens",
        ),
        ({"objectives": ["metric", "generate_ms/b2-ldata"]}, "got generate_ms/b2-ldata"),
        ({"model": {"name": "ending"}}, "model.name: generation_config.json in "),
        ({"space": {"bits": {"int8_blocks": [0, 3]}}}, "space.bits.int8_blocks: must be between 0 and 2, got 3"),
        ({"space": {"bits": {"int8_blocks": "two"}}}, "space.bits.int8_blocks: must be a whole number"),
    ],
    ids=[
        "head",
        "metric",
        "column",
        "blank",
        "short",
        "encoder",
        "vocabulary",
        "gguf",
        "broken",
        "extra",
        "context",
        "rotary context",
        "new tokens",
        "another task's metric",
        "limit of another metric",
        "texts of a word",
        "one token",
        "long prompt",
        "prompts of the data",
        "generation config",
        "more blocks than there are",
        "a word of blocks",
    ],
)
def test_what_cannot_be_used_is_one_clear_error(
    tmp_path: Path,
    changes: dict[str, Any],
    wanted: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from search.cli.main import main
    from search.config import gguf

    llama(tmp_path / "model")
    if "gpt2" in wanted:
        gpt2(tmp_path / "learned")
    (tmp_path / "model" / "whole.gguf").write_bytes(b"GGUF")
    llama(tmp_path / "narrow", vocab_size=20)
    llama(tmp_path / "bare")
    without_special_tokens(tmp_path / "bare")
    if "generation_config" in wanted:
        (llama(tmp_path / "ending") / "generation_config.json").write_text("[3]")
    (tmp_path / "words.jsonl").write_text("".join(f'{{"text": "w{i}"}}\n' for i in range(60)), encoding="utf-8")
    tiny.bert(tmp_path / "encoder")
    (tmp_path / "model" / "broken.gguf").write_bytes(b"nothing")
    lines = [json.dumps(row) for row in texts(60, 0)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "blank.jsonl").write_text("\n".join([*lines, '{"text": " "}']) + "\n", encoding="utf-8")
    (tmp_path / "short.txt").write_text("a film " * 80, encoding="utf-8")
    for name in ("few.txt", "few2.txt"):
        (tmp_path / name).write_text("the film", encoding="utf-8")
    data = {"train": "rows.jsonl", "validation": None, "test": None, "max_length": 16, "doc_stride": 4}
    settings: dict[str, Any] = {
        "task": "causal-lm",
        "model": {"name": "model"},
        "teacher": {"epochs": 0},
        "workload": {"prompt": 16, "new_tokens": 4},
        **changes,
        "data": {**data, **changes.get("data", {})},
    }
    config = command.write_config(tmp_path / "config.yaml", **settings)
    capsys.readouterr()  # what saving the models said
    if "not installed" in wanted:
        monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    assert main(["run" if "few" in wanted else "plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and wanted in error, error
