"""Would a draft model pay for speculative decoding of SmolLM2-135M-Instruct? An upper bound, batch 1, greedy.

    python -m benchmarks.drafts --check
    python -m benchmarks.drafts --models copies --no-times --json agreements.json
    python -m benchmarks.drafts --models copies --agreements agreements.json

The target is the model in fp32 under ONNX Runtime. A draft is a copy of it without 1, 3, 6, 10 or 15 of its 30 blocks,
in fp32 or int8, or all of it in int8. Blocks are removed as a search does (`distill.layers`: those without which the
likelihood of 2,048 tokens changes least), and nothing is trained afterwards.

"Accepted" is the share of tokens of the target's own answers, to the prompts of benchmarks/speculation.py, that the
draft gives too after the target's tokens before them. From these agreements greedy speculative decoding (arXiv
2211.17192) with 1 to 6 proposed tokens a call is replayed: what a draft proposes after a rejected token is thrown away,
so the replay is exact. (In int8, tokens that are read together may be rounded otherwise than one by one, and the draft
reads an answer at once here.) The first command line above measures both, the second agreements alone, which may be
done on a busy machine, and the third times: a step of each copy after 128 tokens, and the target's reading of 2 to 7
tokens at once, in turns. The bound divides plain decoding by the replay's calls at these times, with the best number of
proposed tokens. It leaves out that the draft reads the prompt, and its last token where all are accepted. "run of 3" is
how many tokens are accepted in a call that proposes 3, and "1.6 with 5" is times as fast, with 5 proposed tokens. The
weights were 4-bit before. The copies take 7 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import generating, header, language_models, speculation
from benchmarks.replays import acceptance, replayed
from objectives.process import Remote
from spaces import base, build, calibration, registry
from spaces.losses import LIKELIHOOD_LOSSES
from spaces.runtime import Context
from spaces.runtimes import causal_onnx, onnx
from spaces.statistics_pass import collect

WHOLE = "whole"  # the folder of the model with all its blocks
REMOVED, FEWER = (1, 3, 6, 10, 15), (1, 6)  # blocks; with --quick
RANKING, SHORTER = 4, 1  # windows of 512 tokens that rank the blocks, as in a search; with --quick
PROMPTS, FEW = 12, 3  # of each kind; with --quick
MOST = 6  # proposed tokens a call
OPENING_S, ANSWERING_S = 900, 600  # longest of a process: its graph may have to be written
DEPLOYMENTS = {p: next(d for d in language_models.DEPLOYMENTS if d.name == f"onnx {p}") for p in ("fp32", "int8")}
Agreements = dict[str, dict[str, list[str]]]  # by name of the draft and kind of prompt: a string of 1 and 0 an answer
Figures = dict[str, Any]


@dataclass(frozen=True)
class Copy:
    """The model in one of the folders of `models`, in one precision."""

    folder: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.folder}, {self.precision}"

    def opened(self, models: Path, threads: int) -> contextlib.closing[Remote]:
        """A `benchmarks.generating.Generating` in a process of its own."""
        deployment = DEPLOYMENTS[self.precision]
        making = functools.partial(generating.open_generating, models / self.folder, deployment, threads)
        return contextlib.closing(Remote(making, timeout_s=OPENING_S))

    def write_graph(self, models: Path) -> None:
        """Where it is not there yet."""
        folder, plan = models / self.folder, DEPLOYMENTS[self.precision].plan
        causal_onnx.causal_graph(folder, plan, folder / onnx.file_of(plan), Context())


TARGET, PLAIN_INT8 = Copy(WHOLE, "fp32"), Copy(WHOLE, "int8")


def drafts_of(blocks: Mapping[str, Any]) -> list[Copy]:
    return [PLAIN_INT8, *(Copy(folder, precision) for folder in blocks for precision in DEPLOYMENTS)]


def ranked(folder: Path, removed: Sequence[int]) -> dict[str, list[int]]:
    """The blocks that stay, by the name of the copy's folder: without the least important ones, ranked once."""
    targets = torch.zeros(1, dtype=torch.long)
    rows = [{name: torch.from_numpy(values) for name, values in row.items()} for row in calibration.read(folder)]
    batches = [(row, targets) for row in rows]
    statistics = collect(build.load_model(folder), batches, LIKELIHOOD_LOSSES.loss, LIKELIHOOD_LOSSES.divergence)
    left, axis = [statistics.shape.depth - count for count in removed], registry.axis_named("distill")
    return {f"{count} blocks": axis.decide(statistics, {"layers": count})["blocks"] for count in left}


