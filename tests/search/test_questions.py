"""Questions come out of files with answers that stand in their contexts; what is no usable row is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.config.source import embedded
from search.errors import UserError
from search.tasks.questions import QuestionData, Questions, read_questions

CONTEXT = "The cat sat on the mat. The dog sat on the cat."


def row(number: int, **changes: Any) -> dict[str, Any]:
    """Question `number`; three questions share a context."""
    context = f"Story {number // 3}: {CONTEXT}"
    start = context.index("mat")
    return {
        "id": f"q{number}",
        "question": f"Where did cat {number} sit?",
        "context": context,
        "answers": {"text": ["mat", "the mat"], "answer_start": [start, start - 4]},
        **changes,
    }


ROWS = [row(i) for i in range(300)]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    import pyarrow
    from pyarrow import parquet

    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        import csv

        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "answers": json.dumps(row["answers"])} for row in rows)
    return str(path)


def read(train: str, **settings: Any) -> tuple[Questions, Questions, Questions, tuple[str, ...]]:
    return read_questions(QuestionData(train=train, **settings), lambda key: f"c.yaml: {key}")


def read_three(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> tuple[Questions, tuple[str, ...]]:
    """(train, notes) of `rows`, with the other splits given."""
    others = {
        split: written(folder, [row(900 + 3 * i, id="x")], f"{split}.jsonl")
        for i, split in enumerate(("validation", "test"))
    }
    train, _, _, notes = read(written(folder, rows), **others, **settings)
    return train, notes


def refusal(folder: Path, *rows: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_three(folder, list(rows), **settings)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["json", "parquet", "csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    expected, actual = read(written(tmp_path, ROWS)), read(written(tmp_path, ROWS, f"other.{kind}"))
    assert actual[:3] == expected[:3]
    assert [part.digest for part in actual[:3]] == [part.digest for part in expected[:3]]


def test_rows_are_those_of_the_file(tmp_path: Path) -> None:
    train, notes = read_three(tmp_path, ROWS)
    assert notes == ()
    assert len(train) == 300 and train.ids == tuple(f"q{i}" for i in range(300))
    assert train.answers[7] == ("mat", "the mat")
    for context, answers, starts in zip(train.contexts, train.answers, train.starts, strict=True):
        assert [context[s : s + len(a)] for s, a in zip(starts, answers, strict=True)] == list(answers)


def test_columns_may_have_other_names_and_ids_may_be_missing(tmp_path: Path) -> None:
    rows = [{"q": r["question"], "c": r["context"], "a": r["answers"]} for r in ROWS]
    train, _, _, notes = read(written(tmp_path, rows), question="q", context="c", answers="a")
    expected, _, _, _ = read(written(tmp_path, ROWS))
    assert (train.questions, train.contexts, train.answers) == (
        expected.questions,
        expected.contexts,
        expected.answers,
    )
    assert train.ids == tuple(str(ROWS.index(row(int(q.split()[3]))) + 1) for q in train.questions)
    assert len(notes) == 2  # of the two splits that were cut


def test_questions_without_an_answer_have_empty_tuples(tmp_path: Path) -> None:
    train, _ = read_three(tmp_path, [row(0, answers={"text": [], "answer_start": []}), row(1)])
    assert train.answers[0] == () and train.starts[0] == ()
    assert train.answers[1] == ("mat", "the mat")


def test_the_digest_is_of_every_field(tmp_path: Path) -> None:
    base, _ = read_three(tmp_path, ROWS[:2])
    fields = ("ids", "questions", "contexts", "answers", "starts")
    values = ("other", "other", "other", ("mat",), (1, 2))
    for field, value in zip(fields, values, strict=True):
        arguments = {name: getattr(base, name) for name in fields}
        arguments[field] = (value, arguments[field][1])
        assert Questions(**arguments).digest != base.digest
    assert re.fullmatch("[0-9a-f]{16}", base.digest)
    assert base.rows(np.array([0, 1])).digest == base.digest != base.rows(np.array([1, 0])).digest


# --- Splits -------------------------------------------------------------------------------------------------


def test_missing_splits_are_cut_by_context(tmp_path: Path) -> None:
    *parts, notes = read(written(tmp_path, ROWS))
    contexts = [set(part.contexts) for part in parts]
    assert sum(map(len, parts)) == 300 and sum(map(len, contexts)) == 100  # none in two of them
    assert all(contexts)
    sizes = [len(part) for part in parts]
    assert notes == tuple(
        f"no {split} split: {size} rows were cut from train by hash of the context"
        for split, size in zip(("validation", "test"), sizes[1:], strict=True)
    )
    shuffled = [ROWS[i] for i in np.random.default_rng(0).permutation(300)]
    again = read(written(tmp_path, shuffled, "shuffled.jsonl"))
    assert [set(part.ids) for part in again[:3]] == [set(part.ids) for part in parts]


def test_contexts_in_two_given_splits_are_counted(tmp_path: Path) -> None:
    validation = written(tmp_path, ROWS[6:15], "validation.jsonl")  # contexts 2, 3 and 4
    test = written(tmp_path, ROWS[12:21], "test.jsonl")  # contexts 4, 5 and 6
    *_, notes = read(written(tmp_path, ROWS[:9]), validation=validation, test=test)  # contexts 0, 1 and 2
    assert notes == (
        "1 of 3 contexts of validation are in train too: its figures will be too good",
        "1 of 3 contexts of test are in validation too: its figures will be too good",
    )


def test_a_data_set_of_the_hub_gives_the_rows_that_a_file_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    asked: list[Any] = []

    def load_dataset(*name: Any, **settings: Any) -> Dataset:
        asked.append((*name, settings))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("train", name="org/squad")[:3] == read(written(tmp_path, ROWS))[:3]
    assert asked == [("org/squad", None, {"split": "train", "trust_remote_code": False})]


def test_too_few_contexts_to_cut_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c.yaml: data.(validation|test): missing, and 3 rows of .* are too few"):
        read(written(tmp_path, ROWS[:3]))


def test_a_limit_takes_that_many_rows_of_each_split(tmp_path: Path) -> None:
    whole, some = read(written(tmp_path, ROWS)), read(written(tmp_path, ROWS), limit=10)
    for part, limited in zip(whole[:3], some[:3], strict=True):
        assert len(limited) == 10 and set(limited.ids) < set(part.ids)
        assert sorted(limited.ids, key=part.ids.index) == list(limited.ids)


# --- Answers that do not stand where they say ---------------------------------------------------------------


@pytest.mark.parametrize("text", ["dog", "cat", "horse"])  # once in the context, twice, and not in it
def test_a_row_with_an_answer_that_is_not_where_it_says_is_dropped_and_counted(tmp_path: Path, text: str) -> None:
    wrong = row(1, answers={"text": ["mat", text], "answer_start": [row(1)["context"].index("mat"), 1]})
    train, notes = read_three(tmp_path, [row(0), wrong, row(2)])
    assert train.ids == ("q0", "q2")
    assert notes == ("1 rows of rows.jsonl dropped: their answers do not stand where answer_start says",)


def test_a_repeated_answer_stays_where_it_says(tmp_path: Path) -> None:
    last = row(0)["context"].rindex("cat")
    train, notes = read_three(tmp_path, [row(0, answers={"text": ["cat"], "answer_start": [last]})])
    assert train.starts == ((last,),) and notes == ()


def test_a_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, row(0, answers={"text": ["horse"], "answer_start": [0]}))
    assert re.search(r"c.yaml: data.answers: .*rows.jsonl: in no row do the answers stand where", message)


def test_the_embedded_questions_whose_answers_are_not_where_they_say_are_counted() -> None:
    from pyarrow import parquet

    folder = embedded().parent / "question_answering"
    files = {split: str(folder / f"{split}.parquet") for split in ("train", "validation", "test")}
    *parts, notes = read(files.pop("train"), **files)
    rows = [row for path in folder.glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    misplaced = 0
    for one in rows:
        places = zip(one["answers"]["text"], one["answers"]["answer_start"], strict=True)
        misplaced += not all(one["context"].startswith(text, start) for text, start in places)
    dropped = sum(int(match[1]) for note in notes if (match := re.match(r"(\d+) rows of \w+\.parquet dropped", note)))
    assert dropped == misplaced == 10  # the README beside them
    assert sum(map(len, parts)) == len(rows) - dropped


# --- Refusals -----------------------------------------------------------------------------------------------

MAPPING = r"must hold mappings \{text: \[...\], answer_start: \[...\]\}"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"question": None}, r'data.question: column "question" of .*rows.jsonl must hold text, got a missing value'),
    ({"question": ""}, r'data.question: column "question" of .*rows.jsonl must not be empty, got ""'),
    ({"context": " \n"}, r'data.context: column "context" of .*rows.jsonl must not be empty, got " \\n"'),
    ({"context": ["x"]}, r'data.context: column "context" of .*rows.jsonl must hold text, got \["x"\]'),
    ({"answers": None}, rf'data.answers: column "answers" of .*rows.jsonl {MAPPING}, got a missing value'),
    ({"answers": "mat"}, rf'{MAPPING}, got "mat"'),
    ({"answers": 5}, rf"{MAPPING}, got 5"),
    ({"answers": [{"text": "mat", "answer_start": 3}]}, rf"{MAPPING}, got \[\{{"),
    ({"answers": {"text": ["mat"]}}, rf"{MAPPING}, got \{{"),
    ({"answers": {"text": "mat", "answer_start": 3}}, rf"{MAPPING}, got \{{"),
    ({"answers": {"text": ["a", "b"], "answer_start": [1]}}, "must have as many answer_start as text, got 1 and 2"),
    ({"answers": {"text": [None], "answer_start": [1]}}, r"must hold text that is not empty .*, got a missing value"),
    ({"answers": {"text": [""], "answer_start": [1]}}, r'must hold text that is not empty .*, got ""'),
    ({"answers": {"text": ["mat"], "answer_start": [-1]}}, "must have whole numbers from 0 as answer_start, got -1"),
    ({"answers": {"text": ["mat"], "answer_start": [1.5]}}, "must have whole numbers .*, got 1.5"),
    ({"answers": {"text": ["mat"], "answer_start": [True]}}, "must have whole numbers .*, got true"),
    ({"answers": {"text": ["mat"], "answer_start": ["1"]}}, 'must have whole numbers .*, got "1"'),
    ({"id": None}, r'data.train: column "id" of .*rows.jsonl must hold text, got a missing value'),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_an_unusable_row_is_refused_by_file_column_row_and_value(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert re.search(rf"^c.yaml: .*{message}.* in row 3$", refusal(tmp_path, row(0), row(1), row(2, **changes)))


def test_an_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, row(0), row(1), row(2), row(3, id="q1"))
    assert re.search(r'^c.yaml: data.train: column "id" of .* must differ .*, got "q1" in rows 2 and 4$', message)


def test_a_missing_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    message = refusal(tmp_path, row(0), context="contexts")
    assert re.search(r'^c.yaml: data.context: in .* unknown column "contexts"; did you mean "context"', message)
