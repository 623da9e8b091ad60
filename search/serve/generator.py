"""A text generator with the arguments and results of transformers' text-generation pipeline."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Generator as Steps
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack

import numpy as np

from search.deliver.best_config import BestConfig
from search.serve.answer_text import AnswerText
from search.serve.exported_model import Unopened
from search.serve.generation_options import GenerationOptions
from search.serve.prompts import Chat, Prompt, is_chat, prompt_of
from search.serve.scorer import Scorer
from search.serve.token_limits import context_length, end_tokens, is_endless, most_tokens, used_cache
from spaces import build
from spaces.cache_settings import SPECULATION
from spaces.generation.prefix import PrefixProgram
from spaces.generation.program import Program, decoded, open_program
from spaces.generation.sampling import Sampler
from spaces.generation.speculation import Speculation, require_exact
from spaces.runtime import Context, Predict

#: Prompt tokens that are read in about the time of one generated token.
READ = 8


class Sampling(TypedDict, total=False):
    """The options of a call that streams, with a call's defaults."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: str | Sequence[str] | None
    speculation: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """The text that one token adds to an answer, which may be "", and counts of tokens."""

    text: str
    prompt_tokens: int
    tokens: int  # of the answer so far
    finish: Literal["stop", "length"] | None = None  # of the last piece: why the answer ends
    reused: int = 0  # tokens of the prompt that were read with an earlier one

    @property
    def computed(self) -> int:
        """About how many generated tokens the prompt and the answer so far took."""
        return max(1, self.tokens + (self.prompt_tokens - self.reused) // READ)


class Generator(Scorer):
    """An exported causal language model. Threads may share it; with a cache of a fixed size they take turns.

    `score` gives the likelihood of texts. `program` is the model under its runtime and its kind of cache.
    """

    def __init__(
        self, folder: Path, record: BestConfig, predict: Predict, context: Context, program: Program, limit: int
    ) -> None:
        """`limit`: most tokens of prompt and answer together."""
        super().__init__(folder, record, predict, context)
        self.program = self._opened = program
        self._limit = limit
        self._endless = False  # whether an answer may go on beyond the limit
        self._ends = end_tokens(folder, self._base.config, self._tokenizer)
        self._turn: Any = threading.Lock()

    @classmethod
    def opened(cls, folder: Path, record: BestConfig, context: Context) -> Self:
        name, precision = record.recipe.runtime.name, build.precision_of(record.recipe)
        cache = used_cache(record, context)
        limit = most_tokens(folder, record, context)
        program = open_program(folder, name, precision, replace(cache, capacity=limit), context)
        generator = cls(folder, record, Unopened(folder, record.recipe, context), context, program, limit)
        generator._endless = is_endless(cache, limit)
        if cache.kind != "static" or name == "onnx":  # every prompt has a cache of its own, there also a static one
            generator._turn = nullcontext()
        return generator

    def __call__(
        self,
        prompts: str | Chat | Sequence[str] | Sequence[Chat],
        batch_size: int | None = None,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = (),
        speculation: str | None = None,
        return_full_text: bool = True,
    ) -> Any:
        """[{"generated_text": ...}]: the prompt and its answer, or a chat with the answer as one more message.

        A list of prompts or chats gives a list of such lists. An answer ends at an end token of the model, before a
        stop string, after `max_new_tokens`, or where the model's context does, which a sliding cache goes beyond.

        Args:
            batch_size: prompts per call; None: the batch size that the model was measured with.
            temperature: 0 always takes the most likely token, like do_sample=False.
            top_p: tokens are drawn from the most likely ones that together have this probability.
            seed: the same seed gives the same answer to the prompt at the same place in the list.
            speculation: "prompt_lookup" reads what followed the last tokens where they occur earlier in the text, and
                keeps what the model would say itself: the same answer in fewer calls where it copies. Prompts are read
                one by one, at temperature 0, in fp32.
                None: as the model's record says, and "none" for batches and other temperatures.
            return_full_text: False leaves the prompt out of the result.

        Raises:
            TypeError: prompts of another type.
            ValueError: an empty prompt, one beyond the context, a chat without a chat template, or an invalid option,
                such as speculation where the model's cache cannot take tokens back.
        """
        kind = SPECULATION[0] if speculation is None and batch_size not in (None, 1) else speculation
        options = self._options(max_new_tokens, temperature, top_p, seed, stop, kind)
        if options.speculates and batch_size not in (None, 1):
            raise ValueError(f"speculation needs a batch_size of 1, got {batch_size}")
        single = is_chat(prompts) or not _several(prompts)
        read = [self._prompt(one) for one in ([prompts] if single else prompts)]
        size = 1 if options.speculates else self._size(batch_size)
        answers: dict[int, str] = {}
        for start in range(0, len(read), size):
            for numbers in self._uncut(read, range(start, min(start + size, len(read))), max_new_tokens):
                pieces = self._pieces([read[number] for number in numbers], options, numbers)
                answers |= zip(numbers, map("".join, zip(*pieces, strict=True)), strict=True)
        texts = (prompt.reply(answers[number], return_full_text) for number, prompt in enumerate(read))
        replies: list[Any] = [[{"generated_text": text}] for text in texts]
        return replies[0] if single else replies

    def stream(self, prompt: str | Chat, **sampling: Unpack[Sampling]) -> Iterator[str]:
        """The answer in pieces as they are generated; together they are a call's text. Options and errors as there.

        A cache of a fixed size holds one answer at a time: until the iterator ends or is closed, other calls wait.
        """
        return (piece.text for piece in self.pieces(prompt, **sampling) if piece.text)

    def pieces(self, prompt: str | Chat, **sampling: Unpack[Sampling]) -> Iterator[Piece]:
        """The answer token by token, with counts of tokens. Closing the iterator stops the model within one token.

        Options and errors as for a call.
        """
        options = self._options(**sampling)
        return self._counted(self._prompt(prompt), options)

    def _counted(self, read: Prompt, options: GenerationOptions) -> Iterator[Piece]:
        length = len(read.ids)
        most = self._room(length, options.max_new_tokens)
        count = 0
        with closing(self._pieces([read], options, [0])) as texts:
            for (text,) in texts:
                count += 1
                yield Piece(text, length, min(count, most), reused=self._reused())
        # Beyond the last token comes what was held back for it.
        yield Piece("", length, min(count, most), "length" if count > most else "stop", self._reused())

    def reuse_prefixes(self, megabytes: float) -> PrefixProgram:
        """Store keys and values of prompts, so that a later prompt reads only what it does not share with one of them.

        Off until this is called. At most `megabytes` are stored, and the least recently used go first. The result
        counts `hits`, `misses` and `reused` tokens. Where several people ask, the time to the first token tells them
        whether somebody has asked the same.

        Raises:
            ValueError: megabytes of 0 or less, or a model whose cache is neither dynamic nor static.
        """
        if not (isinstance(megabytes, int | float) and 0 < megabytes < math.inf):
            raise ValueError(f"megabytes must be a finite number above 0, got {megabytes!r}")
        self.program = prefixes = PrefixProgram(self._opened, int(min(megabytes * 1e6, sys.maxsize)))
        return prefixes

    def _reused(self) -> int:
        return self.program.newest if isinstance(self.program, PrefixProgram) else 0

    def harness(self) -> Any:
        """This model for lm-evaluation-harness: `lm_eval.simple_evaluate(model=model.harness(), tasks=[...])`.

        Raises:
            ModuleNotFoundError: lm-eval is not installed.
        """
        from search.serve.harness import harness

        return harness(self, self._tokenizer, self.program, self._limit, lambda: self._turn)

    def _options(
        self,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = (),
        speculation: str | None = None,
    ) -> GenerationOptions:
        stops = _stops(stop)
        recorded = SPECULATION[0] if temperature else build.speculation_of(self.record.recipe)
        kind = recorded if speculation is None else speculation
        options = GenerationOptions(max_new_tokens, temperature, top_p, seed, stops, kind)
        if options.speculates:
            require_exact(self.program, build.precision_of(self.record.recipe))
        return options

    def _prompt(self, prompt: Any) -> Prompt:
        bounded_by = "context" if self._limit == context_length(self._base.config) else "cache"
        with self._tokenizing:
            return prompt_of(prompt, self._tokenizer, self._limit, bounded_by)

    def _room(self, prompt_tokens: int, new_tokens: int) -> int:
        """How many of `new_tokens` an answer to a prompt of so many tokens can have."""
        return new_tokens if self._endless else min(new_tokens, self._limit - prompt_tokens)

    def _uncut(self, prompts: Sequence[Prompt], numbers: Iterable[int], new_tokens: int) -> Iterator[list[int]]:
        """`numbers` of prompts in batches in which no answer is shorter than alone.

        The context of a batch ends for all rows where it does for the longest: beside a longer one that has no room for
        `new_tokens` a prompt is not read.
        """
        batches: dict[int, list[int]] = {}
        for number in numbers:
            length = len(prompts[number].ids)
            batches.setdefault(length if self._room(length, new_tokens) < new_tokens else 0, []).append(number)
        yield from batches.values()

    def _pieces(
        self, prompts: Sequence[Prompt], options: GenerationOptions, numbers: Sequence[int]
    ) -> Steps[list[str], None, None]:
        """A piece of each answer at each step; `numbers` are the places of the prompts in their list."""
        lengths = np.array([len(prompt.ids) for prompt in prompts])
        longest = int(lengths.max())
        mask = (np.arange(longest)[None, ::-1] < lengths[:, None]).astype(np.int64)
        ids = np.full(mask.shape, self._tokenizer.pad_token_id, dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[longest - len(prompt.ids) :] = prompt.ids
        seeds = [None if options.seed is None else (options.seed, number) for number in numbers]
        texts = [AnswerText(self._tokenizer, prompt.ids, options.stop, self._ends) for prompt in prompts]
        steps = self._room(longest, options.max_new_tokens)
        if options.speculates:
            chosen = Speculation(self.program)(ids, steps)
        else:
            chosen = decoded(self.program, ids, mask, steps, Sampler(options.temperature, options.top_p, seeds))
        with self._turn:
            for tokens in chosen:
                with self._tokenizing:
                    pieces = [text.add(int(token)) for text, token in zip(texts, tokens, strict=True)]
                yield pieces
                if all(text.done for text in texts):
                    return
        yield [text.finish() for text in texts]


def _several(value: Any) -> bool:
    """Whether an argument is several values, and not a string, a mapping or a value of another type."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _stops(stop: Any) -> tuple[Any, ...]:
    """The argument `stop` as a tuple; `GenerationOptions` refuses what is neither a string nor several."""
    if stop is None:
        return ()
    return tuple(stop) if _several(stop) else (stop,)
