"""Reports: every trial is in them, figures agree, nothing is fetched, nothing of the user's breaks the page."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import jsonschema
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from search.deliver.best_config import plain_json, schema
from search.front.formatting import describe, interval, quantity, significant
from search.front.front import Front
from search.front.outcome import LOSS, Outcome
from search.report.page import front_html
from search.report.plot import draw, front_png, front_svg
from search.report.text import census, front_json, headline, note, pick_lines, table

from . import factory

FRONTS = {
    "full": factory.front(),
    "empty": Front(factory.TARGETS),
    "baseline alone": Front(factory.TARGETS, tuple(factory.baselines()[:1])),
    "nothing complete": Front(factory.TARGETS, (factory.outcome(0, status="failed", reason="crashed"),)),
    "no baseline": Front(factory.TARGETS, (factory.outcome(3, 0.8, 4.0), factory.outcome(4, 0.7, 2.0))),
}


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> Front:
    return FRONTS[request.param]


class Page(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def parsed(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    return parser


def test_front_json_follows_its_schema(front: Front) -> None:
    jsonschema.validate(plain_json(front_json(front, factory.study(front))), schema("front"))


def test_front_json_agrees_with_the_front() -> None:
    search_front = factory.front()
    data = front_json(search_front, factory.study(search_front))
    assert [m["number"] for m in data["members"]] == [o.number for o in search_front.members]
    assert [t["number"] for t in data["trials"] if t["on_front"]] == sorted(o.number for o in search_front.members)
    assert len(data["trials"]) == len(search_front.outcomes)
    assert all(t["on_front"] or t["reason"] for t in data["trials"])
    assert data["members"][-1]["speedup"]["over_best_uncompressed"]["value"] == pytest.approx(1.0)
    assert data["hypervolume"]["reference"] == {"accuracy": 0.0, "latency_p50_ms": factory.BASELINE_MS}


@pytest.mark.parametrize("name", ["front", "best-config"])
def test_the_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_the_page_has_a_row_for_each_trial_and_a_point_for_each_measured_one(front: Front) -> None:
    page = parsed(front_html(front, factory.study(front)))
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert {f"row-{o.number}" for o in front.outcomes} <= set(ids)
    measured = {f"trial-{o.number}" for o in front.outcomes if o.status == "complete"}
    assert measured == {i for i in ids if i and re.fullmatch(r"trial-\d+", i)}
    assert len(ids) == len(set(ids)), "an id must be unique"


def test_the_page_fetches_nothing(front: Front) -> None:
    page = front_html(front, factory.study(front))
    for tag, attrs in parsed(page).found:
        assert tag not in ("link", "iframe", "img"), tag
        linked = [v for k, v in attrs.items() if k in ("src", "href", "xlink:href") and v]
        assert all(v.startswith("#") for v in linked), linked
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_what_a_user_named_cannot_break_the_page() -> None:
    evil = "<script>alert(1)</script> $headline & \"'"
    outcome = factory.outcome(5, status="failed", reason=evil)
    search_front = factory.front().add(outcome)
    study = replace(factory.study(search_front), config={**factory.CONFIG, "study": evil})
    page = front_html(search_front, study)
    assert evil not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $headline" in page


def test_the_page_s_picture_follows_light_and_dark() -> None:
    search_front = factory.front()
    page = front_html(search_front, factory.study(search_front))
    assert "prefers-color-scheme: dark" in page
    picture = page[page.index("<svg") : page.index("</svg>")]
    assert "fill: var(--front)" in picture and "fill: var(--paper)" in picture
    assert not re.search(r"(fill|stroke): (#1f5fbf|#c2570c|#1c2430|#ffffff|white)", picture)


def test_a_page_without_a_complete_model_says_so() -> None:
    empty = FRONTS["nothing complete"]
    page = front_html(empty, factory.study(empty))
    assert "No model is complete yet." in page
    assert "search.load(" not in page


def test_points_carry_their_figures_as_a_tooltip() -> None:
    search_front = factory.front()
    svg = front_svg(search_front)
    assert "<title>trial 1: uncompressed · onnx\naccuracy 83.2 %, latency 8.30 ms, 1.83x over eager fp32" in svg


def test_the_picture_is_a_png(front: Front, tmp_path: Path) -> None:
    front_png(front, factory.study(front), tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_uncompressed_models_that_are_nearly_as_fast_have_labels_apart() -> None:
    outcomes = factory.baselines()[:2]
    for number, (runtime, ms) in enumerate((("openvino", 7.9), ("compiled", 7.6)), len(outcomes)):
        outcomes.append(factory.outcome(number, 0.832, ms, candidate=factory.recipe(runtime=runtime), baseline=True))
    figure = draw(Front(factory.TARGETS, tuple(outcomes)))
    FigureCanvasAgg(figure).draw()
    [axes] = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text() in ("onnx", "openvino", "compiled")]
    assert len(boxes) == 3
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_same_front_gives_the_same_page() -> None:
    search_front = factory.front()
    assert front_html(search_front, factory.study(search_front)) == front_html(
        search_front, factory.study(search_front)
    )


def test_the_table_shows_members_and_the_uncompressed_model(front: Front) -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(table(front, factory.study(front)))
    numbers = {int(n) for n in re.findall(r"^│\s+(\d+)", out.getvalue(), flags=re.MULTILINE)}
    assert numbers == {o.number for o in (*front.members, *front.uncompressed)}


def test_the_last_lines_name_each_pick_and_both_speedups() -> None:
    search_front = factory.front()
    lines = pick_lines(search_front)
    assert [line.split()[0] for line in lines] == ["fastest", "balanced", "most-accurate"]
    assert all("over eager fp32" in line and "over the best uncompressed" in line for line in lines)


def test_texts_exist_for_every_front(front: Front) -> None:
    study = factory.study(front)
    assert headline(front)
    assert headline(front) in note(front, study)
    assert len(pick_lines(front)) == len(front.picks)


def test_the_census_counts_every_trial_once(front: Front) -> None:
    total, *parts = (int(n) for n in re.findall(r"\d+", census(front)))
    assert total == sum(parts) == len(front.outcomes)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.8314, "fraction", "83.1 %"),
        (4.2149, "ms", "4.21 ms"),
        (90.86, "MB", "90.9 MB"),
        (22_713_216, "count", "22.7 M"),
        (0.0, "points", "0 points"),
        (1234.5, "ms", "1234 ms"),
        (0.0123, "s", "0.0123 s"),
    ],
)
def test_quantities_have_three_digits_and_their_unit(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize("value", [0.00123, 0.99999, 9.9999, 99.999, 5.0, -3.217, 12345.6])
def test_rounding_errs_by_less_than_one_per_cent(value: float) -> None:
    assert float(significant(value)) == pytest.approx(value, rel=0.01)


def test_an_interval_names_its_unit_once() -> None:
    measured = factory.measurement("latency_p50_ms", 4.2, 0.1, "ms")
    assert interval(measured) == "4.10 to 4.30 ms"
    assert interval(factory.measurement("size_mb", 4.2, unit="MB")) == ""


def test_recipes_are_described_by_their_steps_and_runtime() -> None:
    recipe = factory.recipe({"distill": {"layers": 3}, "bits": {"precision": "int8"}}, "onnx")
    assert describe(recipe) == "distill layers 3 · bits precision int8 · onnx"
    less = factory.recipe({"sparse": {"weights": 0.5}}, "eager")
    assert describe(less) == "sparse weights 0.5 (size only) · eager"
    skipped = factory.recipe({"sparse": {"weights": 0.5, "pattern": "2-of-4"}}, "eager")
    assert describe(skipped) == "sparse weights 0.5 pattern 2-of-4 · eager"
    assert describe(factory.recipe()) == "uncompressed · eager"


def test_front_json_is_json_without_nan(front: Front) -> None:
    json.dumps(front_json(front, factory.study(front)), allow_nan=False)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        plain_json({"value": float("nan")})


def test_outcomes_with_only_some_measurements_are_shown() -> None:
    partial = Outcome(
        7,
        factory.recipe({"distill": {"layers": 1}}),
        "rejected",
        "too large",
        measurements={"size_mb": factory.measurement("size_mb", 400.0, unit="MB")},
    )
    search_front = factory.front().add(partial)
    assert "400 MB" in front_html(search_front, factory.study(search_front))


def test_the_page_says_how_likely_a_loss_is_by_chance_and_by_which_test() -> None:
    words = "exact McNemar test of the rows that are right"
    searched = factory.front()
    outcomes = []
    for one in searched.outcomes:
        figures = dict(one.measurements)
        if LOSS in figures:
            lost = figures[LOSS]
            figures[LOSS] = replace(lost, conditions={**lost.conditions, "p": 0.0312, "test": words})
        outcomes.append(replace(one, measurements=figures))
    text = front_html(replace(searched, outcomes=tuple(outcomes)), factory.study(searched))
    assert f"p = 0.031 ({words})" in text and ", p 0.031" in text
    assert "p = " not in front_html(searched, factory.study(searched)), "a record of before says nothing"
