"""How the running service keeps its latency objective: load from another process on a real exported front.

    python -m benchmarks.serving --export mlruns/exports/question-answering            all of it, about half an hour
    python -m benchmarks.serving --export mlruns/exports/question-answering --quick    shorter runs, about eight minutes

Stages, and the time that each takes with the start of its services, for a front of five members; in brackets with
`--quick`. Each has bounded loads, so none takes more than twice as long.

| stage | measures | minutes |
|---|---|---|
| policies | attainment and effective quality of ours and both fixed variants under four loads | 15 (5) |
| overhead | what the service adds to an idle question | 1 (1) |
| batching | answers a second with batches over those without | 2 (1) |
| overload | five times the capacity of the fastest variant, then half of it | 1 (1) |
| soak | errors and memory at 80 % of the capacity of the most accurate variant | 11 (2) |
| kill | answers in the database after `kill -9` | 1 (1) |

The front is one of question answering. The questions are the test rows of the embedded example, so each answer is
compared with its gold answers. Effective quality is the mean token F1 over all requests that are sent; one that is
refused, late or lost has 0. The client, the service and the model share this machine, so the figures are lower than
those of a machine that has the service alone. Loads are multiples of what the most accurate variant answers with 16
callers, or of less where the fastest could not answer them in time (`served_front.ROOM`). The simulation beside a real
run has the same arrivals, and each variant's times as they were measured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import header
from benchmarks.served import BareModel
from benchmarks.served_front import CALLERS, Bench, Run, figures, per_s
from benchmarks.stages import StageResult
from search.serve.policy import BacklogFit, Fixed, Policy
from tests.worlds.arrivals import Arrivals

OURS = "ours"
KINDS = ("most accurate", "fastest")
CASES = ("trace", "ramp", "bursts", "step")
#: Turns of the service and the bare model, so that both have the machine at the same speed; questions of each.
TURNS, PER_TURN = 4, 60
#: Requests in a row, and the share of them in time from which on an overload is over; a lower one where the same load
#: had a lower one without an overload.
ROW, RECOVERED = 100, 0.98


def policies(bench: Bench, trace: Arrivals) -> StageResult:
    """Ours and both fixed variants under the same arrivals."""
    seconds = 15.0 if bench.quick else 60.0
    fastest, accurate = bench.variants[0].number, bench.variants[-1].number
    chosen: dict[str, tuple[int | None, Policy]] = {
        f"most accurate ({accurate})": (accurate, Fixed(accurate)),
        f"fastest ({fastest})": (fastest, Fixed(fastest)),
        OURS: (None, BacklogFit()),
    }
    by_case: dict[str, dict[str, Run]] = {}
    with bench.served() as served:
        measured = bench.measured_variants(served)
        for case in CASES:
            arrivals = bench.arrivals(case, trace, seconds)
            by_case[case] = {}
            for name, (number, policy) in chosen.items():
                by_case[case][name] = bench.run(served, arrivals, number, measured, policy)
    columns = ("load", "policy", "sent", "in time %", "simulated %", "effective F1", "not taken %", "p99 ms", "by")
    text = (
        f"{bench.study}, served: the most accurate variant answers {bench.capacity:.1f} a second, 1x is "
        f"{bench.unit:.1f}; objective {bench.slo_ms:g} ms\n{header.table(columns, rows_of(by_case))}"
    )
    values = {"per_s": bench.capacity, "unit_per_s": bench.unit, "runs": by_case}
    return StageResult(values, text, _policy_promises(by_case))


def overhead(bench: Bench, trace: Arrivals) -> StageResult:
    """What the service adds to the fastest variant, one question at a time, and in which of its parts."""
    number = bench.variants[0].number
    alone, through, stages = list[float](), list[float](), list[dict[str, float]]()
    bare = BareModel(bench.export / "models" / str(number))
    try:
        with bench.served() as served:
            served.pin(number)
            warm, bodies = bench.bodies.take(20)
            served.load(bodies, callers=1, seconds=30).replies()
            bare.ms(warm)
            for _ in range(TURNS):
                taken, bodies = bench.bodies.take(PER_TURN)
                sent = served.load(bodies, callers=1, seconds=30).replies()
                times = bare.ms(taken[: len(sent)])
                answered = [(reply, ms) for reply, ms in zip(sent, times, strict=True) if reply.status == 200]
                alone += [ms for _, ms in answered]
                through += [reply.ms for reply, _ in answered]
                stages += [reply.fields["milliseconds"] for reply, _ in answered]
    finally:
        bare.close()

    def added(longer: Sequence[float], *shorter: Sequence[float]) -> float:
        return float(np.median(np.subtract(longer, np.sum(shorter, axis=0))))

    inside, answer, wait, model, store = (
        [one[name] for one in stages] for name in ("total", "answer", "wait", "model", "store")
    )
    values = {
        "alone, ms": float(np.median(alone)),
        "added, ms": added(through, alone),
        "model in the service, ms": added(model, alone),
        "service beside the model, ms": added(inside, model),
        "of it until a worker begins, ms": float(np.median(wait)),
        "of it from the worker's end, ms": added(answer, wait, model),
        "of it storing, ms": float(np.median(store)),
        "connection, HTTP and client, ms": added(through, inside),
    }
    promise = header.Promise("idle: the service adds, ms", values["added, ms"], high=2)
    return StageResult(values, _line("idle question, medians", values), [promise])


def batching(bench: Bench, trace: Arrivals) -> StageResult:
    """Answers a second at saturation with batches, over those without, by what is asked."""
    seconds = 5.0 if bench.quick else 15.0
    number, rates = bench.variants[0].number, dict[tuple[str, str], float]()
    texts = [json.dumps({"input": one.question}) for one in bench.bodies.asked]
    for size in ("32", "1"):
        with bench.served("--max-batch", size) as served:
            rates["questions with their contexts", size] = per_s(bench.throughput(served, number, seconds)[1])
            load = served.load(texts * 20, "/v1/embed", callers=CALLERS, seconds=seconds)
            rates["embeddings of short texts", size] = per_s(load.replies())
    gains = {what: rates[what, "32"] / rates[what, "1"] for what in dict.fromkeys(what for what, _ in rates)}
    promise = header.Promise("batching: the larger gain", max(gains.values()), low=1.3)
    return StageResult(gains, _line(f"batching, {CALLERS} callers, times the answers a second", gains), [promise])


def overload(bench: Bench, trace: Arrivals) -> StageResult:
    """Half of the capacity of the fastest variant, five times of it, then half of it again."""
    with bench.served() as served:
        most = per_s(bench.throughput(served, bench.variants[0].number, 5.0)[1])
        served.pin(None)
        random = np.random.default_rng(0)
        heavy, calm = 5.0, 10.0
        times = np.cumsum(random.exponential(1 / (5 * most), int(5 * most * heavy)))
        gaps = random.exponential(2 / most, int(most * calm / 2))
        after = times[-1] + np.cumsum(gaps)
        _, bodies = bench.bodies.take(len(after), bench.slo_ms)
        before = served.load(bodies, at_s=np.cumsum(gaps).tolist()).replies()
        _, bodies = bench.bodies.take(len(times) + len(after), bench.slo_ms)
        replies = served.load(bodies, at_s=[*times.tolist(), *after.tolist()]).replies()
    first, last = replies[: len(times)], replies[len(times) :]
    refused = [reply.ms for reply in first if reply.status == 429]
    taken = [reply for reply in first if reply.status != 429]
    usual, good = ([r.status == 200 and r.ms <= bench.slo_ms for r in some] for some in (before, last))
    worst = min(RECOVERED, *shares(usual))
    since = [reply.due_s - float(times[-1]) for reply in last]
    values = {
        "answers a second of the fastest": most,
        "refused, %": 100 * len(refused) / len(first),
        "refusal p99, ms": float(np.quantile(refused, 0.99)) if refused else float("nan"),
        "in time of those taken, %": 100 * float(np.mean([r.status == 200 and r.ms <= bench.slo_ms for r in taken])),
        "answered late, %": 100 * float(np.mean([r.status == 200 and r.ms > bench.slo_ms for r in taken])),
        "expired, %": 100 * float(np.mean([r.status == 504 for r in taken])),
        "same load before, worst row in time, %": 100 * min(shares(usual)),
        "recovery, s": recovery_s(since, good, worst),
        "last one not in time, s": max((s for s, g in zip(since, good, strict=True) if not g), default=0.0),
        "answers 5xx but 503 and 504": float(sum(r.status >= 500 and r.status not in (503, 504) for r in replies)),
    }
    promised = [
        header.Promise("overload: p99 of refusals, ms", values["refusal p99, ms"], high=50),
        header.Promise("overload: recovery, s", values["recovery, s"], high=5),
        header.Promise("overload: in time of those taken, %", values["in time of those taken, %"], low=98),
    ]
    return StageResult(values, _line("overload", values), promised)


def shares(good: Sequence[bool]) -> list[float]:
    """The share of good ones among every `ROW` in a row, or among all where they are fewer."""
    return [float(np.mean(good[start : start + ROW])) for start in range(max(len(good) - ROW, 0) + 1)]


def recovery_s(since_s: Sequence[float], good: Sequence[bool], share: float = RECOVERED) -> float:
    """When the objective is kept again after an overload: from then on `share` of any `ROW` requests are in time.

    A miss now and then is none of the overload's: under any load some are late, as the same load shows before it.

    Args:
        since_s: when each request came, in seconds since the overload ended, ascending.
        good: whether it was in time.
    """
    bad = [start for start, value in enumerate(shares(good)) if value < share]
    if not bad:
        return 0.0
    return float("inf") if bad[-1] == max(len(good) - ROW, 0) else since_s[bad[-1] + 1]


def soak(bench: Bench, trace: Arrivals) -> StageResult:
    """80 % of the capacity of the most accurate variant; requests bring no limit, and so have the service's own."""
    seconds = 60.0 if bench.quick else 600.0
    rate = 0.8 * bench.accurate_per_s()
    times = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    with bench.served() as served:
        asked, bodies = bench.bodies.take(len(times))
        load, memory = served.load(bodies, at_s=times.tolist()), []
        while load.running:
            memory.append(served.memory_mb())
            load.wait(2.0)
        replies = load.replies()
    run = figures(asked, replies, bench.slo_ms)
    failed = [reply.status for reply in replies if reply.status != 200]
    # The first fifth fills the caches.
    settled = memory[len(memory) // 5 : -1]
    values = {
        "seconds": seconds,
        "not answered, %": 100 * run.not_taken,
        **{f"status {status}": float(failed.count(status)) for status in sorted(set(failed))},
        "in time, %": 100 * run.attainment,
        "memory at the end, MB": float(np.mean(settled[-5:])),
        "memory grows by, %": 100 * (float(np.mean(settled[-5:])) / float(np.mean(settled[:5])) - 1),
    }
    promised = [
        header.Promise("soak: not answered, %", values["not answered, %"], high=0),
        header.Promise("soak: memory grows by, %", values["memory grows by, %"], high=5),
    ]
    return StageResult(values, _line("soak", values), promised)


def kill(bench: Bench, trace: Arrivals) -> StageResult:
    """The answers that clients had when the service was killed, and those of them that are in the database after."""
    times = np.arange(0, 5, 0.8 / bench.accurate_per_s())
    with bench.served() as served:
        _, bodies = bench.bodies.take(len(times))
        load = served.load(bodies, at_s=times.tolist())
        load.wait(3.0)
        served.kill()
        sent = {int(reply.fields["id"]) for reply in load.replies() if reply.status == 200}
        served.start()
        stored, before = set[int](), ""
        while rows := served.get(f"/v1/history?limit=200{before}")["answers"]:
            stored |= {int(row["id"]) for row in rows}
            before = f"&before={min(int(row['id']) for row in rows)}"
    lost = len(sent - stored)
    text = f"kill -9 under load: {len(sent) - lost} of {len(sent)} answers that were sent are in the database"
    return StageResult([len(sent), lost], text, [header.Promise("kill -9: answers lost", lost, high=0)])


STAGES: dict[str, Callable[[Bench, Arrivals], StageResult]] = {
    "policies": policies,
    "overhead": overhead,
    "batching": batching,
    "overload": overload,
    "soak": soak,
    "kill": kill,
}


def _line(what: str, values: dict[str, Any]) -> str:
    return f"{what}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def rows_of(by_case: dict[str, dict[str, Run]]) -> list[tuple[str, ...]]:
    return [
        (case, name, str(run.offered), f"{100 * run.attainment:.2f}", f"{100 * run.simulated:.2f}",
         f"{100 * run.effective:.2f}", f"{100 * run.not_taken:.2f}", f"{run.p99_ms:.0f}",
         ", ".join(f"{variant.rpartition('/')[2]}: {number}" for variant, number in run.variants.items()))
        for case, runs in by_case.items() for name, run in runs.items()
    ]  # fmt: skip


def _policy_promises(by_case: dict[str, dict[str, Run]]) -> list[header.Promise]:
    promises = []
    for case, runs in by_case.items():
        accurate, fastest = (next(run for name, run in runs.items() if name.startswith(kind)) for kind in KINDS)
        ours = runs[OURS]
        promises += [
            header.Promise(f"served, {case}: attainment, %", 100 * ours.attainment, low=98),
            header.Promise(
                f"served, {case}: effective F1 over the fastest, points",
                100 * (ours.effective - fastest.effective), low=3,
            ),
            header.Promise(f"served, {case}: most accurate alone, attainment, %", 100 * accurate.attainment, high=90),
            header.Promise(
                f"served, {case}: simulation off by at most, points",
                max(100 * abs(run.attainment - run.simulated) for run in runs.values()), high=2,
            ),
        ]  # fmt: skip
    return promises
