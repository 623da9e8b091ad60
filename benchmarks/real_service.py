"""How the running service keeps its latency objective: load from another process on a real exported front.

    python -m benchmarks.serving --export mlruns/exports/question-answering            all of it, about half an hour
    python -m benchmarks.serving --export mlruns/exports/question-answering --quick    shorter runs, under ten minutes

The front is one of question answering. The questions are the test rows of the embedded example, so each answer is
compared with its gold answers. Effective quality is the mean token F1 over all requests that are sent; one that is
refused, late or lost has 0. The client, the service and the model share this machine, so the figures are lower than
those of a machine that has the service alone. Loads are multiples of what the most accurate variant answers with 16
callers. The simulation beside a real run has the same arrivals, and each variant's times as they were measured here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header
from benchmarks.served_front import CALLERS, Bench, Run, figures, per_s
from search.serve.policy import BacklogFit, Fixed, Policy
from tests.worlds.arrivals import Arrivals

OURS = "ours"
KINDS = ("most accurate", "fastest")
CASES = ("trace", "ramp", "bursts", "step")
#: Times of the bare model on one question each, and where the median lies: search.load in a process of its own.
BARE = """
import json, sys, time
import search
model = search.load(sys.argv[1])
asked = json.load(sys.stdin)
for one in asked[:10]:
    model(one["question"], one["context"])
times = []
for one in asked:
    began = time.perf_counter()
    model(one["question"], one["context"])
    times.append((time.perf_counter() - began) * 1e3)
