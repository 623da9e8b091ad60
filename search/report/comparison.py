"""Two studies side by side: what differs in their configurations, and whose models dominate the other's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from objectives import clock
from objectives.latency import BY_WORKLOAD
from objectives.workload import MARK
from search.errors import UserError
from search.front.formatting import describe, significant, text, title
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome
from search.front.pareto import dominates, hypervolume, non_dominated
from search.front.study_record import StudyRecord
from search.report.text import census

#: Keys of a configuration that differ between any two studies.
STUDY_KEYS = ("study", "mlruns")
#: Names of what is measured of timed calls.
OF_CALLS = frozenset(objective.name for objective in BY_WORKLOAD)


@dataclass(frozen=True)
class Comparison:
    """The fronts of two studies of one task, with the second's times scaled to the speed of the first's machine."""

    names: tuple[str, str]
    fronts: tuple[Front, Front]

    @classmethod
    def of(cls, one: tuple[Front, StudyRecord], other: tuple[Front, StudyRecord]) -> Comparison:
        """The comparison of two studies; times are scaled only where they are of one machine, model and workload.

        Raises:
            UserError: another task, metric or objectives.
        """
        (front, study), (second, record) = one, other
        for key in ("task", "metric", "objectives"):
            ours, theirs = study.config[key], record.config[key]
            if ours != theirs:
                raise UserError(
                    f"STUDY: both must have the same {key}, got {_shown(ours)} in {study.name} and {_shown(theirs)} in "
                    f"{record.name}"
                )
        scaled = second if _times_differ(one, other) else _at_the_speed_of(front, second)
        return cls((study.name, record.name), (front, scaled))

    @property
    def reference(self) -> tuple[float, ...]:
        """The reference point of both hypervolumes, to be minimised: the worse of both studies' in each objective."""
        return tuple(max(pair) for pair in zip(*(front.reference for front in self.fronts), strict=True))

    @property
    def volumes(self) -> tuple[float, float]:
        """The hypervolume of each front."""
        one, other = (hypervolume([front.point(o) for o in front.members], self.reference) for front in self.fronts)
        return one, other

    def beaten(self, which: int) -> list[Outcome]:
        """The members of one front that a member of the other dominates."""
        front, other = self.fronts[which], self.fronts[1 - which]
        points = [other.point(member) for member in other.members]
        return [member for member in front.members if any(dominates(p, front.point(member)) for p in points)]

    @property
    def together(self) -> list[tuple[str, Outcome]]:
        """The front of both studies together, with the study of each member, in the order of the first objective."""
        every = [
            (front.point(outcome), name, outcome)
            for name, front in zip(self.names, self.fronts, strict=True)
            for outcome in front.members
        ]
        chosen = [every[i] for i in non_dominated([point for point, _, _ in every])]
        return [(name, outcome) for _, name, outcome in sorted(chosen, key=lambda member: member[0])]


def comparison_lines(one: tuple[Front, StudyRecord], other: tuple[Front, StudyRecord]) -> Iterator[str]:
    """The comparison of two studies. Raises UserError: another task, metric or objectives."""
    compared = Comparison.of(one, other)
    for name, front in zip(compared.names, compared.fronts, strict=True):
        yield f"{name}: {census(front)}"
    (_, study), (_, record) = one, other
    about, others = ({**read.config, "rows": dict(read.rows)} for read in (study, record))
    for key, (ours, theirs) in _differences(about, others).items():
        yield f"  {key}: {_shown(ours)} in {study.name}, {_shown(theirs)} in {record.name}"
    if why := _times_differ(one, other):
        yield f"  times are those of each study, which do not compare: {why}"
    volumes, targets = compared.volumes, compared.fronts[0].targets
    corner = ", ".join(
        f"{title(t.objective)} {significant(abs(value))}" for t, value in zip(targets, compared.reference, strict=True)
    )
    shares = ", ".join(f"{volume:.4g} of {name}" for name, volume in zip(compared.names, volumes, strict=True))
    factor = f" ({volumes[1] / volumes[0]:.3f} times the first)" if volumes[0] else ""
    yield f"hypervolume up to {corner}: {shares}{factor}"
    for which, name in enumerate(compared.names):
        members, beaten = compared.fronts[which].members, compared.beaten(which)
        numbers = f" ({', '.join(str(outcome.number) for outcome in beaten)})" if beaten else ""
        yield f"{len(beaten)} of {len(members)} members of {name} are dominated by one of the other{numbers}"
    yield "the front of both:"
    for name, outcome in compared.together:
        values = ", ".join(text(outcome.measurements[target.objective]) for target in targets)
        yield f"  {name}/{outcome.number}  {values}  {describe(outcome.recipe)}"


def _times_differ(one: tuple[Front, StudyRecord], other: tuple[Front, StudyRecord]) -> str:
    """Why the times of two studies are not of the same calls on the same machine; "" where they are."""
    (front, study), (second, record) = one, other
    machines = _differences(clock.machine_facts(study.hardware), clock.machine_facts(record.hardware))
    if machines:
        unlike = (f"{key}: {a} in {study.name}, {b} in {record.name}" for key, (a, b) in machines.items())
        return f"they are of two machines ({'; '.join(unlike)})"
    if study.config["workload"] != record.config["workload"]:
        return "they are of two workloads"
    if front.baseline is None or second.baseline is None:
        return "the uncompressed model was not measured"
    return "" if front.baseline.recipe.base == second.baseline.recipe.base else "they are of two models"


def _at_the_speed_of(front: Front, second: Front) -> Front:
    """`second` with all times scaled to those of the uncompressed model in `front`, which both measured."""
    reference, own = front.baseline, second.baseline
    assert reference is not None and own is not None
    timed = {name: m for name, m in reference.measurements.items() if name.partition(MARK)[0] in OF_CALLS}
    if all(own.measurements.get(name) == figure for name, figure in timed.items()):
        return second
    marks = {name.partition(MARK)[2]: m.estimate for name, m in timed.items() if name.partition(MARK)[0] == LATENCY}
    scaled = second.counted(marks)
    return scaled.replacing({own.number: replace(own, measurements={**own.measurements, **timed})})


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> dict[str, tuple[Any, Any]]:
    """The values of each dotted key that differs between two configurations, but for `STUDY_KEYS`."""
    differing: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys((*one, *other)):
        ours, theirs, name = one.get(key), other.get(key), f"{above}{key}"
        if ours == theirs or name in STUDY_KEYS:
            continue
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            differing |= _differences(ours, theirs, f"{name}.")
        else:
            differing[name] = ours, theirs
    return differing


def _shown(value: Any) -> str:
    """A value of a configuration in words."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "nothing" if value is None else str(value)
