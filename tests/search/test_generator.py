"""`search.load` of a causal language model: the text that transformers' text-generation pipeline gives."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import numpy as np
import pytest
import torch

from search.serve.answer_text import AnswerText
from search.serve.generator import Generator
from search.serve.pipeline import model_class
from search.serve.windows import WindowSettings, windows_of
from spaces.base import load_base, write_folder
from spaces.generation.sampling import Sampler, probabilities
from spaces.generation.speculation import Speculation
from spaces.recipe import Recipe, Step
from spaces.runtime import Context

from .byte_llama import CONTEXT, byte_llama

CHAT = [{"role": "user", "content": "Wie heißt du?"}]
RECIPE = Recipe("base", "causal-lm", "teacher", (), {}, Step("eager"))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama over bytes, with a chat template."""
    return byte_llama(tmp_path_factory.mktemp("llama"))


def opened(folder: Path, original: Path, tokenizer: Any, generation: Mapping[str, Any] | None = None) -> Generator:
    """The model in `original`, exported to `folder` with this tokenizer and, if given, a generation_config.json."""
    model, base = load_base(original, "tiny", "main", "causal", (), {"pad": 0})
    write_folder(folder, model, base, {})
    tokenizer.save_pretrained(folder)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    record: Any = SimpleNamespace(recipe=RECIPE, config={"workload": {"batch": 3}})
    return Generator.opened(folder, record, Context(threads=1))


@pytest.fixture(scope="module")
def generator(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    from transformers import AutoTokenizer

    return opened(tmp_path_factory.mktemp("compressed"), model_folder, AutoTokenizer.from_pretrained(model_folder))


@pytest.fixture(scope="module")
def pipeline(model_folder: Path) -> Any:
    from transformers import pipeline

    return pipeline("text-generation", str(model_folder), dtype=torch.float32, trust_remote_code=False)


class Noted(Speculation):
    """A speculation that is noted in a list."""

    def __init__(self, begun: list[Any], program: Any) -> None:
        begun.append(self)
        super().__init__(program)


def test_it_is_what_load_gives() -> None:
    assert model_class("causal-lm") is Generator


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    "prompt", ["Once", "Schöne €", CHAT, [*CHAT, {"role": "assistant", "content": "Ich"}], ["One", "and one"], [CHAT]]
)
def test_replies_are_the_pipelines(generator: Generator, pipeline: Any, prompt: Any, full: bool) -> None:
    wanted = pipeline(prompt, max_new_tokens=20, do_sample=False, return_full_text=full)
    assert generator(prompt, max_new_tokens=20, return_full_text=full) == wanted
    if not isinstance(prompt[0], list) and prompt != ["One", "and one"]:
        pieces = generator.stream(prompt, max_new_tokens=20)
        assert "".join(pieces) == generator(prompt, max_new_tokens=20, return_full_text=False)[0]["generated_text"]


def test_an_answer_ends_with_the_context_and_before_a_stop_string(generator: Generator) -> None:
    prompt = "x" * 60
    whole = generator(prompt, return_full_text=False)[0]["generated_text"]
    tokens = CONTEXT - len(prompt)
    assert whole == generator(prompt, max_new_tokens=tokens, return_full_text=False)[0]["generated_text"]
    assert whole != generator(prompt, max_new_tokens=tokens - 2, return_full_text=False)[0]["generated_text"]
    middle = whole[6:8]
    (cut,) = generator(prompt, stop=["never seen", middle], return_full_text=False)
    assert cut["generated_text"] == whole[: whole.index(middle)]
    assert "".join(generator.stream(prompt, stop=middle)) == cut["generated_text"]


def test_a_long_prompt_in_its_batch_cuts_no_shorter_one(generator: Generator) -> None:
    prompts = ["x" * 70, "Once", "y" * 70, "and one"]
    for options in ({}, {"temperature": 1.0, "seed": 3}):
        together = generator(prompts, batch_size=4, max_new_tokens=30, **options)
        assert together == generator(prompts, batch_size=1, max_new_tokens=30, **options)


