"""Labels of the data become the right numbers, or the run is refused: names first, numbers next, guesses never."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from search.errors import UserError
from search.tasks.labels import Numbering, SplitLabels, number_labels
from search.tasks.trained_labels import TrainedLabels

BARE = ("LABEL_0", "LABEL_1")


def numbered(
    train: Sequence[Any],
    model: Sequence[str] | None = None,
    *,
    test: Sequence[Any] = (),
    listed: Sequence[str] | None = None,
    carried: Sequence[str] | None = None,
    trained_on: bool = False,
) -> Numbering:
    trained = None if model is None else TrainedLabels(tuple(model), trained_on)
    parts = {
        "train": SplitLabels("train.csv", tuple(train) * 20),
        "test": SplitLabels("test.csv", tuple(test) or tuple(train)),
    }
    return number_labels(parts, listed, carried, trained, lambda key: f"c.yaml: {key}")


def refusal(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        numbered(*arguments, **settings)
    assert str(caught.value).startswith("c.yaml: ")
    return str(caught.value)


# --- with a trained head ------------------------------------------------------------------------------------

NAMED: list[tuple[Sequence[Any], Sequence[str], dict[Any, int]]] = [
    (("good", "bad"), ("bad", "good"), {"bad": 0, "good": 1}),
    (("good", "bad"), ("BAD", "Good"), {"bad": 0, "good": 1}),
    (("not  spam ", "spam"), ("Spam", "not spam"), {"not  spam ": 1, "spam": 0}),
    (("caf\u00e9", "bar"), ("bar", "cafe\u0301"), {"caf\u00e9": 1, "bar": 0}),
    ((0, 1), ("1", "0"), {0: 1, 1: 0}),  # digits are names too
    ((1, 2, 3, 4), ("1", "2", "3", "4", "5"), {1: 0, 2: 1, 3: 2, 4: 3}),
    ((-1, 1), ("-1", "1"), {-1: 0, 1: 1}),
    (("LABEL_1", "LABEL_0"), BARE, {"LABEL_0": 0, "LABEL_1": 1}),
    (("true", "false"), ("False", "True"), {"true": 1, "false": 0}),
    (("US", "us"), ("us", "US"), {"us": 0, "US": 1}),
    ((0, 1), ("NEG", "POS"), {0: 0, 1: 1}),  # numbers where no name fits
    ((0, 1), BARE, {0: 0, 1: 1}),
    ((0, 2), ("NEG", "NEU", "POS"), {0: 0, 2: 2}),
    (("true", "false"), BARE, {"false": 0, "true": 1}),
]


@pytest.mark.parametrize(("labels", "model", "numbers"), NAMED)
@pytest.mark.parametrize("trained_on", [False, True])
def test_labels_have_the_numbers_that_the_model_knows_them_by(
    labels: Any, model: Any, numbers: dict[Any, int], trained_on: bool
) -> None:
    numbering = numbered(labels, model, trained_on=trained_on)
    assert dict(numbering.numbers) == numbers
    assert numbering.names == tuple(model)


def test_what_is_not_an_exact_name_is_noted() -> None:
    assert numbered(("good", "bad"), ("bad", "good")).notes == ()
    assert "good is GOOD" in numbered(("good", "bad"), ("bad", "GOOD")).notes[0]
    assert "0 is NEG, 1 is POS" in numbered((0, 1), ("NEG", "POS")).notes[0]


@pytest.mark.parametrize(
    ("labels", "model"),
    [
        (("good", "bad"), ("A", "B")),
        (("good", "bad"), ("good", "B")),
        ((0, 1), ("1", "2")),  # one digit is a name: then both must be
        ((0, 1, 2, 3, 4), ("1", "2", "3", "4", "5")),
        ((1, 2), ("NEG", "POS")),
        ((-1, 1), BARE),
        (("Us", "them"), ("US", "us")),
    ],
)
def test_labels_that_do_not_fit_the_model_are_refused(labels: Any, model: Any) -> None:
    assert "data.label_names" in refusal(labels, model)


@pytest.mark.parametrize(
    ("labels", "model"), [((0, 1, 2), BARE), (("a", "b", "c"), ("a", "b")), (("a", "b"), ("LABEL_0",))]
)
@pytest.mark.parametrize("trained_on", [False, True])
def test_more_labels_than_the_model_has_are_refused(labels: Any, model: Any, trained_on: bool) -> None:
    message = refusal(labels, model, trained_on=trained_on)
    assert f"the model has {len(model)} labels" in message and "set model.head: mean" in message


def test_a_label_that_only_test_has_is_fine_if_the_model_knows_it() -> None:
    numbering = numbered(("good", "bad"), ("bad", "good", "Mixed"), test=("mixed",))
    assert numbering.numbers["mixed"] == 2
    assert numbered((0, 1), ("A", "B", "C"), test=(2,)).numbers[2] == 2
    assert 'the data have "odd"' in refusal(("good", "bad"), ("bad", "good"), test=("odd",))
    assert 'test has labels that train has not: "odd"' in refusal(("good", "bad"), test=("odd",))
    assert 'the data have "odd"' in refusal(
        ("good", "bad"), ("LABEL_0", "LABEL_1", "LABEL_2"), test=("odd",), trained_on=True
    )


def test_the_order_of_words_is_never_assumed_for_a_model_without_names() -> None:
    message = refusal(("positive", "negative"), BARE)
    assert message.startswith("c.yaml: data.label_names: missing: ") and "LABEL_0 to LABEL_1" in message
    assert refusal((1, 2), BARE).startswith("c.yaml: data.label_names: missing: ")
    numbering = numbered(("positive", "negative"), BARE, listed=("positive", "negative"))
    assert numbering.numbers == {"positive": 0, "negative": 1} and numbering.names == ("positive", "negative")


def test_training_makes_the_alphabetical_order_true_and_a_note_says_so() -> None:
    numbering = numbered(("positive", "negative"), BARE, trained_on=True)
    assert numbering.numbers == {"negative": 0, "positive": 1} and "as it is trained further" in numbering.notes[0]
    assert numbered((2, 1), BARE, trained_on=True).numbers == {1: 0, 2: 1}


def test_a_data_set_that_numbers_its_names_gives_a_nameless_model_the_order() -> None:
    numbering = numbered(("neg", "pos"), BARE, carried=("pos", "neg"))
    assert numbering.numbers == {"pos": 0, "neg": 1} and numbering.names == ("pos", "neg")
    assert "LABEL_2" in refusal(("neg", "pos"), ("LABEL_0", "LABEL_1", "LABEL_2"), carried=("pos", "neg"))


def test_label_names_are_the_models_order_where_its_names_say_nothing_of_the_datas() -> None:
    numbering = numbered(("down", "up"), ("POS", "NEG"), listed=("up", "down"))
    assert numbering.numbers == {"up": 0, "down": 1} and numbering.names == ("POS", "NEG")
    three = numbered(("down", "up"), ("A", "B", "C"), listed=("up", "flat", "down"))
    assert three.numbers == {"up": 0, "down": 2}
    stars = numbered((0, 1, 2), ("1", "2", "3"), listed=("0", "1", "2"))
    assert stars.numbers == {0: 0, 1: 1, 2: 2}
    assert "must be 3 names" in refusal(("down", "up"), ("A", "B", "C"), listed=("up", "down"))


def test_label_names_against_the_models_own_names_are_refused() -> None:
    message = refusal(("negative", "positive"), ("positive", "negative"), listed=("negative", "positive"))
    assert "data.label_names: must be left out or in the order of the model's own labels" in message
    assert numbered(("negative", "positive"), ("NEGATIVE", "POSITIVE"), listed=("negative", "positive")).numbers == {
        "negative": 0,
        "positive": 1,
    }
    named = numbered((0, 1), ("positive", "negative"), listed=("negative", "positive"))  # they name bare numbers
    assert named.numbers == {0: 1, 1: 0}


# --- without one --------------------------------------------------------------------------------------------


def test_label_names_are_an_order_and_never_a_renaming() -> None:
    numbering = numbered(("negative", "positive"), listed=("positive", "negative"))
    assert numbering.numbers == {"positive": 0, "negative": 1} and numbering.names == ("positive", "negative")
    assert numbered((0, 1), listed=("1", "0")).numbers == {0: 1, 1: 0}
    for listed in (("bad", "good"), ("negative", "good"), ("positive",)):
        assert "must be" in refusal(("negative", "positive"), listed=listed)


def test_label_names_name_bare_numbers() -> None:
    assert numbered((0, 1), listed=("down", "up")).names == ("down", "up")
    assert numbered((1, 2), listed=("down", "up")).numbers == {1: 0, 2: 1}
    assert numbered((-1, 1), listed=("down", "up")).numbers == {-1: 0, 1: 1}
    assert "must be 3 different names, for 1, 2, 3" in refusal((1, 2, 3), listed=("down", "up"))
    assert "must be 2 different names" in refusal((0, 1), listed=("down", "flat", "up"))


def test_a_data_set_that_numbers_its_names_gives_their_order() -> None:
    assert numbered(("neg", "pos"), carried=("pos", "unused", "neg")).names == ("pos", "neg")


def test_spellings_of_one_label_are_one_class_and_noted() -> None:
    numbering = numbered(("Negative", "negative", "negative", "positive ", "positive", "positive"))
    assert numbering.names == ("negative", "positive")
    assert numbering.numbers == {"Negative": 0, "negative": 0, "positive": 1, "positive ": 1}
    assert len(numbering.notes) == 2 and '"Negative", "negative" are one class, "negative"' in numbering.notes[0]


def test_spaces_around_a_label_are_no_part_of_its_name() -> None:
    numbering = numbered((" neg", "pos "))
    assert numbering.names == ("neg", "pos") and numbering.numbers == {" neg": 0, "pos ": 1} and numbering.notes == ()


def test_spellings_that_are_listed_stay_apart() -> None:
    numbering = numbered(("US", "us", "them"), listed=("US", "them", "us"))
    assert numbering.numbers == {"US": 0, "them": 1, "us": 2} and numbering.notes == ()


def test_a_spelling_that_only_test_has_is_its_class_in_train() -> None:
    numbering = numbered(("negative", "positive"), test=("NEGATIVE", "positive"))
    assert numbering.numbers["NEGATIVE"] == numbering.numbers["negative"] == 0 and len(numbering.notes) == 1
