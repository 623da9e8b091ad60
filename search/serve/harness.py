"""A loaded language model for lm-evaluation-harness (Biderman et al. 2024, arXiv 2405.14782).

The harness reads a task's data and sends requests, which the exported model answers under its own runtime.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from search.serve.exported_model import ExportedModel
    from spaces.generation.program import Program

HARNESS_INSTALL = 'pip install -e ".[lm-eval]"'
MOST_NEW_TOKENS = 256  # of an answer, where a task sets no limit


def harness(
    model: ExportedModel, tokenizer: Any, program: Program, limit: int, turn: Callable[[], AbstractContextManager[Any]]
) -> Any:
    """`model` as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate(model=...)`.

    Args:
        limit: the most tokens of a prompt with its answer.
        turn: what `program` is used inside of.

    Raises:
        ModuleNotFoundError: lm-eval is not installed.
    """
    try:
        template: Any = importlib.import_module("lm_eval.api.model").TemplateLM
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"lm-eval is not installed: {HARNESS_INSTALL}", name=error.name) from None

    class Loaded(Requests, template):  # type: ignore[misc]
        """A class of the harness, which is imported only here."""

    return Loaded(model, tokenizer, program, limit, turn)


class Requests:
    """The part of an LM that answers: log-likelihoods and greedy answers to `lm_eval.api.instance.Instance`s."""

    prefix_token_id: int  # given by TemplateLM

    def __init__(
        self,
        model: ExportedModel,
        tokenizer: Any,
        program: Program,
        limit: int,
        turn: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._model, self._program, self._limit, self._turn = model, program, limit, turn

    @property
    def tokenizer_name(self) -> str:
        return str(self._model.folder)

    @property
    def eot_token_id(self) -> int:
        tokenizer = self.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return list(self.tokenizer(string, add_special_tokens=bool(add_special_tokens))["input_ids"])

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        end = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, **end))

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return [self._scored(list(context), list(answer)) for _, context, answer in requests]

    def _scored(self, context: list[int], answer: list[int]) -> tuple[float, bool]:
        """(log-likelihood of `answer`, whether it is the greedy one)."""
        if len(answer) >= self._limit:
            raise ValueError(f"an answer must have at most {self._limit - 1} tokens, got {len(answer)}")
        ids = np.array([(context + answer)[-self._limit :]], dtype=np.int64)
        first = ids.shape[1] - len(answer)
        likelihood = self._model.output({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0, first:].sum()
        with self._turn():
            logits, cache = self._program.prefill(ids[:, :first], np.ones_like(ids[:, :first]))
            for position in range(first, ids.shape[1]):
                if int(logits[0].argmax()) != int(ids[0, position]):
                    return float(likelihood), False
                if position + 1 < ids.shape[1]:
                    logits = self._program.decode(ids[:, position], cache)
        return float(likelihood), True

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        return [self._rolling(text) for (text,) in (request.args for request in requests)]

    def _rolling(self, text: str) -> float:
        windows: Any = importlib.import_module("lm_eval.utils")
        # One token less than the context: what is scored is read too, behind the one token that comes before it.
        parts = windows.get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self._limit - 1, 1)
        pairs = [("", *windows.make_disjoint_window(part)) for part in parts]
        return sum(likelihood for likelihood, _ in self._loglikelihood_tokens(pairs))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._answer(*request.args) for request in requests]

    def _answer(self, context: str, options: dict[str, Any]) -> str:
        new = min(int(options.get("max_gen_toks", MOST_NEW_TOKENS)), self._limit - 1)
        until = options.get("until") or ()
        ids = self.tok_encode(context, add_special_tokens=True)
        prompt = context if len(ids) + new <= self._limit else self.tokenizer.decode(ids[new - self._limit :])
        warmth = float(options.get("temperature") or 0) if options.get("do_sample") else 0.0
        reply = self._model(prompt, max_new_tokens=new, temperature=warmth, stop=until, seed=0, return_full_text=False)
        return str(reply[0]["generated_text"])
