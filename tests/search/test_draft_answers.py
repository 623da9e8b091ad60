"""`search.load` with a draft: a smaller model proposes tokens, and no answer changes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import numpy as np
import pytest
import torch

import search
from search import UserError
from search.serve.generator import Generator
from spaces.base import load_base, write_folder
from spaces.generation.draft_model import DRAFTED
from spaces.generation.program import greedy
from spaces.recipe import Recipe, Step

CONTEXT = 80
RECORD = SimpleNamespace(
    recipe=Recipe("base", "causal-lm", "teacher", (), {}, Step("eager")), config={"workload": {"batch": 3}}
)
Make = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def records() -> Iterator[None]:
    """Folders are read without a record of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.serve.pipeline.read_exported", lambda folder: RECORD)
        yield


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes an exported random Llama over bytes: the same one, but for noise, tokens and length."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def written(noise: float = 0, word: str = "", tokens: int = 257, context: int = CONTEXT, end: int = 0) -> Path:
        original, folder = tmp_path_factory.mktemp("original"), tmp_path_factory.mktemp("exported")
        tokenizer = families.byte_tokenizer("GPT2Tokenizer")
        tokenizer.add_tokens([word] if word else [])
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4}
        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": context}
        config = AutoConfig.for_model("llama", vocab_size=tokens, num_key_value_heads=2, **sizes, **special)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for spread in (2.0, noise):
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape) * spread * parameter.shape[-1] ** -0.5)
        model.save_pretrained(original)
        tokenizer.save_pretrained(original)
        write_folder(folder, *load_base(original, "tiny", "main", "causal", (), {"pad": 0}), {})
        tokenizer.save_pretrained(folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, end]}), encoding="utf-8")
        return folder

    return written


@pytest.fixture(scope="module")
def folder(make: Make) -> Path:
    return make()


def loaded(folder: Path, draft: Path | None) -> Generator:
    model = search.load(folder, "cpu", draft=draft)
    assert isinstance(model, Generator)
    return model


def watched(model: Generator) -> list[int]:
    """How many tokens each call that checks a draft reads, from now on."""
    program: Any = model.program
    extend, read = program.extend, list[int]()

    def recorded(tokens: np.ndarray, cache: Any) -> np.ndarray:
        read.append(tokens.shape[1])
        return extend(tokens, cache)  # type: ignore[no-any-return]

    program.extend = recorded
    return read


def test_a_draft_changes_no_answer(make: Make, folder: Path) -> None:
    prompts, plain = ["Once, once", "Schöne € schöne"], loaded(folder, None)
    expected = plain(prompts, max_new_tokens=40)
    for noise in (0, 0.1, 2):
        model = loaded(folder, make(noise))
        read = watched(model)
        assert model(prompts, max_new_tokens=40) == expected and not read, "only where it is asked for"
        assert model(prompts, max_new_tokens=40, speculation="draft") == expected
        assert max(read) == DRAFTED + 1
        if noise == 0:
            assert len(read) <= 2 * -(-39 // (DRAFTED + 1))
        pieces = model.stream(prompts[0], max_new_tokens=40, speculation="draft")
        assert prompts[0] + "".join(pieces) == expected[0][0]["generated_text"]
    model.reuse_prefixes(1)
    for _ in range(2):
        assert model(prompts, max_new_tokens=40, speculation="draft") == expected


def test_an_answer_ends_within_a_draft(make: Make, folder: Path) -> None:
    plain = loaded(folder, None)
    ids = np.array([families.byte_tokenizer("GPT2Tokenizer")("Once")["input_ids"]])
    tokens = [int(token[0]) for token in greedy(plain.program, ids, np.ones_like(ids), 12)]
    end = next(token for place, token in enumerate(tokens) if place > 1 and tokens.index(token) == place)
    assert tokens.index(end) < DRAFTED, "not the last token of the first draft"
    ending = make(end=end)
    model = loaded(ending, ending)
    text = plain("Once", max_new_tokens=12, return_full_text=False)[0]["generated_text"]
    for stop in ((), text[1:3]):
        drafted, single = (
            model("Once", max_new_tokens=12, stop=stop, return_full_text=False, speculation=kind)[0]["generated_text"]
            for kind in ("draft", "none")
        )
        assert drafted == single and len(drafted) < len(text)


def test_an_answer_ends_with_the_models_context_and_not_with_the_drafts(make: Make, folder: Path) -> None:
    plain, model = loaded(folder, None), loaded(folder, make(context=30))
    for prompt in ("x" * 10, "x" * 29, "x" * 30, "x" * 40, "x" * (CONTEXT - 2)):
        assert model(prompt, speculation="draft") == plain(prompt)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"word": "<new>"}, "a draft must have the tokenizer of the model, got one that differs at token 257, '<new>'"),
        ({"tokens": 300}, "a draft must choose between the 257 tokens of the model, got 300"),
    ],
)
def test_a_draft_of_another_vocabulary_is_refused(make: Make, folder: Path, other: Any, message: str) -> None:
    draft = make(**other)
    with pytest.raises(UserError, match=f"^draft: {re.escape(str(draft))}: {message}$"):
        search.load(folder, "cpu", draft=draft)


def test_a_draft_that_cannot_be_is_one_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(folder, None)
    with pytest.raises(ValueError, match=r"speculation draft needs a second model, as search\.load\(folder, draft="):
        model("Hi", speculation="draft")
    quantised = replace(RECORD.recipe, steps=(Step("bits", {"precision": "int8"}),))
    monkeypatch.setattr(model, "record", SimpleNamespace(recipe=quantised))
    with pytest.raises(ValueError, match="speculation needs a model in fp32, got int8"):
        model.draft_with(model)
    record = SimpleNamespace(recipe=SimpleNamespace(task="classification"))
    classifier = SimpleNamespace(folder=Path("films"), record=record)
    opener = SimpleNamespace(opened=lambda *_: classifier)
    monkeypatch.setattr("search.serve.pipeline.model_class", lambda task: opener)
    with pytest.raises(UserError, match="must be one language model for another, and films is of the task class"):
        search.load(folder, "cpu", draft=folder)
