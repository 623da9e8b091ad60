"""How many classes a column may have before it is none, and whose order they have where only some have numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from search.errors import UserError
from search.tasks.labels import SplitLabels, number_labels
from search.tasks.trained_labels import Label


def classes_of(labels: Sequence[Label], carried: Sequence[str] | None = None) -> tuple[str, ...]:
    return number_labels({"train": SplitLabels("train.csv", labels)}, None, carried, None, str).names


@pytest.mark.parametrize(("rows", "most"), [(10, 10), (16, 10), (40, 20)])
def test_up_to_ten_classes_or_half_as_many_as_rows_are_classes(rows: int, most: int) -> None:
    names = [f"class {n:02}" for n in range(most)]
    assert len(classes_of([names[row % most] for row in range(rows)])) == most
    more = [*names, "one more"]
    with pytest.raises(UserError, match=f"must hold classes, got {most + 1} different values in {2 * most + 1} rows"):
        classes_of([more[row % len(more)] for row in range(2 * most + 1)])


def test_numbers_that_are_no_classes_are_told_of_regression_and_words_are_not() -> None:
    with pytest.raises(UserError, match="problem_type: regression"):
        classes_of(range(100))
    with pytest.raises(UserError) as caught:
        classes_of([f"text {n}" for n in range(100)])
    assert "regression" not in str(caught.value)


def test_names_that_a_data_set_numbers_in_part_are_in_the_order_of_the_alphabet() -> None:
    assert classes_of(("neg", "pos", "neu") * 5, carried=("pos", "neg")) == ("neg", "neu", "pos")
    assert classes_of(("neg", "pos") * 5, carried=("pos", "neg")) == ("pos", "neg")
