"""The command line: parse, call, print. No logic, and nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from search.errors import UserError, database_is_locked, disk_is_full, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 the job ran and failed, 2 the input is wrong."""
    parsed = parser().parse_args(arguments)
    from objectives.quiet import quiet

    quiet()  # here and in what is started from here: the process is this program's own
    try:
        return int(parsed.call(parsed))
    except UserError as error:
        if parsed.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 1
    except Exception as error:
        if parsed.debug:
            raise
        for line in _failure(error):
            print(line, file=sys.stderr)
        return 1


def _failure(error: Exception) -> tuple[str, ...]:
    """One or two lines about what made a command fail."""
    from search.run_log import logged_in

    if disk_is_full(error):
        first = f"failed: nothing more can be written (is the disk full?): {one_line(error, 300)}"
        return first, "what is finished is kept; the same command goes on when there is space"
    if database_is_locked(error):
        first = "failed: another program holds a database of the results folder (optuna.db or mlflow.db)"
        return first, "what is finished is kept; the same command goes on when that program has let go of it"
    where = logged_in(error) or "--debug shows where"
    return (f"failed: {type(error).__name__}: {one_line(error, 600)} ({where})",)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m search",
        description="Finds the fastest compressed form of a transformer that is still good enough, on this device.",
        epilog="example: python -m search run",
    )
    made.set_defaults(debug=False)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run(commands)
    _plan(commands)
    _front(commands)
    _export(commands)
    _apply(commands)
    _check(commands)
    _cache(commands)
    _list(commands)
    _ui(commands)
    return made


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, example: str
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=about, description=about, epilog=f"example: {example}")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    made.add_argument("--mlruns", type=Path, default=None, metavar="DIR", help="where results are (default: mlruns)")
    return made


def _configurable(made: argparse.ArgumentParser) -> None:
    made.add_argument("config", nargs="?", type=Path, help="a YAML file; none: the embedded default")
    made.add_argument("--trials", metavar="N", help="the study's total number of trials")
    made.add_argument("--timeout", metavar="SECONDS", help="for search and export together")
    made.add_argument("--study", metavar="NAME", help="name of the study; one that exists is gone on with")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override any key of the file",
    )


def _run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "search, or go on with a search; ends with the front, its files and models"
    made = _command(commands, "run", about, "python -m search run config.yaml --trials 60 --set workload.batch=8")
    _configurable(made)
    made.add_argument("--retry-failed", action="store_true", help="try the trials again that failed in earlier runs")
    made.add_argument(
        "--remeasure",
        action="store_true",
        help="measure again here what the study holds, as after a change of machine or of libraries",
    )

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act
        from search.space.configured import configured

        config = configured(a.config, a.trials, a.timeout, a.study, a.mlruns, a.overrides)
        return act.run(config, a.retry_failed, a.remeasure)

    made.set_defaults(call=call)


def _plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "say what would be searched and what it would cost; trains nothing"
    made = _command(commands, "plan", about, "python -m search plan config.yaml")
    _configurable(made)

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act
        from search.space.configured import configured

        return act.plan(configured(a.config, a.trials, a.timeout, a.study, a.mlruns, a.overrides))

    made.set_defaults(call=call)


def _front(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _command(
        commands, "front", "show the front of a study", "python -m search front movie-reviews --max-loss 1.0"
    )
    made.add_argument("study", metavar="STUDY")
    made.add_argument("--json", action="store_true", help="as front.json has it")
    made.add_argument("--max-latency-ms", type=float, metavar="X", help="only members at most this slow")
    made.add_argument("--max-loss", type=float, metavar="P", help="only members that lose at most P points")

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act

        return act.front(act.results(a.mlruns), a.study, a.json, a.max_latency_ms, a.max_loss)

    made.set_defaults(call=call)


def _export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _command(
        commands,
        "export",
        "write a study's front, or one of its models, to a folder",
        "python -m search export movie-reviews --pick fastest --to fast-model",
    )
    made.add_argument("study", metavar="STUDY")
    made.add_argument("--pick", metavar="NAME", help="balanced, fastest, most-accurate, or a trial's number")
    made.add_argument("--to", type=Path, metavar="DIR", help="default: MLRUNS/exports/STUDY")

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act

        return act.export(act.results(a.mlruns), a.study, a.pick, a.to)

    made.set_defaults(call=call)


def _apply(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _command(
        commands,
        "apply",
        "rebuild a model here from its base model and recipe, and measure it",
        "python -m search apply mlruns/exports/movie-reviews/best-config.yaml",
    )
    made.add_argument("best", type=Path, metavar="BEST.yaml")
    made.add_argument("--to", type=Path, metavar="DIR", help="default: MLRUNS/exports/STUDY/rebuilt/NUMBER")

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act

        return act.apply(act.results(a.mlruns), a.best, a.to)

    made.set_defaults(call=call)


def _check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _command(
        commands,
        "check",
        "load an exported model in a fresh process, measure it again, and compare with its record",
        "python -m search check mlruns/exports/movie-reviews/models/5",
    )
    made.add_argument("folder", type=Path, metavar="DIR")

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act

        return act.check(a.folder, act.results(a.mlruns))

    made.set_defaults(call=call)


def _cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "show what is kept for later trials and searches, and remove what was used longest ago"
    made = _command(commands, "cache", about, "python -m search cache --max-gb 5")
    made.add_argument("--max-gb", metavar="N", help="remove entries until at most so much is left")

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act

        return act.cache(act.results(a.mlruns), a.max_gb)

    made.set_defaults(call=call)


def _list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _command(
        commands,
        "list",
        "axes, runtimes, objectives, tasks, metrics and samplers, and what this machine can run",
        "python -m search list",
    )

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act

        return act.listing()

    made.set_defaults(call=call)


def _ui(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = _command(commands, "ui", "open the MLflow UI on the right store", "python -m search ui --port 5000")
    made.add_argument("--port", type=int, default=5000)

    def call(a: argparse.Namespace) -> int:
        from search.cli import commands as act

        return act.ui(act.results(a.mlruns), a.port)

    made.set_defaults(call=call)
