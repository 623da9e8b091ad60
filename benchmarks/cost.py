"""Where the time of a finished search went, by stage; measuring must be a small part of it.

    python -m benchmarks.cost                            the study movie-reviews in ./mlruns
    python -m benchmarks.cost --study NAME --mlruns DIR --check

Promised: the quick tier takes under 10 % of a default run's wall time (python -m search run).
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import header
from search.deliver.read_study import read_study

SHARE = 0.10
QUICK = "latency"  # what the evaluator calls the quick tier's time


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--study", default="movie-reviews")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"))
    arguments = parser.parse_args()
    about = header.hardware()
    front, study = read_study(arguments.mlruns, arguments.study)
    stages: dict[str, float] = {QUICK: 0.0}
    for outcome in front.outcomes:
        for stage, seconds in outcome.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    timed = sum(QUICK in outcome.seconds for outcome in front.outcomes)
    stages["teacher, proposals, logging, finalists"] = max(0.0, study.seconds - sum(stages.values()))
    print(f"{header.heading(about)}\n{arguments.study}: {len(front.outcomes)} trials, {timed} of them timed\n")
    in_order = sorted(stages.items(), key=lambda item: -item[1])
    rows = [(name, f"{s:.1f}", f"{s / study.seconds:.1%}") for name, s in in_order]
    print(header.table(("stage", "seconds", "share"), [*rows, ("the whole run", f"{study.seconds:.1f}", "100 %")]))
    share = stages[QUICK] / study.seconds
    promise = header.Promise("quick tier's share of the search's wall time", share, high=SHARE)
    figures = {"stages": stages, "seconds": study.seconds, "timed": timed}
    return header.finish(arguments, about, figures, [promise])


if __name__ == "__main__":
    sys.exit(main())