def test_a_fleet_knows_under_which_cache_an_answer_goes_on_beyond_the_context(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for window, endless in ((16, True), (CONTEXT, False)):
        recipe = replace(RECIPE, steps=(Step("cache", {"kind": "sliding", "window": window, "sinks": 4}),))
        record: Any = SimpleNamespace(recipe=recipe, config={}, conditions={"hardware": {}})
        monkeypatch.setattr("search.serve.windows.read_exported", lambda folder, record=record: record)
        assert windows_of("causal-lm", generator.folder) == WindowSettings(CONTEXT, endless=endless)


@pytest.mark.parametrize(("kind", "tokens"), [("static", 64), ("dynamic", CONTEXT)])
def test_a_fleet_knows_where_the_cache_of_a_model_ends(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, kind: str, tokens: int
) -> None:
    monkeypatch.setattr("search.serve.token_limits.CAPACITY", 64)
    recipe = replace(RECIPE, steps=(Step("cache", {"kind": kind}),))
    record: Any = SimpleNamespace(recipe=recipe, config={"workload": {"batch": 3}}, conditions={"hardware": {}})
    monkeypatch.setattr("search.serve.windows.read_exported", lambda folder: record)
    assert windows_of("causal-lm", generator.folder).tokens == tokens
    model = Generator.opened(generator.folder, record, Context(threads=1))
    assert "".join(model.stream("x" * (tokens - 1)))
    held = "cache" if kind == "static" else "context"
    with pytest.raises(ValueError, match=f"at most {tokens - 1} tokens, one less than the model.s {held}, got"):
        model("x" * tokens)


def test_an_end_token_ends_its_row_alone(generator: Generator, model_folder: Path, tmp_path: Path) -> None:
    prompts = ["One", "and another"]
    before = [reply[0]["generated_text"] for reply in generator(prompts, max_new_tokens=12, return_full_text=False)]
    tokenizer = families.byte_tokenizer("GPT2Tokenizer")
    end = tokenizer(before[0])["input_ids"][2]
    ending = opened(tmp_path, model_folder, tokenizer, {"eos_token_id": [0, end]})
    after = [reply[0]["generated_text"] for reply in ending(prompts, max_new_tokens=12, return_full_text=False)]
    assert before[0].startswith(after[0]) and len(after[0]) < len(before[0])
    assert after[1] == generator(prompts[1], max_new_tokens=12, return_full_text=False)[0]["generated_text"]


def test_speculation_changes_no_answer(generator: Generator) -> None:
    prompts = ["Once, once, once and once", "Schöne € schöne"]
    replies = generator(prompts, max_new_tokens=40)
    assert generator(prompts, max_new_tokens=40, speculation="prompt_lookup") == replies
    pieces = generator.stream(prompts[0], max_new_tokens=40, speculation="prompt_lookup")
    assert prompts[0] + "".join(pieces) == replies[0][0]["generated_text"]
    with pytest.raises(ValueError, match="speculation needs a batch_size of 1, got 2"):
        generator(prompts, batch_size=2, speculation="prompt_lookup")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_speculation_is_refused_where_rounding_would_change_answers(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    recipe = replace(RECIPE, steps=(Step("bits", {"precision": precision}),))
    monkeypatch.setattr(generator, "record", SimpleNamespace(recipe=recipe))
    with pytest.raises(ValueError, match=f"speculation needs a model in fp32, got {precision}"):
        generator.stream("Hi", speculation="prompt_lookup")


def test_a_model_speculates_as_its_record_says(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["Once, once, once and once", "Schöne € schöne"]
    plain, drawn = (generator(prompts, max_new_tokens=20, **one) for one in ({}, {"temperature": 1.0, "seed": 1}))
    recipe = replace(RECIPE, steps=(Step("cache", {"kind": "static", "speculation": "prompt_lookup"}),))
    monkeypatch.setattr(generator, "record", SimpleNamespace(recipe=recipe, config=generator.record.config))
    begun: list[Any] = []
    speculation = functools.partial(Noted, begun)
    monkeypatch.setattr("search.serve.generator.Speculation", speculation)
    for options in ({"speculation": "none"}, {"batch_size": 2}):
        assert generator(prompts, max_new_tokens=20, **options) == plain
    assert generator(prompts, max_new_tokens=20, temperature=1.0, seed=1) == drawn and not begun
    assert generator(prompts, max_new_tokens=20) == plain and len(begun) == 2
    pieces = generator.stream(prompts[0], max_new_tokens=20)
    assert prompts[0] + "".join(pieces) == plain[0][0]["generated_text"] and len(begun) == 3


def test_prompts_that_share_a_beginning_read_it_once(generator: Generator, model_folder: Path, tmp_path: Path) -> None:
    sharing = opened(tmp_path, model_folder, families.byte_tokenizer("GPT2Tokenizer"))
    prefixes = sharing.reuse_prefixes(1)
    for prompt in ("The bridge was old", "The bridge was new", "Another", "The bridge was new"):
        for speculation in ("none", "prompt_lookup"):
            asked = sharing(prompt, max_new_tokens=20, speculation=speculation)
            assert asked == generator(prompt, max_new_tokens=20)
    assert (prefixes.hits, prefixes.misses) == (6, 2)
    assert prefixes.reused == 17 + 15 + 17 + 6 + 17 + 17
    assert {piece.reused for piece in sharing.pieces("The bridge was red", max_new_tokens=3)} == {15}
    assert {piece.reused for piece in generator.pieces("The bridge was red", max_new_tokens=3)} == {0}
    with pytest.raises(ValueError, match="megabytes must be a finite number above 0, got 0"):
        sharing.reuse_prefixes(0)


def test_a_worker_stores_prompts_where_it_is_told_to(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.serve.model_process import loaded
    from spaces.generation.prefix import PrefixProgram

    plain = generator.program
    monkeypatch.setattr("search.serve.pipeline.load", lambda folder, device: generator)
    assert loaded(generator.folder, "cpu", 0).program is plain
    monkeypatch.setattr(generator, "program", plain)
    assert isinstance(loaded(generator.folder, "cpu", 1).program, PrefixProgram)


def test_a_seed_draws_the_same_answer_again(generator: Generator) -> None:
    def drawn(seed: int | None, **options: Any) -> Any:
        return generator("Once", max_new_tokens=16, temperature=1.5, seed=seed, **options)

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(3, top_p=1e-6) == generator("Once", max_new_tokens=16)
    first, second = generator(["Once", "Once"], max_new_tokens=16, temperature=1.5, seed=1)
    assert first == drawn(1) and second != first


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "a prompt must have at least one token, got ''"),
        ("x" * CONTEXT, {}, f"at most {CONTEXT - 1} tokens, one less than the model's context, got {CONTEXT}"),
        ([{"role": "robot", "content": "Hi"}], {}, "refuses these messages: no robots"),
        (3, {}, "a prompt must be a string or a list of"),
        ([{"role": "user"}], {}, "a message must be"),
        ("Hi", {"max_new_tokens": 0}, "max_new_tokens must be a whole number of 1 or more, got 0"),
        ("Hi", {"temperature": -1}, "temperature must be a finite number of 0 or more, got -1"),
        ("Hi", {"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ("Hi", {"seed": -1}, "seed must be a whole number of 0 or more, got -1"),
        ("Hi", {"stop": ["a", ""]}, "stop must be a string or several, none of them empty, got ''"),
        ("Hi", {"stop": 3}, "stop must be a string or several, none of them empty, got 3"),
        ("Hi", {"stop": b"a"}, "stop must be a string or several, none of them empty, got b.a."),
        ("Hi", {"speculation": "medusa"}, "speculation must be one of none, prompt_lookup, got 'medusa'"),
        (
            "Hi",
            {"speculation": "prompt_lookup", "temperature": 1},
            "speculation needs temperature 0, got .* of 1",
        ),
    ],
)
def test_a_wrong_call_is_one_clear_error(generator: Generator, prompt: Any, options: Any, message: str) -> None:
    for method in (generator.stream, generator.pieces):
        with pytest.raises((TypeError, ValueError), match=message):
            method(prompt, **options)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_batch_size_is_a_whole_number(generator: Generator, size: Any) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be a whole number of 1 or more, got {size}"):
        generator(["Hi", "there"], batch_size=size, max_new_tokens=1)
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more"):
        generator.score("a text", batch_size=size)


def test_messages_need_a_chat_template(model_folder: Path, tmp_path: Path) -> None:
    without = opened(tmp_path, model_folder, families.byte_tokenizer("GPT2Tokenizer"))
    with pytest.raises(ValueError, match=r"messages need a chat template, and the tokenizer of this model has none"):
        without(CHAT)


def test_it_says_how_likely_texts_are(generator: Generator) -> None:
    batch = {name: np.ones((1, 5), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    assert generator.output(batch).shape == (1, 5)


def test_pieces_are_whole_characters() -> None:
    tokenizer = families.byte_tokenizer("GPT2Tokenizer")
    answer = AnswerText(tokenizer, tokenizer("é")["input_ids"], (), {0})
    pieces = [answer.add(token) for token in tokenizer("a€🙂b")["input_ids"]]
    assert pieces == ["a", "", "", "€", "", "", "", "🙂", "b"] and answer.finish() == ""


def test_what_may_become_a_stop_string_is_held_back() -> None:
    tokenizer = families.byte_tokenizer("GPT2Tokenizer")
    answer = AnswerText(tokenizer, [1], ("###", "#!"), {0})
    assert [answer.add(token) for token in tokenizer("a##b#")["input_ids"]] == ["a", "", "", "##b", ""]
    assert answer.add(tokenizer("!")["input_ids"][0]) == "" and answer.done
    assert answer.add(1) == "" == answer.finish()
    other = AnswerText(tokenizer, [1], ("###",), {0})
    assert [other.add(token) for token in tokenizer("a#")["input_ids"]] == ["a", ""] and other.add(0) == "#"


def test_a_nucleus_has_the_fewest_tokens_that_reach_its_share() -> None:
    logits = np.log(np.array([[0.1, 0.5, 0.05, 0.35], [0.25, 0.25, 0.25, 0.25]]))
    np.testing.assert_allclose(probabilities(logits, 1.0, 1.0), np.exp(logits))
    np.testing.assert_allclose(probabilities(logits, 1.0, 0.6)[0], [0, 0.5 / 0.85, 0, 0.35 / 0.85])
    np.testing.assert_allclose(probabilities(logits, 0.5, 1.0)[0], np.exp(2 * logits[0]) / np.exp(2 * logits[0]).sum())
    np.testing.assert_allclose(probabilities(1e3 * logits, 1e-320, 0.9)[0], [0, 1, 0, 0])
    draws = np.array([Sampler(1.0, 0.6, [[seed], [seed]])(logits) for seed in range(300)])
    assert set(draws[:, 0]) == {1, 3} and abs((draws[:, 0] == 1).mean() - 0.5 / 0.85) < 0.1
