"""What does not fit a model is said before rows are read, with names and numbers; what is a bound is lowered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import tiny
import torch
import yaml

from objectives import workload
from search.config.load import load
from search.config.schema import RunConfig
from search.errors import UserError
from search.prepare.data import prepare_data
from search.prepare.folders import frame_in, input_names
from search.prepare.model import describe_model
from search.prepare.model_facts import ModelFacts, check_fit, facts_of
from search.prepare.teacher import make_teacher
from search.space.choices import names
from search.tasks.encoded import read_encoded
from search.tasks.tokens import frame_of, load_tokenizer
from spaces import build
from spaces.base import load_base
from spaces.families import known_model_types

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
NOTHING: Callable[[str, float], None] = lambda stage, done: None  # noqa: E731

Configure = Callable[..., RunConfig]


@pytest.fixture
def configured(tmp_path: Path, tiny_data: Path) -> Configure:
    """A configuration over the tiny data and a model that is trained already."""

    def make(model: Path, *overrides: str, **changes: Any) -> RunConfig:
        data = {
            "train": str(tiny_data / "train.csv"),
            "validation": str(tiny_data / "validation.jsonl"),
            "test": str(tiny_data / "test.parquet"),
        }
        written = {"model": {"name": str(model)}, "task": "classification", "data": data, "teacher": {"epochs": 0}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**written, **changes}))
        return load(tmp_path / "c.yaml", overrides, names())

    return make


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


# --- inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", families.KINDS)
def test_a_model_is_timed_on_rows_framed_by_its_tokenizer(tmp_path: Path, configured: Configure, kind: str) -> None:
    """Special tokens stand where the tokenizer puts them and nowhere else, padding at the right end; and it runs."""
    folder = families.save(tmp_path / "model", kind, **LABELS)
    _, teacher = prepared(tmp_path, configured(folder))
    tokenizer = families.tokenizer_of(kind)
    real = tokenizer("film", add_special_tokens=True)["input_ids"]
    bare = tokenizer("film", add_special_tokens=False)["input_ids"]
    at = next(i for i in range(len(real)) if real[i : i + len(bare)] == bare)
    before, behind = real[:at], real[at + len(bare) :]
    special = {*tokenizer.all_special_ids}
    batches = workload.inputs(workload.Workload(4, "data", 1), input_names(teacher), frame_in(teacher), range(5, 30))
    model = build.load(teacher)
    for batch in batches:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            row = ids[mask == 1].tolist()
            assert row[: len(before)] == before and row[len(row) - len(behind) :] == behind
            inside = row[len(before) : len(row) - len(behind)]
            assert inside and not special & set(inside) and max(inside) < len(tokenizer)
            assert set(ids[mask == 0].tolist()) <= {load_tokenizer(teacher).pad_token_id}
        with torch.inference_mode():
            assert model(**{n: torch.from_numpy(a) for n, a in batch.items()}).isfinite().all()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "mistral", "opt"])
def test_the_models_padding_token_is_that_of_its_tokenizer(tmp_path: Path, configured: Configure, kind: str) -> None:
    """Where config.json names none, and where it names another: a row answers alike alone and padded in a batch."""
    from transformers import AutoModelForSequenceClassification

    for number, pad in enumerate((None, 5)):
        root = tmp_path / str(number)
        folder = families.save(root / "model", kind, **LABELS, pad_token_id=pad)
        _, teacher = prepared(root, configured(folder))
        tokenizer = load_tokenizer(teacher)
        assert (
            json.loads((teacher / "config.json").read_text())["base"]["config"]["pad_token_id"]
            == tokenizer.pad_token_id
        )
        theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        texts = ["a film is dull", "the plot of the film is clever and bright and warm"]
        batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            ours = build.load(teacher)(**{n: batch[n] for n in input_names(teacher)})
            alone = torch.cat([theirs(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)


def test_a_pair_is_timed_as_a_pair(tmp_path: Path, configured: Configure) -> None:
    for kind, types in (("bert", [0, 0, 0, 0, 1, 1, 1]), ("roberta", None), ("bert-untyped", None)):
        folder = families.save(tmp_path / kind / "model", kind, **LABELS)
        _, teacher = prepared(tmp_path / kind, configured(folder, "data.text_pair=text"))
        inputs = input_names(teacher)
        [batch, *_] = workload.inputs(workload.Workload(1, 7), inputs, frame_in(teacher))
        row = batch["input_ids"][0]
        marks = [at for at, number in enumerate(row) if number in (0, 2)]
        assert marks == ([0, 3, 6] if kind != "roberta" else [0, 3, 4, 6])
        assert ("token_type_ids" in inputs) is (types is not None)
        if types is not None:
            assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1][: len(row)]


def test_a_model_whose_answer_depends_on_padding_is_refused(tmp_path: Path, configured: Configure) -> None:
    """XLNet reads its answer at the last token, and its tokenizer pads at the left."""
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(vocab_size=31, d_model=32, n_layer=1, n_head=4, d_inner=64, pad_token_id=1, **LABELS)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path / "model")
    families.word_tokenizer("xlnet", types=True).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="answers otherwise where a row is padded at its right"):
        prepared(tmp_path, configured(tmp_path / "model"))


def test_a_model_that_does_not_take_its_tokenizers_tokens_is_refused_before_it_is_trained(
    tmp_path: Path, configured: Configure
) -> None:
    """A third token type, which the model's table has no row for."""
    folder = families.save(tmp_path / "model", "bert", **LABELS)
    families.word_tokenizer("xlnet", types=True).save_pretrained(folder)
    with pytest.raises(UserError, match=r"model.name: the model '.*' does not run on its tokenizer's tokens: "):
        prepared(tmp_path, configured(folder))


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
