"""What does not fit a model is said before rows are read, with names and numbers; what is a bound is lowered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import tiny
import torch

from objectives import workload
from search.config.schema import RunConfig
from search.errors import UserError
from search.prepare.data import prepare_data
from search.prepare.model import describe_model
from search.prepare.model_facts import ModelFacts, check_fit, facts_of
from search.prepare.teacher import make_teacher
from search.tasks.encoded import read_encoded
from search.tasks.tokens import frame_of, load_tokenizer
from spaces.base import load_base
from spaces.families import known_model_types

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
NOTHING: Callable[[str, float], None] = lambda stage, done: None  # noqa: E731

Configure = Callable[..., RunConfig]


def checked(config: RunConfig) -> tuple[str, ...]:
    return check_fit(config, facts_of(Path(config.model.name), config))


def prepared(root: Path, config: RunConfig) -> tuple[Path, Path]:
    """(folder of the data, folder of the teacher)."""
    model, data, teacher = (root / name for name in ("stage-model", "stage-data", "stage-teacher"))
    for folder in (model, data, teacher):
        folder.mkdir()
    describe_model(model, config, NOTHING)
    prepare_data(data, config, model, NOTHING)
    make_teacher(teacher, config, data, "cpu", 1, root / "scratch", NOTHING)
    return data, teacher


# --- positions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", families.KINDS)
def test_a_model_takes_as_many_tokens_as_its_positions_say_and_no_more(
    tmp_path: Path, configured: Configure, kind: str
) -> None:
    folder = families.save(tmp_path / "model", kind, **LABELS)
    facts = facts_of(folder, configured(folder))
    assert facts.positions == families.KINDS[kind].positions
    frame = frame_of(load_tokenizer(folder), False)
    model, base = load_base(folder, "mine", "main", "auto", ("negative", "positive"), frame)

    def run(length: int) -> torch.Tensor:
        [batch, *_] = workload.inputs(workload.Workload(2, length), base.inputs, workload.Frame.of(frame))
        with torch.inference_mode():
            return model.eval()(**{name: torch.from_numpy(array) for name, array in batch.items()})

    assert run(facts.positions or 200).shape == (2, 2)
    if facts.positions is not None:
        with pytest.raises((IndexError, RuntimeError)):
            run(facts.positions + 1)


@pytest.mark.parametrize(("kind", "most"), [("bert", 64), ("roberta", 62), ("mpnet", 62), ("gpt2", 64), ("bart", 64)])
def test_timed_lengths_have_to_fit_the_positions(tmp_path: Path, configured: Configure, kind: str, most: int) -> None:
    folder = families.save(tmp_path / "model", kind, **LABELS)
    checked(configured(folder, f"workload.length={most}", f"objectives=[metric,latency_p50_ms/l{most}]"))
    with pytest.raises(
        UserError, match=rf"^--set workload.length: must be at most {most} tokens, .*\({kind}\), got 65"
    ):
        checked(configured(folder, "workload.length=65"))
    with pytest.raises(
        UserError, match=rf"^--set objectives: must be at most {most} .* got 4096 \(latency_p50_ms/l4096\)"
    ):
        checked(configured(folder, "objectives=[metric,latency_p50_ms/l4096]"))
    with pytest.raises(UserError, match=rf"limits.others.latency_p90_ms/b8-l80: must be at most {most} .* got 80"):
        checked(configured(folder, limits={"others": {"latency_p90_ms/b8-l80": 9.0}}))


def test_positions_without_a_table_bound_no_length(tmp_path: Path, configured: Configure) -> None:
    folder = families.save(tmp_path / "model", "qwen2", **LABELS)
    assert checked(configured(folder, "workload.length=4096", "data.max_length=4096")) == ()


@pytest.mark.parametrize(
    ("kind", "longest", "wanted", "cut"),
    [
        ("bert", None, 128, 64),
        ("roberta", None, 512, 62),
        ("roberta", 512, 512, 62),
        ("distilbert", 40, 128, 40),
        ("qwen2", None, 128, 128),
        ("qwen2", 30, 128, 30),
        ("bert", None, 20, 20),
    ],
)
def test_rows_are_cut_where_the_model_ends_with_a_note_and_an_export_cuts_alike(
    tmp_path: Path, configured: Configure, kind: str, longest: int | None, wanted: int, cut: int
) -> None:
    folder = families.save(tmp_path / "model", kind, longest=longest, **LABELS)
    text = " ".join(["a film is dull and noisy"] * 40)
    train = tiny.write_csv(tmp_path / "long.csv", [*tiny.sentences(40, 1), {"text": text, "label": "negative"}])
    config = configured(folder, f"data.train={train}", f"data.max_length={wanted}")
    data, teacher = prepared(tmp_path, config)
    notes = [note for note in json.loads((data / "data.json").read_text())["notes"] if "are cut at" in note]
    assert len(notes) == (cut < wanted) and all(f"cut at {cut} tokens" in note for note in notes)
    assert read_encoded(data / "train.npz")[0].lengths.max() == cut
    again = load_tokenizer(teacher)
    assert len(again(text, truncation=True)["input_ids"]) == cut


def test_a_limit_that_leaves_nothing_of_a_text_is_refused(tmp_path: Path, configured: Configure) -> None:
    folder = families.save(tmp_path / "model", "roberta", **LABELS)
    assert checked(configured(folder, "data.max_length=4"))[1:] == ()
    with pytest.raises(
        UserError, match=r"data.max_length: rows are cut at 4 .* 4 special tokens around a pair of texts"
    ):
        checked(configured(folder, "data.max_length=4", "data.text_pair=text"))
    short = families.save(tmp_path / "short", "bert", longest=2, **LABELS)
    with pytest.raises(UserError, match=r"cut at 2 tokens \(the tokenizer's model_max_length\).* 2 special tokens"):
        checked(configured(short))


# --- vocabulary ---------------------------------------------------------------------------------------------


def test_tokens_that_were_added_without_embeddings_are_refused_with_both_sizes(
    tmp_path: Path, configured: Configure
) -> None:
    for kind, rows, token in (("bert", 31, "film2"), ("gpt2", 257, "<|pad|>")):
        folder = families.save(tmp_path / kind, kind, **LABELS)
        tokenizer = families.tokenizer_of(kind)
        tokenizer.add_tokens([token])
        tokenizer.save_pretrained(folder)
        with pytest.raises(
            UserError,
            match=rf"model.name: the tokenizer has ids up to {rows}, and the model has {rows} token embeddings",
        ):
            checked(configured(folder))


def test_a_table_larger_than_the_tokenizer_is_fine(tmp_path: Path, configured: Configure) -> None:
    folder = families.save(tmp_path / "model", "bert", vocab_size=40, **LABELS)
    facts = facts_of(folder, configured(folder))
    assert (facts.tokens, facts.token_rows) == (31, 40)
    assert len(check_fit(configured(folder), facts)) == 1


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_rows_without_a_token_are_counted_and_refused(tmp_path: Path, configured: Configure, kind: str) -> None:
    folder = families.save(tmp_path / "model", kind, **LABELS)
    rows = [*tiny.sentences(40, 1), {"text": "", "label": "negative"}, {"text": "", "label": "positive"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r'data.text: 2 rows of train have no tokens, .* the first has the text ""'):
        prepared(tmp_path, configured(folder, f"data.train={tmp_path / 'train.jsonl'}"))


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path, configured: Configure) -> None:
    folder = families.save(tmp_path / "model", "bert", **LABELS)
    tokenizer = families.tokenizer_of("bert")
    tokenizer.add_tokens(["film2"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError) as caught:
        checked(configured(folder, "workload.length=100", "objectives=[metric,latency_p50_ms/l90]"))
    for part in ("workload.length: must be at most 64", "got 90 (latency_p50_ms/l90)", "ids up to 31"):
        assert part in str(caught.value)


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_with_a_decoder_needs_a_head_of_its_own(tmp_path: Path, configured: Configure, kind: str) -> None:
    with pytest.raises(UserError, match=rf"a model of type {kind} is an encoder with a decoder"):
        checked(configured(families.save(tmp_path / "bare", kind, classes=None)))
    own = families.save(tmp_path / "own", kind, **LABELS)
    checked(configured(own))
    with pytest.raises(UserError, match=rf"a model of type {kind} is an encoder with a decoder"):
        checked(configured(own, "model.head=mean"))


@pytest.mark.parametrize(
    ("problem", "classes", "message"),
    [
        (
            "multi_label_classification",
            3,
            r"several labels a text \(problem_type multi_label_classification, 3 labels\)",
        ),
        ("regression", 1, r"a number a text \(problem_type regression, 1 labels\)"),
        (None, 1, r"a number a text \(problem_type null, 1 labels\)"),
    ],
)
def test_a_head_for_another_problem_is_never_taken_for_a_classifier(
    tmp_path: Path, configured: Configure, problem: str | None, classes: int, message: str
) -> None:
    folder = families.save(tmp_path / "model", "bert", classes, problem_type=problem)
    with pytest.raises(UserError, match=message):
        checked(configured(folder, "model.problem_type=single_label_classification"))
    checked(configured(folder, "model.head=mean", "teacher.epochs=1"))


@pytest.mark.parametrize("kind", families.KINDS)
def test_a_model_of_a_known_family_has_a_shape_and_another_a_reason(
    tmp_path: Path, configured: Configure, kind: str
) -> None:
    folder = families.save(tmp_path / "model", kind, **LABELS)
    described = tmp_path / "described"
    described.mkdir()
    describe_model(described, configured(folder), NOTHING)
    if families.KINDS[kind].model_type in known_model_types():
        assert json.loads((described / "shape.json").read_text())["hidden"] == 32
    else:
        assert "is not known" in (described / "unknown.txt").read_text()


def test_facts_survive_their_folder(tmp_path: Path, configured: Configure) -> None:
    facts = facts_of(folder := families.save(tmp_path / "model", "bert", **LABELS), configured(folder))
    facts.write(tmp_path)
    assert ModelFacts.read(tmp_path) == facts


def test_texts_that_the_tokenizer_does_not_know_are_noted() -> None:
    from search.prepare.model_facts import unknown_note
    from search.tasks.tokens import encode

    def note(*texts: str) -> tuple[str, ...]:
        return unknown_note(tokenizer, encode(tokenizer, texts, None, 16), "train")

    tokenizer = tiny.word_tokenizer()
    assert note("a warm film") == note("a warm film and a dull plot with a score in " + "the " * 8 + "qwerty") == ()
    assert note("a qwerty film", "azerty") == ("50% of the tokens of train are unknown to the tokenizer ([UNK])",)
    tokenizer.eos_token = "[UNK]"
    assert note("azerty") == (), "one token for all that is special says nothing"
