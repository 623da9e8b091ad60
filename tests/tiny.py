"""Tiny random models, a word tokenizer and a learnable data set, written as their libraries write them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POSITIVE = ("bright", "charming", "clever", "funny", "moving", "warm")
NEGATIVE = ("bland", "clumsy", "dull", "hollow", "noisy", "tedious")
NEUTRAL = ("a", "actor", "and", "but", "camera", "film", "in", "is", "of", "plot", "score", "scene", "the", "with")
WORDS = (*SPECIAL, *POSITIVE, *NEGATIVE, *NEUTRAL)
LABELS = ("negative", "positive")
SIZES: Mapping[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def word_tokenizer() -> Any:
    """Words to ids, framed and padded as BERT does; gives token types too."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", numbers["[SEP]"]), ("[CLS]", numbers["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def bert(folder: Path, **sizes: Any) -> Path:
    """A random BERT encoder of 2 layers, 4 heads and hidden size 32 (or `sizes`), with its tokenizer."""
    from transformers import BertConfig, BertModel

    return _save(BertModel, BertConfig(**{**SIZES, **sizes}), folder)


def classifier(folder: Path, labels: Sequence[str] = LABELS, **sizes: Any) -> Path:
    """The same with a classification head of its own."""
    from transformers import BertConfig, BertForSequenceClassification

    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return _save(BertForSequenceClassification, BertConfig(**{**SIZES, **sizes}, **names), folder)


def trained(folder: Path, steps: int = 60) -> Path:
    """The classifier in `folder`, trained on `sentences` until it is right about most of them."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).train()
    numbers, tokenizer = model.config.label2id, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for step in range(steps):
            rows = sentences(32, 100 + step)
            inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
            loss = model(**inputs, labels=torch.tensor([numbers[row["label"]] for row in rows])).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    return folder


def unknown(folder: Path) -> Path:
    """An encoder of a family whose layers cannot be cut: ALBERT shares one layer's weights among all."""
    from transformers import AlbertConfig, AlbertModel

    return _save(AlbertModel, AlbertConfig(**SIZES, embedding_size=16), folder)


def _save(kind: Any, config: Any, folder: Path) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def sentences(count: int, seed: int) -> list[dict[str, str]]:
    """Rows {"text", "label"}: a label says which of two lists of words the text draws on more."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = int(rng.integers(2))
        likely, unlikely = (POSITIVE, NEGATIVE) if label else (NEGATIVE, POSITIVE)
        words = [*rng.choice(NEUTRAL, int(rng.integers(4, 12))), *rng.choice(likely, 3), rng.choice(unlikely)]
        rows.append({"text": " ".join(rng.permutation(words)), "label": LABELS[label]})
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def data(folder: Path, train: int = 256, held_back: int = 96) -> Path:
    """`train.csv`, `validation.jsonl` and `test.parquet` of `sentences`."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "train.csv", sentences(train, 1))
    lines = [json.dumps(row) for row in sentences(held_back, 2)]
    (folder / "validation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(sentences(held_back, 3)), folder / "test.parquet")
    return folder