def write_copies(models: Path, blocks: Mapping[str, list[int]]) -> None:
    """A folder for each, unless it is there. Exits where it has other blocks."""
    about, plans = base.read_config(models / WHOLE)
    for name, indices in blocks.items():
        folder, plan = models / name, {"blocks": indices}
        if (folder / "config.json").exists():
            if base.read_config(folder)[1]["distill"] != plan:
                sys.exit(f"{folder} must have the blocks {indices} and has others: name another folder of --models")
            continue
        model = build.load_model(models / WHOLE)
        registry.axis_named("distill").reshape(model, plan)
        base.write_folder(folder, model, about, {**plans, "distill": plan})


def agreements_of(
    models: Path, drafts: Sequence[Copy], prompts: dict[str, list[np.ndarray]], ends: frozenset[int], threads: int
) -> Agreements:
    """Of each draft with the target's answers, one process after the other."""
    with TARGET.opened(models, threads) as bench:
        asked = functools.partial(bench.call, "answer", timeout_s=ANSWERING_S)
        answers = {
            kind: [(prompt, asked(prompt, speculation.MOST, ends, False).tokens) for prompt in of_kind]
            for kind, of_kind in prompts.items()
        }
    agreements: Agreements = {}
    for draft in drafts:
        with draft.opened(models, threads) as bench:
            asked = functools.partial(bench.call, "agreements", timeout_s=ANSWERING_S)
            agreements[draft.name] = {kind: [asked(*pair) for pair in pairs] for kind, pairs in answers.items()}
        print(
            f"{draft.name}: {acceptance([*itertools.chain(*agreements[draft.name].values())]):.0%} accepted", flush=True
        )
    return agreements


def times_of(models: Path, drafts: Sequence[Copy], quick: bool, threads: int) -> dict[str, dict[str, list[float]]]:
    """ms by copy: of a step, "1", and of the target also of 2 and more tokens. All are open, and take turns."""
    rounds, steps, repeats = (3, 6, 3) if quick else (9, 12, 6)
    copies = {copy.name: copy for copy in (TARGET, *drafts)}
    for copy in copies.values():
        copy.write_graph(models)  # in this process, which is not measured
    rng, length = np.random.default_rng(0), language_models.PROMPT
    vocabulary = base.read_config(models / WHOLE)[0].config["vocab_size"]
    times: dict[str, dict[str, list[float]]] = {name: {} for name in copies}
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(copy.opened(models, threads)) for name, copy in copies.items()}
        for turn in range(rounds + 1):
            prompt = rng.integers(vocabulary, size=(1, length))
            for name in rng.permutation(list(opened)):
                bench = opened[name]
                bench.call("ttft", prompt)
                ms = {"1": bench.call("tpot", length, steps)}
                if name == TARGET.name:
                    for count in rng.permutation(np.arange(2, MOST + 2)):
                        ms[str(count)] = bench.call("reading", length, int(count), repeats)
                if turn:  # once without being counted
                    times[name] = {count: times[name].get(count, []) + some for count, some in ms.items()}
    return times


def runs_of(agreements: Agreements) -> list[Figures]:
    """By draft and kind of prompt: the share of accepted tokens, and the mean run by number of proposed tokens."""
    return [
        {
            "draft": draft,
            "kind": kind,
            "tokens": sum(map(len, answers)),
            "acceptance": acceptance(answers),
            "runs": {n: replayed(answers, n, speculation.MOST).run for n in range(1, MOST + 1)},
        }
        for draft, by_kind in agreements.items()
        for kind, answers in by_kind.items()
    ]


def bounds_of(agreements: Agreements, times: Mapping[str, Mapping[str, list[float]]]) -> list[Figures]:
    """By draft and kind of prompt: the number of proposed tokens that takes least time, and that time a token."""
    reading = {int(count): float(np.median(ms)) for count, ms in times[TARGET.name].items()}
    bounds = []
    for draft, by_kind in agreements.items():
        step = float(np.median(times[draft]["1"]))
        for kind, answers in by_kind.items():
            ms = {n: replayed(answers, n, speculation.MOST).ms(step, reading) for n in range(1, MOST + 1)}
            best = min(ms, key=lambda n: ms[n])
            bounds.append(
                {
                    "draft": draft,
                    "kind": kind,
                    "acceptance": acceptance(answers),
                    "step_ms": step,
                    "proposed": best,
                    "ms": ms[best],
                    "speedup": reading[1] / ms[best],
                    "speedups": {n: reading[1] / ms[n] for n in ms},
                }
            )
    return bounds


def speed_of_int8(times: Mapping[str, Mapping[str, list[float]]]) -> float:
    """Of plain decoding in int8 over that in fp32."""
    return float(np.median(times[TARGET.name]["1"]) / np.median(times[PLAIN_INT8.name]["1"]))


