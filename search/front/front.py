"""The Pareto front of the outcomes of a search: members, picks, ties and hypervolume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

from objectives.estimate import Estimate, difference, ratio
from objectives.latency import under
from objectives.quality import metrics
from objectives.reference_speed import at_speeds_of
from objectives.workload import marked
from search.errors import UserError, unknown
from search.front.final import Final
from search.front.formatting import quantity, significant, text
from search.front.outcome import CALL_TIMES, LATENCY, LOSS, PREDICTED_TIMES, SPEEDUP, Outcome, Target
from search.front.pareto import dominates, hypervolume, knee, non_dominated
from search.front.speedups import AS_TIMES, clock_ratio, optimised_time

PICKS = ("fastest", "balanced", "most-accurate")

#: Objectives with a measurement that is paired with the baseline (same rows, alternating blocks). The paired interval
#: is narrower, so it decides whether two candidates are distinguishable.
PAIRED = {**{metric.name: LOSS for metric in metrics()}, **dict.fromkeys(CALL_TIMES, SPEEDUP)}
AGAINST_ITSELF = {SPEEDUP: Estimate(1.0, 1.0, 1.0), LOSS: Estimate(0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class Front:
    """All outcomes so far and the non-dominated ones among them. Immutable: methods return new fronts."""

    targets: tuple[Target, ...]
    outcomes: tuple[Outcome, ...] = ()
    #: The final campaign, which decides the members and their times; set by `decided`.
    final: Final = field(default_factory=Final)
    #: Why a trial was not in the campaign, by trial.
    reasons: Mapping[int, str] = field(default_factory=dict)

    def decided(self, final: Final, broken: Callable[[Outcome], tuple[str, ...]]) -> Front:
        """The front by the measurements of the final campaign; this front where there was no campaign.

        Finalists get the campaign's times. Other outcomes are scaled to the baseline's time in the campaign and cannot
        be members. `broken` gives a sentence for each limit that an outcome breaks.
        """
        if not final.measurements:
            return self
        others = [o for o in self.outcomes if o.status == "complete" and o.number not in final.contenders]
        reasons = {o.number: f"not timed again: {self._why_not_timed(o)}" for o in others}
        retimed = (_at_the_speed_of(final, outcome) for outcome in self.outcomes)
        judged = (replace(o, limits_broken=broken(o)) if o.status == "complete" else o for o in retimed)
        return replace(self, outcomes=tuple(judged), final=final, reasons=reasons)

    def _why_not_timed(self, outcome: Outcome) -> str:
        """The reason, by the loop's own timing, why an outcome was no finalist."""
        if outcome.limits_broken:
            return "it broke a limit in the search's own timing"
        point = self.point(outcome)
        better = next((o for o in self.members if dominates(self.point(o), point) or self.point(o) == point), None)
        return "it was no finalist" if better is None else f"{better.number} dominated it in the search's own timing"

    def replacing(self, outcomes: Mapping[int, Outcome]) -> Front:
        """This front with some outcomes replaced, by trial."""
        return replace(self, outcomes=tuple(outcomes.get(o.number, o) for o in self.outcomes))

    def counted(self, references: Mapping[str, Estimate]) -> Front:
        """This front with all latencies scaled to the reference latencies, by mark of the workload."""
        if not references:
            return self
        counted = (replace(o, measurements=at_speeds_of(references, o.measurements)) for o in self.outcomes)
        return replace(self, outcomes=tuple(counted))

    def add(self, outcome: Outcome) -> Front:
        """This front with one more outcome."""
        return replace(self, outcomes=(*self.outcomes, outcome))

    def point(self, outcome: Outcome) -> tuple[float, ...]:
        """The outcome's values of the targets, to be minimised: negated where higher is better. It must be complete."""
        return tuple(
            outcome.value(t.objective) if t.better == "lower" else -outcome.value(t.objective) for t in self.targets
        )

    @property
    def eligible(self) -> tuple[Outcome, ...]:
        """Complete outcomes inside the limits; after the final campaign, only those that took part."""
        may = self.final.contenders
        complete = (o for o in self.outcomes if o.status == "complete" and not o.limits_broken)
        return tuple(o for o in complete if not may or o.number in may)

    @cached_property
    def members(self) -> tuple[Outcome, ...]:
        """The non-dominated eligible outcomes, best first by the last target (latency: fastest first)."""
        points = [self.point(o) for o in self.eligible]
        pairs = [(points[i], self.eligible[i]) for i in non_dominated(points)]
        return tuple(o for p, o in sorted(pairs, key=lambda item: (item[0][-1], item[1].number)))

    def why_not(self, outcome: Outcome) -> str:
        """Why an outcome is not on the front, in words; "" for a member."""
        if outcome.status != "complete":
            return outcome.reason or outcome.status
        if outcome.limits_broken:
            return "; ".join(outcome.limits_broken)
        point = self.point(outcome)
        for member in self.members:
            if member.number == outcome.number:
                return ""
            if (other := self.point(member)) == point:
                return f"same values as {member.number}"
            if dominates(other, point):
                values = (text(member.measurements[t.objective]) for t in self.targets)
                return f"dominated by {member.number} ({', '.join(values)})"
        return self.reasons.get(outcome.number, "")

    def standing(self, outcome: Outcome) -> str:
        """The standing of an outcome in words: on the front and by which timing, or why not."""
        late = " by its quick timing" if outcome.number in self.final.late else ""
        return self.why_not(outcome) or f"on the front{late}"

    # The uncompressed model.

    @property
    def uncompressed(self) -> tuple[Outcome, ...]:
        """The teacher's own weights at full precision, under each runtime and cache without loss that was measured."""
        return tuple(o for o in self.outcomes if o.status == "complete" and o.recipe.exact)

    @property
    def baseline(self) -> Outcome | None:
        """The uncompressed model under eager PyTorch, with speedup 1 and loss 0; None where it was not measured."""
        plain = (o for o in self.uncompressed if o.recipe.runtime.name == "eager" and not o.recipe.steps)
        return next(plain, None)

    @property
    def best_uncompressed(self) -> Outcome | None:
        """The uncompressed model under the runtime that is fastest in `time`; None where it was not timed."""
        timed = [o for o in self.uncompressed if self.time in o.measurements]
        timed = [o for o in timed if o.number in self.final.measurements] or timed
        return min(timed, key=lambda o: o.value(self.time), default=None)

    @property
    def time(self) -> str:
        """The name of the time that speedups are of: the target `speed`, or that behind the first target with one.

        It is `LATENCY` for all that is counted of whole calls, and where no target has to do with time.
        """
        return optimised_time((self.speed.objective, *(t.objective for t in self.targets)))

    def speedup(self, outcome: Outcome, over: Outcome | None, time: str = "") -> Estimate | None:
        """How many times as fast as `over` an outcome is, with a 95 % interval; None where it was not measured.

        Of whole calls the final campaign measured the ratio itself. In the loop both were paired with the baseline, so
        the estimate is the quotient of the two paired ratios. Other times are compared by the clock.

        Args:
            time: the name of the time that is compared; "": the one that the study optimises (`Front.time`).
        """
        if over is None:
            return None
        if over.recipe == outcome.recipe:
            return AGAINST_ITSELF[SPEEDUP]
        compared = time or self.time
        plain, mark = marked(compared)
        if plain not in CALL_TIMES:
            return clock_ratio(over, outcome, compared)
        if together := self.final.ratio(over.number, outcome.number, mark):
            return together
        mine, theirs = (self._paired(one, under(SPEEDUP, mark)) for one in (outcome, over))
        if self.baseline and over.recipe == self.baseline.recipe:
            return mine  # that is what it was paired with; the baseline against itself would only add noise
        return ratio(mine, theirs) if mine and theirs else None

    def loss(self, outcome: Outcome) -> Estimate | None:
        """The loss of the metric against the baseline, in `loss_unit`; None where it was not measured."""
        return self._paired(outcome, LOSS)

    @property
    def loss_unit(self) -> str:
        """The unit of losses in words: "accuracy points", "% of RMSE"."""
        return next((o.measurements[LOSS].unit for o in self.outcomes if LOSS in o.measurements), "points")

    def _paired(self, outcome: Outcome, name: str) -> Estimate | None:
        if name in outcome.measurements:
            return outcome.measurements[name].estimate
        plain = marked(name)[0]
        if plain in AGAINST_ITSELF and self.baseline and outcome.recipe == self.baseline.recipe:
            return AGAINST_ITSELF[plain]
        return None

    def within(self, max_latency_ms: float | None = None, max_loss: float | None = None) -> Front:
        """This front with further limits (`max_loss` in `loss_unit`); outcomes that break one cannot be members."""

        def broken(outcome: Outcome) -> tuple[str, ...]:
            if outcome.status != "complete":
                return ()
            sentences: list[str] = []
            if max_latency_ms is not None and (ms := outcome.value(LATENCY)) > max_latency_ms:
                sentences.append(f"latency {significant(ms)} ms is over the limit of {max_latency_ms:g} ms")
            loss = self.loss(outcome)
            if max_loss is not None and (loss is None or loss.value > max_loss):
                loss_text = quantity(loss.value, self.loss_unit) if loss else "unknown"
                sentences.append(f"loss {loss_text} is over the limit of {max_loss:g} {self.loss_unit}")
            return tuple(sentences)

        limited = (replace(o, limits_broken=(*o.limits_broken, *broken(o))) for o in self.outcomes)
        return replace(self, outcomes=tuple(limited))

    @property
    def picks(self) -> dict[str, Outcome]:
        """The picks by name (`PICKS`); {} while the front is empty."""
        return {name: self.choose(name) for name in PICKS} if self.members else {}

    def choose(self, name: str) -> Outcome:
        """The pick called `name`: fastest, balanced, most-accurate, or a complete trial by its number.

        Fastest is best in `speed`, most accurate in `quality`, balanced the knee (`search.front.pareto.knee`).

        Raises:
            UserError: an unknown name or number, or an empty front.
        """
        if name.isdigit():
            numbered = {str(o.number): o for o in self.outcomes if o.status == "complete"}
            if name not in numbered:
                raise unknown("pick", "complete trial", name, numbered)
            return numbered[name]
        if name not in PICKS:
            raise unknown("pick", "choice", name, (*PICKS, "a trial's number"))
        if not self.members:
            raise UserError("the front is empty: no trial is complete and inside the limits")
        if name == "balanced":
            return self.members[knee([self.point(o) for o in self.members])]
        index = self.targets.index(self.speed if name == "fastest" else self.quality)
        return min(self.members, key=lambda o: self.point(o)[index])

    @property
    def speed(self) -> Target:
        """The target of the pick "fastest": a latency or the time of a token, else the last target."""
        names = ("latency", *PREDICTED_TIMES)
        return next((t for name in names for t in self.targets if t.objective.startswith(name)), self.targets[-1])

    @property
    def quality(self) -> Target:
        """The target of the pick "most-accurate": the task's metric, else the first where higher is better."""
        names = {metric.name for metric in metrics()}
        ordered = sorted(self.targets, key=lambda t: (t.objective not in names, t.better != "higher"))
        return ordered[0]

    def ties(self) -> tuple[tuple[int, int], ...]:
        """Pairs of members that are not distinguishable: no target's interval of the difference excludes zero."""
        return tuple(
            (a.number, b.number)
            for a, b in combinations(self.members, 2)
            if all(self._alike(t, a, b) for t in self.targets)
        )

    def _alike(self, target: Target, a: Outcome, b: Outcome) -> bool:
        """Whether two members are not distinguishable in one objective, by paired measurements where there are any."""
        plain, mark = marked(target.objective)
        together = self.final.ratio(a.number, b.number, mark) if plain in AS_TIMES else None
        return together.includes(1.0) if together else self._difference(target, a, b).includes(0.0)

    def _difference(self, target: Target, a: Outcome, b: Outcome) -> Estimate:
        plain, mark = marked(target.objective)
        name = under(PAIRED[plain], mark) if plain in PAIRED else ""
        x, y = self._paired(a, name), self._paired(b, name)
        if not (x and y):
            x, y = (o.measurements[target.objective].estimate for o in (a, b))
        return difference(x, y)

    @property
    def reference(self) -> tuple[float, ...]:
        """The hypervolume's reference point, to be minimised: the baseline's cost, zero quality, or twice its error.

        It depends on the baseline alone, so hypervolumes are comparable during a run.
        """
        costs = [self.baseline] if self.baseline else list(self.eligible)
        names = {metric.name for metric in metrics()}
        return tuple(
            0.0
            if t.better == "higher"
            else (2 if t.objective in names else 1) * max((o.value(t.objective) for o in costs), default=0.0)
            for t in self.targets
        )

    @property
    def hypervolume(self) -> float:
        """The volume that the members dominate up to `reference`, in the product of the targets' units."""
        return hypervolume([self.point(o) for o in self.members], self.reference)


def _at_the_speed_of(final: Final, outcome: Outcome) -> Outcome:
    """`outcome` with the campaign's measurements, or scaled to the baseline's time in the campaign."""
    measured = final.measurements.get(outcome.number)
    if measured is not None:
        quick = {name: outcome.measurements[name] for name in measured if name in outcome.measurements}
        return replace(outcome, measurements={**outcome.measurements, **measured}, quick=quick)
    return replace(outcome, measurements=at_speeds_of(final.references, outcome.measurements))
