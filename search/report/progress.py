"""The view of a running search: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from search.front.formatting import describe, text, times
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome
from search.report.text import table

#: Seconds between two redraws: drawing takes CPU time from what is being measured.
REDRAW_S = 0.5


class View(Protocol):
    def progress(self, stage: str, done: float) -> None: ...
    def say(self, line: str) -> None: ...
    def observe(self, outcome: Outcome, front: Front) -> None: ...
    def forecast(self, gain: float | None) -> None: ...
    def close(self) -> None: ...


def line_of(outcome: Outcome, front: Front) -> str:
    """A trial in one line: number, recipe, figures, and whether it is on the front or why not."""
    if outcome.status != "complete":
        return f"{outcome.number:>4}  {outcome.status:<10} {describe(outcome.recipe)}: {outcome.reason}"
    timed = outcome.measurements.get(front.time) or outcome.measurements[LATENCY]
    figures = [text(outcome.measurements[front.quality.objective]), text(timed)]
    faster = times(front.speedup(outcome, front.baseline))
    standing = front.standing(outcome)
    marks = f"  (noisy: {outcome.noise})" if outcome.noise else ""
    return f"{outcome.number:>4}  {'  '.join(figures):<20} {faster:>6}  {describe(outcome.recipe)}  [{standing}]{marks}"


class Lines:
    """A line for each stage and each trial."""

    def __init__(self, total: int, stream: TextIO = sys.stdout) -> None:
        self._total, self._stream = total, stream
        self._stage = ""
        self._began = time.monotonic()
        self._pace = Pace(total)

    def progress(self, stage: str, done: float) -> None:
        if stage != self._stage:
            self._stage = stage
            self.say(f"      {stage} ...")

    def say(self, line: str) -> None:
        """Print the line with the time.

        Raises:
            KeyboardInterrupt: nobody reads the lines any more, as after `run | head`. It ends the command as Ctrl-C
                does: as an error it would count as the failure of what is being done.
        """
        try:
            print(f"{_clock(time.monotonic() - self._began)} {line}", file=self._stream, flush=True)
        except BrokenPipeError:
            raise KeyboardInterrupt from None

    def observe(self, outcome: Outcome, front: Front) -> None:
        self.say(f"{line_of(outcome, front)}  ({self._pace.after(len(front.outcomes))})")

    def forecast(self, gain: float | None) -> None:
        self._pace.gain = gain

    def close(self) -> None:
        """Nothing is held."""


class Pace:
    """The expected time left, from the pace of this run's trials alone: its preparation comes only once."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._first: tuple[int, float] | None = None
        self.gain: float | None = None  # what the next trial is expected to add, as a share of the hypervolume

    def after(self, count: int) -> str:
        """ "12 of 40, about 9 min left, next expected to add 0.8 %" once `count` trials are done."""
        now = time.monotonic()
        if self._first is None:
            self._first = (count, now)
        first, began = self._first
        left = max(0, self._total - count)
        if not left or count - first < 3:
            return f"{count} of {self._total}"
        minutes = (now - began) / (count - first) * left / 60
        expected = "" if self.gain is None else f", next expected to add {100 * self.gain:.2g} %"
        return f"{count} of {self._total}, about {max(1, round(minutes))} min left{expected}"


class LiveTable:
    """The front as a table that is redrawn in place, the stage that runs, and the latest trials."""

    def __init__(self, total: int, study: object) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._study = study
        self._began = self._drawn = time.monotonic()
        self._front: Front | None = None
        self._pace, self._left = Pace(total), ""
        self._stage, self._done = "starting", 0.0
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def progress(self, stage: str, done: float) -> None:
        self._stage, self._done = stage, done
        if time.monotonic() - self._drawn >= REDRAW_S:
            self._draw()

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False)

    def observe(self, outcome: Outcome, front: Front) -> None:
        self._front = front
        self._left = f"  ({self._pace.after(len(front.outcomes))})"
        self.say(line_of(outcome, front))
        self._draw()

    def forecast(self, gain: float | None) -> None:
        self._pace.gain = gain

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.text import Text

        from search.front.study_record import StudyRecord

        self._drawn = time.monotonic()
        seconds = self._drawn - self._began
        status = Text(f"{_clock(seconds)}  {self._stage} {100 * self._done:.0f} %{self._left}")
        if self._front is None or not self._front.members or not isinstance(self._study, StudyRecord):
            self._live.update(status, refresh=True)
        else:
            self._live.update(Group(table(self._front, self._study), status), refresh=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:>3}:{int(seconds) % 60:02}"