def best_of(bounds: Sequence[Figures], pruned: bool) -> dict[str, Figures]:
    """The fastest draft by kind of prompt; of those without some blocks alone, or of all."""
    chosen = [bound for bound in bounds if not pruned or bound["draft"] != PLAIN_INT8.name]
    kinds = dict.fromkeys(bound["kind"] for bound in chosen)
    return {kind: max((b for b in chosen if b["kind"] == kind), key=lambda b: b["speedup"]) for kind in kinds}


def told(agreements: Agreements, times: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The tables and sentences of agreements and, where they were measured, of times."""
    runs = [
        (r["draft"], r["kind"], r["tokens"], f"{r['acceptance']:.0%}", *(f"{run:.2f}" for run in r["runs"].values()))
        for r in runs_of(agreements)
    ]
    columns = ("draft", "prompt", "tokens", "accepted", *(f"run of {n}" for n in range(1, MOST + 1)))
    parts = [header.table(columns, runs)]
    if times:
        bounds = bounds_of(agreements, times)
        rows = []
        for draft, by_kind in agreements.items():
            cells = {b["kind"]: f"{b['speedup']:.2f} with {b['proposed']}" for b in bounds if b["draft"] == draft}
            rows.append((draft, f"{np.median(times[draft]['1']):.1f}", *(cells[kind] for kind in by_kind)))
        parts.append(header.table(("draft", "TPOT ms", *speculation.KINDS), rows))
        reading = [f"{count} in {np.median(ms):.1f}" for count, ms in sorted(times[TARGET.name].items())]
        parts.append(f"The target reads tokens in ms: {', '.join(reading)}.")
        for what, pruned in (("all drafts", False), ("drafts without some blocks", True)):
            best = [f"{k} {b['speedup']:.2f} ({b['draft']})" for k, b in best_of(bounds, pruned).items()]
            parts.append(f"Times as fast as plain fp32, at most, of {what}: {', '.join(best)}.")
        parts.append(f"Plain int8, whose answers are others: {speed_of_int8(times):.2f} times as fast as plain fp32.")
    return "\n\n".join(parts)


def promises(figures: Figures) -> list[header.Promise]:
    of_int8 = [answer for answers in figures["agreements"][PLAIN_INT8.name].values() for answer in answers]
    held = [header.Promise("whole, int8: share of accepted tokens", acceptance(of_int8), low=0.8)]
    if figures["times"]:
        best = max(bound["speedup"] for bound in figures["bounds"])
        held.append(
            header.Promise("the fastest draft's bound over plain int8", best / speed_of_int8(figures["times"]), high=1)
        )
    return held


def read_agreements(parser: argparse.ArgumentParser, file: Path) -> tuple[dict[str, list[int]], Agreements]:
    """Blocks and agreements of an earlier run."""
    try:
        figures = json.loads(file.read_text())["figures"]
        return figures["blocks"], figures["agreements"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--agreements must be a file that --json of this benchmark wrote, got {file} ({error!r})")


def measured(arguments: argparse.Namespace, models: Path, parser: argparse.ArgumentParser, threads: int) -> Figures:
    quick = arguments.quick
    if not (models / WHOLE / "config.json").exists():
        language_models.write_model(models / WHOLE, arguments.text, language_models.WINDOW)
    if arguments.agreements is None:
        language_models.calibrate(models / WHOLE, SHORTER if quick else RANKING)
        blocks = ranked(models / WHOLE, FEWER if quick else REMOVED)
        write_copies(models, blocks)
        prompts, ends = speculation.prompts_of(arguments.text, FEW if quick else PROMPTS)
        agreements = agreements_of(models, drafts_of(blocks), prompts, ends, threads)
    else:
        blocks, agreements = read_agreements(parser, arguments.agreements)
        write_copies(models, blocks)
    times = {} if arguments.no_times else times_of(models, drafts_of(blocks), quick, threads)
    bounds = bounds_of(agreements, times) if times else []
    return {"blocks": blocks, "agreements": agreements, "runs": runs_of(agreements), "times": times, "bounds": bounds}


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--agreements", type=Path, metavar="FILE", help="take them from what --json wrote, not anew")
    parser.add_argument("--models", type=Path, metavar="DIR", help="keep the copies in DIR, and use those that it has")
    parser.add_argument("--no-times", action="store_true", help="agreements alone")
    _, arguments, threads = language_models.asked(__doc__ or "", parser)
    torch.set_num_threads(threads)
    about = header.hardware()
    print(f"{header.heading(about)}\nSmolLM2-135M-Instruct, weights 4-bit before; {threads} threads\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measured(arguments, arguments.models or Path(temporary), parser, threads)
    print("\n" + told(figures["agreements"], figures["times"]))
    return header.finish(arguments, about, figures, promises(figures))


if __name__ == "__main__":
    sys.exit(main())
