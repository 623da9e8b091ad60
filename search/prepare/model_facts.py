"""Limits of a model and its tokenizer, and checks of a configuration against them before rows are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from objectives.workload import Workload, marked, other
from search.config.schema import RunConfig
from search.errors import UserError
from search.tasks import task_of
from search.tasks.task import Part
from search.tasks.tokens import Encoded, frame_of, load_tokenizer
from spaces.loading import ModelError, model_config, positions_of, reading

MODEL_FACTS_FILE = "facts.json"
#: Share of unknown tokens from which a note says so.
UNKNOWN_SHARE = 0.1


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model and of its tokenizer."""

    model_type: str
    architectures: tuple[str, ...]
    positions: int | None  # most tokens a row may have; None: no limit
    token_rows: int  # of the table of token embeddings
    own_head: bool  # whether the architecture has the task's head
    encoder_decoder: bool
    problem_type: str | None  # of its head, as transformers calls it
    outputs: int  # of its head
    tokens: int  # of the tokenizer: its ids are below this
    cut: int | None  # tokens at which the tokenizer truncates; None: it does not
    special: tuple[int, int]  # tokens that the tokenizer puts around a text, and around a pair of texts

    def write(self, folder: Path) -> None:
        """Write `facts.json`."""
        (folder / MODEL_FACTS_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> ModelFacts:
        """The facts that `write` wrote."""
        facts: Mapping[str, Any] = json.loads((folder / MODEL_FACTS_FILE).read_text())
        lists = {name: tuple(facts[name]) for name in ("architectures", "special")}
        return cls(**{**facts, **lists})


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turn a ModelError inside the block into a UserError at `where`, the setting that names the model."""
    try:
        yield
    except ModelError as error:
        raise UserError(f"{where}: {error}") from error


def outline(folder: Path, name: str) -> Any:
    """The transformers model without its head and without memory for its weights; `name` is the configured one.

    Raises:
        ModelError: its config.json cannot be read, or describes no model.
    """
    import torch
    from transformers import AutoModel

    described = model_config(folder, name)
    with reading(f"the config.json of {name!r} describes no model"), torch.device("meta"):
        return AutoModel.from_config(described, trust_remote_code=False)


def facts_of(folder: Path, config: RunConfig) -> ModelFacts:
    """The facts of the model in `folder`, from its config.json and its tokenizer, without its weights.

    Raises:
        UserError: the configuration or the tokenizer cannot be used.
    """
    from spaces.base import has_own_head

    name, where = config.model.name, config.where("model.name")
    with blaming(where):
        model = outline(folder, name)
        with reading(f"the model {name!r} has no table of token embeddings"):
            rows = int(model.get_input_embeddings().num_embeddings)
    tokenizer = load_tokenizer(folder, where)
    frames = [frame_of(tokenizer, pairs) for pairs in (False, True)]
    described = model.config
    return ModelFacts(
        model_type=str(described.model_type),
        architectures=tuple(described.architectures or ()),
        positions=_positions(model, task_of(config).generates),
        token_rows=rows,
        own_head=has_own_head(described, task_of(config).own_head),
        encoder_decoder=bool(getattr(described, "is_encoder_decoder", False)),
        problem_type=described.problem_type,
        outputs=int(described.num_labels),
        tokens=int(frames[0]["vocabulary"]),
        cut=int(tokenizer.model_max_length) if tokenizer.model_max_length < 10**9 else None,
        special=tuple(sum(map(len, frame["around"])) for frame in frames),  # type: ignore[arg-type]
    )


def _positions(model: Any, generates: bool) -> int | None:
    """Most tokens a row may have. Rotary positions have no table, but what is generated beyond the context is noise."""
    rows = positions_of(model)
    context = getattr(model.config, "max_position_embeddings", None)
    return int(context) if rows is None and generates and context else rows


def check_fit(config: RunConfig, facts: ModelFacts) -> tuple[str, ...]:
    """Notes about truncation, after checking that the configuration fits the model.

    An upper bound (`data.max_length`) is lowered to the model's limit, with a note; an exact size (`workload.length`,
    the tokenizer's ids) must fit.

    Raises:
        UserError: all problems, with names and numbers.
    """
    problems = [*_head_problems(config, facts), *_length_problems(config, facts)]
    if facts.tokens > facts.token_rows:
        problems.append(
            f"{config.where('model.name')}: the tokenizer has ids up to {facts.tokens - 1}, and the model has "
            f"{facts.token_rows} token embeddings; where tokens were added, the embeddings must be resized: "
            f"model.resize_token_embeddings({facts.tokens})"
        )
    if problems:
        raise UserError("; ".join(problems))
    limit, reason = longest_row(config, facts)
    if limit == config.data.max_length:
        return ()
    return (f"rows are cut at {limit} tokens, {reason}; data.max_length is {config.data.max_length}",)


def check_tokens(encoded: Encoded, part: Part, name: str, config: RunConfig) -> None:
    """Raise UserError where a row has no tokens."""
    empty = np.flatnonzero(encoded.lengths == 0)
    if len(empty):
        raise UserError(
            f"{config.where('data.text')}: {len(empty)} rows of {name} have no tokens, and this tokenizer adds none; "
            f"the first has {part.shown(int(empty[0]))}; leave them out"
        )


def unknown_note(tokenizer: Any, encoded: Encoded, name: str) -> tuple[str, ...]:
    """A note where many tokens of the split `name` are the token for unknown ones; none for a tokenizer without one.

    A model that has been given another model's tokenizer reads hardly anything else.
    """
    unknown = tokenizer.unk_token_id
    others = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    if unknown is None or unknown in others:  # GPT-2 has one token for all of them
        return ()
    ids = np.concatenate(encoded.columns["input_ids"])
    of_texts = ids[~np.isin(ids, sorted({*tokenizer.all_special_ids} - {unknown}))]
    share = float((of_texts == unknown).mean()) if len(of_texts) else 0.0
    if share < UNKNOWN_SHARE:
        return ()
    return (f"{share:.0%} of the tokens of {name} are unknown to the tokenizer ({tokenizer.unk_token})",)


def cut_note(config: RunConfig, facts: ModelFacts, encoded: Encoded, name: str) -> tuple[str, ...]:
    """A note of how many texts of `name` are as long as a row can be: those that were cut, and a few whole ones.

    None where all are shorter, and for a task that reads long texts in windows.
    """
    task = task_of(config)
    limit, reason = longest_row(config, facts)
    longest = int((encoded.lengths >= limit).sum())
    if not longest or task.slides or task.generates:
        return ()
    return (f"{longest:,} of {len(encoded):,} texts of {name} fill {limit} tokens ({reason}); what is longer is cut",)


def longest_row(config: RunConfig, facts: ModelFacts) -> tuple[int, str]:
    """The length at which rows are cut, and the setting or file that determines it."""
    limits = [(config.data.max_length, "data.max_length")]
    if facts.cut is not None:
        limits.append((facts.cut, "the tokenizer's model_max_length"))
    if facts.positions is not None:
        limits.append((facts.positions, f"the positions of the model ({facts.model_type})"))
    return min(limits, key=lambda limit: limit[0])


def _head_problems(config: RunConfig, facts: ModelFacts) -> Iterator[str]:
    where = config.where("model.name")
    own = config.model.head == "auto" and facts.own_head
    if facts.encoder_decoder and not own:
        yield (
            f"{where}: a model of type {facts.model_type} is an encoder with a decoder, which can be used only with a "
            f"classification head of its own (architectures: {', '.join(facts.architectures) or 'none'})"
        )
    task = task_of(config)
    if config.model.head != "auto" and not task.labelled:
        yield f"{config.where('model.head')}: must be auto for {task.name}, got {config.model.head}"
    if config.teacher.epochs > 0 and not task.supervised:
        yield (
            f"{config.where('teacher.epochs')}: must be 0 for {task.name}, which has no labels to train by, "
            f"got {config.teacher.epochs:g}"
        )
    unusable = task.unusable(facts.problem_type, facts.outputs) if own else ""
    if unusable:
        yield f"{where}: {unusable}"


def _length_problems(config: RunConfig, facts: ModelFacts) -> Iterator[str]:
    paired = task_of(config).paired(config.data)
    special = facts.special[paired]
    limit, reason = longest_row(config, facts)
    if limit <= special:
        what = "a pair of texts" if paired else "a text"
        yield (
            f"{config.where('data.max_length')}: rows are cut at {limit} tokens ({reason}), and the tokenizer puts "
            f"{special} special tokens around {what}: nothing is left of it"
        )
    if facts.positions is None:
        return
    main = Workload(config.workload.batch, config.workload.length)
    new = config.workload.new_tokens or 0  # of a call that generates: they follow the prompt
    if new >= facts.positions:
        yield (
            f"{config.where('workload.new_tokens')}: must be less than the {facts.positions} tokens that are the "
            f"positions of the model ({facts.model_type}), got {new}"
        )
        return
    named = [("workload.prompt" if new else "workload.length", config.workload.length, "")]
    for key, names in (("objectives", config.objectives), ("limits.others.{}", config.limits.others)):
        marks = [(key.format(name), other(main, marked(name)[1]).length, f" ({name})") for name in names if "/" in name]
        named += [mark for mark in marks if mark[1] != main.length]
    for key, length, name in named:
        if length != "data" and length + new > facts.positions:
            before = f" less workload.new_tokens ({new})" if new else ""
            yield (
                f"{config.where(key)}: must be at most {facts.positions - new} tokens, the positions of the model "
                f"({facts.model_type}){before}, got {length}{name}"
            )
