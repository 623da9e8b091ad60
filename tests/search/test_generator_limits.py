"""A generator at its limits: the end of a context, a stream that is closed early, prompts that are none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import pytest

from search.serve.generator import Generator
from spaces.recipe import Step
from spaces.runtime import Context

from .byte_llama import CONTEXT, byte_llama
from .test_generator import RECIPE, opened


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with the default cache."""
    original, folder = byte_llama(tmp_path_factory.mktemp("llama")), tmp_path_factory.mktemp("exported")
    return opened(folder, original, families.byte_tokenizer("GPT2Tokenizer")).folder


def with_cache(folder: Path, **settings: Any) -> Generator:
    recipe = replace(RECIPE, steps=(Step("cache", settings),))
    record: Any = SimpleNamespace(recipe=recipe, config={"workload": {"batch": 2}})
    return Generator.opened(folder, record, Context(threads=1))


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"kind": "sliding", "window": 16, "sinks": 4}, 40),
        ({"kind": "sliding", "window": CONTEXT, "sinks": 4}, 10),
        ({"kind": "dynamic"}, 10),
    ],
    ids=["window", "window of the context", "dynamic"],
)
def test_an_answer_goes_on_beyond_the_context_where_a_window_is_within_it(
    exported: Path, settings: dict[str, Any], tokens: int
) -> None:
    model, prompt = with_cache(exported, **settings), "x" * (CONTEXT - 10)
    *_, last = model.pieces(prompt, max_new_tokens=40)
    assert (last.tokens, last.finish, last.prompt_tokens) == (tokens, "length", CONTEXT - 10)
    both = [prompt, "Once"]
    assert model(both, max_new_tokens=40) == model(both, max_new_tokens=40, batch_size=1)
    with pytest.raises(ValueError, match=f"at most {CONTEXT - 1} tokens, one less than the model's context, got"):
        model("x" * CONTEXT)


def test_a_stream_that_is_closed_stops_the_model_and_lets_others_ask(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one static cache."""
    model = with_cache(exported, kind="static")
    expected, steps, decode = "".join(model.stream("Once", max_new_tokens=6)), [], model.program.decode

    def counted(tokens: Any, cache: Any) -> Any:
        steps.append(tokens)
        return decode(tokens, cache)

    monkeypatch.setattr(model.program, "decode", counted)
    stream: Any = model.stream("Once", max_new_tokens=60)
    next(stream)
    before = len(steps)
    assert before < 59
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: "".join(model.stream("Once", max_new_tokens=6)))
        with pytest.raises(TimeoutError):
            other.result(timeout=0.2)
        assert len(steps) == before
        stream.close()
        assert other.result(timeout=60) == expected


@pytest.mark.parametrize("prompts", [3, None, b"Hi", {"role": "user", "content": "Hi"}], ids=str)
def test_a_call_with_something_else_than_prompts_is_one_clear_error(exported: Path, prompts: Any) -> None:
    with pytest.raises(TypeError, match="a prompt must be a string or a list of"):
        with_cache(exported, kind="dynamic")(prompts, max_new_tokens=1)


def test_no_stop_strings_may_be_said_as_none(exported: Path) -> None:
    model = with_cache(exported, kind="dynamic")
    assert model("Once", max_new_tokens=6, stop=None) == model("Once", max_new_tokens=6)