print(json.dumps(times))
"""


def policies(bench: Bench, trace: Arrivals) -> tuple[dict[str, dict[str, Run]], float]:
    """(runs by case and policy, requests a second of the most accurate variant)."""
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
    return by_case, bench.capacity


def overhead_ms(bench: Bench, count: int = 200) -> tuple[float, float]:
    """(median of the bare model, median of what the service adds to the same question) of the fastest variant."""
    number = bench.variants[0].number
    with bench.served() as served:
        served.pin(number)
        _, bodies = bench.bodies.take(20)
        served.load(bodies, callers=1, seconds=30).replies()
        taken, bodies = bench.bodies.take(count)
        replies = served.load(bodies, callers=1, seconds=120).replies()
    rows = [{"question": one.question, "context": one.context} for one in taken]
    command = [sys.executable, "-c", BARE, str(bench.export / "models" / str(number))]
    bare = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, cwd=header.ROOT, check=True)
    alone = np.asarray(json.loads(bare.stdout))
    through = np.asarray([reply.ms for reply in replies])
    return float(np.median(alone)), float(np.median(through - alone))


def batching(bench: Bench) -> dict[str, float]:
    """Answers a second at saturation with batches, over those without, by what is asked."""
    seconds = 5.0 if bench.quick else 15.0
    number, rates = bench.variants[0].number, dict[tuple[str, str], float]()
    texts = [json.dumps({"input": one.question}) for one in bench.bodies.asked]
    for size in ("32", "1"):
        with bench.served("--max-batch", size) as served:
            rates["questions with their contexts", size] = per_s(bench.throughput(served, number, seconds)[1])
            load = served.load(texts * 20, "/v1/embed", callers=CALLERS, seconds=seconds)
            rates["embeddings of short texts", size] = per_s(load.replies())
    return {what: rates[what, "32"] / rates[what, "1"] for what in dict.fromkeys(what for what, _ in rates)}


def overload(bench: Bench) -> dict[str, float]:
    """Five times the capacity of the fastest variant, then half of it."""
    with bench.served() as served:
        most = per_s(bench.throughput(served, bench.variants[0].number, 5.0)[1])
        served.pin(None)
        random = np.random.default_rng(0)
        heavy, calm = 5.0, 10.0
        times = np.cumsum(random.exponential(1 / (5 * most), int(5 * most * heavy)))
        after = times[-1] + np.cumsum(random.exponential(2 / most, int(most * calm / 2)))
        _, bodies = bench.bodies.take(len(times) + len(after), bench.slo_ms)
        replies = served.load(bodies, at_s=[*times.tolist(), *after.tolist()]).replies()
    first, last = replies[: len(times)], replies[len(times) :]
    refused = [reply.ms for reply in first if reply.status == 429]
    taken = [reply for reply in first if reply.status != 429]
    bad = [reply.due_s for reply in last if reply.status != 200 or reply.ms > bench.slo_ms]
    return {
        "refused, %": 100 * len(refused) / len(first),
        "refusal p99, ms": float(np.quantile(refused, 0.99)) if refused else float("nan"),
        "in time of those taken, %": 100 * float(np.mean([r.status == 200 and r.ms <= bench.slo_ms for r in taken])),
        "recovery, s": max(bad, default=times[-1]) - times[-1],
        "answers 5xx but 503 and 504": float(sum(r.status >= 500 and r.status not in (503, 504) for r in replies)),
    }


def soak(bench: Bench, seconds: float) -> dict[str, float]:
    """80 % of the capacity of the most accurate variant."""
    rate = 0.8 * bench.capacity
    times = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    with bench.served() as served:
        asked, bodies = bench.bodies.take(len(times), bench.slo_ms)
        load, memory = served.load(bodies, at_s=times.tolist()), []
        while load.running:
            memory.append(served.memory_mb())
            load.wait(2.0)
        run = figures(asked, load.replies(), bench.slo_ms)
    # The first fifth fills the caches.
    settled = memory[len(memory) // 5 : -1]
    return {
        "seconds": seconds,
        "not answered, %": 100 * run.not_taken,
        "in time, %": 100 * run.attainment,
        "memory at the end, MB": float(np.mean(settled[-5:])),
        "memory grows by, %": 100 * (float(np.mean(settled[-5:])) / float(np.mean(settled[:5])) - 1),
    }


def killed(bench: Bench) -> tuple[int, int]:
    """(answers that clients had when the service was killed, those of them that are in the database after)."""
    with bench.served() as served:
        times = np.arange(0, 5, 0.8 / bench.capacity)
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
    return len(sent), len(sent & stored)


def rows_of(by_case: dict[str, dict[str, Run]]) -> list[tuple[str, ...]]:
    return [
        (case, name, str(run.offered), f"{100 * run.attainment:.2f}", f"{100 * run.simulated:.2f}",
         f"{100 * run.effective:.2f}", f"{100 * run.not_taken:.2f}", f"{run.p99_ms:.0f}",
         ", ".join(f"{variant.rpartition('/')[2]}: {number}" for variant, number in run.variants.items()))
        for case, runs in by_case.items() for name, run in runs.items()
    ]  # fmt: skip


def measure(export: Path, slo_ms: float, trace: Arrivals, quick: bool) -> tuple[dict[str, Any], list[header.Promise]]:
    """Everything, with its tables printed; (figures, promises)."""
    bench = Bench(export, slo_ms, quick)
    by_case, capacity = policies(bench, trace)
    print(
        f"\n{bench.study}, served: the most accurate variant answers {capacity:.1f} a second; objective {slo_ms:g} ms"
    )
    columns = (
        "load",
        "policy",
        "sent",
        "in time %",
        "simulated %",
        "effective F1",
        "not taken %",
        "p99 ms",
        "answers by",
    )
    print(header.table(columns, rows_of(by_case)), flush=True)
    alone, added = overhead_ms(bench)
    print(f"\nidle: the fastest variant alone {alone:.2f} ms, the service adds {added:.2f} ms (medians)", flush=True)
    gains = batching(bench)
    for what, gain in gains.items():
        print(f"batching, {CALLERS} callers: {gain:.2f} times the {what} a second", flush=True)
    sections = {"overload": overload(bench), "soak": soak(bench, 60.0 if quick else 600.0)}
    for name, values in sections.items():
        print(f"{name}: " + ", ".join(f"{what} {value:.4g}" for what, value in values.items()), flush=True)
    sent, stored = killed(bench)
    print(f"kill -9 under load: {stored} of {sent} answers that were sent are in the database", flush=True)
    figures = {"policies": by_case, "alone_ms": alone, "added_ms": added, "batching": gains, **sections,
               "killed": [sent, stored]}  # fmt: skip
    return figures, [
        *_policy_promises(by_case),
        header.Promise("idle: the service adds, ms", added, high=2),
        header.Promise("batching: the larger gain", max(gains.values()), low=1.3),
        header.Promise("overload: p99 of refusals, ms", sections["overload"]["refusal p99, ms"], high=50),
        header.Promise("overload: recovery, s", sections["overload"]["recovery, s"], high=5),
        header.Promise(
            "overload: in time of those taken, %", sections["overload"]["in time of those taken, %"], low=98
        ),
        header.Promise("soak: not answered, %", sections["soak"]["not answered, %"], high=0),
        header.Promise("soak: memory grows by, %", sections["soak"]["memory grows by, %"], high=5),
        header.Promise("kill -9: answers lost", sent - stored, high=0),
    ]


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
