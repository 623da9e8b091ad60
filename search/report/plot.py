"""The front as a picture: quality against speed, every trial that was measured, the picks by name."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.front.formatting import describe, in_time, significant, text, times, title
from search.front.front import Front
from search.front.outcome import Outcome, Target
from search.front.study_record import StudyRecord
from search.report.text import census, headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT_COLOUR, BASELINE_COLOUR, OTHER_COLOUR, INK, FAINT = "#1f5fbf", "#c2570c", "#9aa3ad", "#1c2430", "#66707c"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: it can be found and read aloud
    "svg.hashsalt": "front",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": OTHER_COLOUR,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def front_png(front: Front, study: StudyRecord, path: Path) -> None:
    """The picture as a PNG, 1600 by 1000."""
    with _style():
        figure = draw(front, heading_in=1.05)
        figure.text(0.06, 0.945, headline(front), fontsize=13, fontweight="bold", color=INK)
        figure.text(0.06, 0.905, f"{study.name} · {study.device} · {study.workload}", color=FAINT)
        figure.text(0.06, 0.865, f"{census(front)} · validation split, 95 % intervals", color=FAINT)
        figure.savefig(path, format="png", dpi=160)


def front_svg(front: Front) -> str:
    """The plot as an SVG element; each trial is a group `trial-<number>` with its figures as a tooltip."""
    buffer = io.StringIO()
    with _style():
        draw(front).savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue()[buffer.getvalue().index("<svg") :], flags=re.S)
    tips = {o.number: html.escape(tooltip(front, o)) for o in front.outcomes if o.status == "complete"}
    return re.sub(r'<g id="trial-(\d+)">', lambda m: f'{m[0][:-1]} class="trial"><title>{tips[int(m[1])]}</title>', svg)


def tooltip(front: Front, outcome: Outcome) -> str:
    """A trial's figures and recipe in a few lines."""
    values = [f"{title(t.objective)} {text(outcome.measurements[t.objective])}" for t in front.targets]
    speedup = times(front.speedup(outcome, front.baseline))
    standing = front.standing(outcome)
    figures = ", ".join([*values, *([in_time(f"{speedup} over eager fp32", front.time)] if speedup else [])])
    return f"trial {outcome.number}: {describe(outcome.recipe)}\n{figures}\n{standing}"


def draw(front: Front, *, heading_in: float = 0.0) -> Figure:
    """The plot, 10 inches wide, with `heading_in` inches left free above it."""
    from matplotlib.figure import Figure

    height = 5.2 + heading_in
    figure = Figure(figsize=(10, height), facecolor="white")
    axes = figure.add_axes((0.06, 0.62 / height, 0.91, 4.3 / height))
    x, y = front.speed, front.quality
    drawn = [o for o in front.outcomes if {x.objective, y.objective} <= o.measurements.keys()]
    if not drawn:
        axes.set(xticks=[], yticks=[])
    else:
        hidden = _frame(axes, front, drawn)
        if hidden:
            axes.text(0.995, 0.01, f"{hidden} trials lie outside", transform=axes.transAxes, ha="right", color=FAINT)
        _points(axes, front, drawn)
        _names(axes, front)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.03), frameon=False, labelcolor=INK)
    axes.set_xlabel(_label(x, drawn))
    axes.text(0, 1.01, _label(y, drawn), transform=axes.transAxes, color=INK)
    return figure


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def _label(target: Target, drawn: Sequence[Outcome]) -> str:
    unit = drawn[0].measurements[target.objective].unit if drawn else ""
    unit = {"fraction": "%", title(target.objective): ""}.get(unit, unit)
    return f"{title(target.objective)}{f' ({unit})' if unit else ''}, {target.better} is better"


def _at(target: Target, outcome: Outcome) -> float:
    """The value on the axis: fractions as per cent."""
    measured = outcome.measurements[target.objective]
    return measured.value * (100 if measured.unit == "fraction" else 1)


def _ends(target: Target, outcome: Outcome) -> tuple[float, float]:
    measured = outcome.measurements[target.objective]
    scale = 100 if measured.unit == "fraction" else 1
    return measured.interval[0] * scale, measured.interval[1] * scale


