"""Exact match and F1 are those of SQuAD's scripts, on cases worked out by hand."""

from __future__ import annotations

import pytest

from search.tasks.squad import exact_match, f1, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Denver Broncos", "denver broncos"),
        ("the a an", ""),
        ("an apple a day", "apple day"),
        ("Thea and Anna", "thea and anna"),  # articles are whole words
        ("a-b", "ab"),  # punctuation goes first, and nothing takes its place
        ("Levi's Stadium!", "levis stadium"),
        ("24–10", "24–10"),  # a dash that is not ASCII stays
        ("  two\n\twords\u00a0here ", "two words here"),
        ("U.S.", "us"),
        ("A.", ""),
        ("ÉCOLE à la carte", "école à la carte"),  # "à" is no article
        ("日本", "日本"),
        ("...", ""),
        ("", ""),
    ],
)
def test_text_is_normalised_as_the_script_does(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    ("prediction", "golds", "match", "overlap"),
    [
        ("Denver Broncos", ["the Denver Broncos"], 1.0, 1.0),
        ("Broncos", ["Denver Broncos"], 0.0, 2 / 3),  # precision 1, recall 1/2
        ("the team of Denver", ["Denver Broncos"], 0.0, 2 / 5),  # 1 of 3 words, 1 of 2
        ("Carolina", ["Denver Broncos"], 0.0, 0.0),
        ("Carolina", ["Denver Broncos", "Carolina Panthers", "carolina."], 1.0, 1.0),  # the best of several
        ("Carolina", ["Denver Broncos", "the Carolina Panthers"], 0.0, 2 / 3),
        ("ha ha ha", ["ha ha"], 0.0, 4 / 5),  # a word counts as often as both have it: 2 of 3, 2 of 2
        ("ha", ["ha ha ha"], 0.0, 1 / 2),
        ("Broncos Denver", ["Denver Broncos"], 0.0, 1.0),  # F1 knows no order
        ("24-10", ["24–10"], 0.0, 0.0),  # "2410" is another word than "24–10"
        ("", [], 1.0, 1.0),
        ("", [""], 1.0, 1.0),
        ("the", [], 1.0, 1.0),  # nothing is left of it
        ("", ["Denver"], 0.0, 0.0),
        ("Denver", [], 0.0, 0.0),
        ("Denver", [""], 0.0, 0.0),
        ("", ["", "Denver"], 0.0, 0.0),  # a gold answer without words does not count beside one with
        ("Denver", ["the", "Denver"], 1.0, 1.0),
    ],
)
def test_scores_are_those_worked_out_by_hand(prediction: str, golds: list[str], match: float, overlap: float) -> None:
    assert exact_match(prediction, golds) == match
    assert f1(prediction, golds) == pytest.approx(overlap, abs=1e-12)


@pytest.mark.parametrize("golds", [["Denver Broncos", "Broncos"], ["the Panthers"], []])
def test_a_match_is_an_f1_of_one_and_more_golds_never_lower_a_score(golds: list[str]) -> None:
    for prediction in ("Broncos", "the broncos", "Panthers", "", "Denver"):
        assert exact_match(prediction, golds) <= f1(prediction, golds)
        if golds:
            assert f1(prediction, [*golds, "Denver"]) >= f1(prediction, golds)