def _frame(axes: Axes, front: Front, drawn: Sequence[Outcome]) -> int:
    """Set limits that show the front and the uncompressed model; returns how many trials fall outside.

    Better quality is always above.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    x, y = front.speed, front.quality
    points = [*front.members, *front.uncompressed] or list(drawn)
    left, right = min(_at(x, o) for o in points), max(_at(x, o) for o in points)
    low, high = min(_ends(y, o)[0] for o in points), max(_ends(y, o)[1] for o in points)
    if left > 0 and right / left > 4:
        axes.set_xscale("log")
        reach = (right / left) ** 0.22  # room for the name of the fastest
        axes.set_xlim(left / reach, right * reach**0.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        width = right - left or right or 1.0
        axes.set_xlim(left - 0.2 * width, right + 0.08 * width)
    height = high - low or 1.0
    if y.better == "higher":
        axes.set_ylim(low - 0.12 * height, high + 0.16 * height)
    else:
        axes.set_ylim(high + 0.12 * height, low - 0.16 * height)
    axes.grid(color=OTHER_COLOUR, alpha=0.18, linewidth=0.8)
    (x0, x1), (y0, y1) = axes.get_xlim(), sorted(axes.get_ylim())
    return sum(not (x0 <= _at(x, o) <= x1 and y0 <= _at(y, o) <= y1) for o in drawn)


def _points(axes: Axes, front: Front, drawn: Sequence[Outcome]) -> None:
    x, y = front.speed, front.quality
    numbers = {o.number for o in front.members}
    members = sorted((o for o in drawn if o.number in numbers), key=lambda o: _at(x, o))
    plain = {o.number for o in front.uncompressed}
    for a, b in pairwise(members):  # a staircase: nothing better than the corners was found
        axes.plot([_at(x, a), _at(x, b), _at(x, b)], [_at(y, a), _at(y, a), _at(y, b)], color=FRONT_COLOUR, alpha=0.45)
    labelled: set[str] = set()
    for outcome in drawn:
        on_front = outcome.number in numbers
        kind = "on the front" if on_front else "over a limit" if outcome.limits_broken else "not on the front"
        style: dict[str, Any] = {
            "marker": "o",
            "s": 46 if on_front else 24,
            "color": FRONT_COLOUR if on_front else OTHER_COLOUR,
        }
        if outcome.number in plain:
            kind, style = "uncompressed model", {"marker": "D", "s": 56, "color": BASELINE_COLOUR}
        if kind == "over a limit":
            style["facecolors"] = "none"
        point = _at(x, outcome), _at(y, outcome)
        order = 4 if outcome.number in numbers | plain else 2
        markers = axes.scatter(*point, **style, zorder=order, label="" if kind in labelled else kind)
        markers.set_gid(f"trial-{outcome.number}")
        labelled.add(kind)
        if on_front:
            (left, right), (low, high) = _ends(x, outcome), _ends(y, outcome)
            bars = {"color": style["color"], "alpha": 0.35, "linewidth": 1.2, "zorder": 3}
            axes.plot([left, right], [point[1]] * 2, **bars)
            axes.plot([point[0]] * 2, [low, high], **bars)


def _names(axes: Axes, front: Front) -> None:
    """Name the picks above the front, where no point can be, and the uncompressed models by their runtime."""
    x, y = front.speed, front.quality
    names: dict[int, list[str]] = {}
    for name, outcome in front.picks.items():
        names.setdefault(outcome.number, []).append(name.replace("-", " "))
    figure = axes.get_figure(root=True)
    assert figure is not None
    last = (-1e9, -1e9)  # the point before, and the foot of its label, in points (1/72 inch)
    for outcome in (o for o in front.members if o.number in names):
        point = _at(x, outcome), _at(y, outcome)
        left, level = axes.transData.transform(point) * 72 / figure.dpi
        foot = max(level + 28, last[1] + 30 if left - last[0] < 140 else level)
        last = left, foot + 12 * (len(names[outcome.number]) - 1)
        unit = outcome.measurements[x.objective].unit
        figures = [f"{significant(_at(x, outcome))} {unit}", times(front.speedup(outcome, front.baseline))]
        called = ",\n".join(names[outcome.number])
        note = f"{called}: trial {outcome.number}\n{', '.join(f for f in figures if f)}"
        _write(axes, note, point, (-14, foot - level), FRONT_COLOUR)
    right, below = (1e9, 1e9), 0  # the point to the right, in points, and the lines that the label is below its own
    for outcome in sorted(front.uncompressed, key=lambda o: _at(x, o), reverse=True):
        point = _at(x, outcome), _at(y, outcome)
        left, level = axes.transData.transform(point) * 72 / figure.dpi
        below = below + 1 if right[0] - left < 75 and abs(right[1] - level) < 14 else 0
        right = left, level
        _write(axes, outcome.recipe.runtime.name, point, (8, -14 * below), BASELINE_COLOUR)


def _write(axes: Axes, note: str, point: tuple[float, float], offset: tuple[float, float], color: str) -> None:
    """`note` at `offset` (points) from `point`: to the left with a line, or beside it without one."""
    from matplotlib import patheffects

    left = offset[0] < 0
    axes.annotate(
        note,
        point,
        xytext=offset,
        textcoords="offset points",
        ha="right" if left else "left",
        va="baseline" if left else "center",
        multialignment="right",
        color=color,
        fontweight="bold" if left else "normal",
        arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.6, "shrinkB": 4} if left else None,
        path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
        zorder=5,
    )
