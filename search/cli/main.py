"""The command line: parse, call, report errors. Nothing heavy is imported before a command's body runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

import typer
from typer.main import get_command

from search.cli import apply, cache, check, compare, doctor, export, front, listing, lm_eval, plan, run, serve, ui
from search.cli.mistakes import Command, Commands
from search.cli.options import GlobalOptions
from search.cli.terminal import complain, failed
from search.errors import UserError

PROGRAM = "python -m search"
#: The program as pip installs it; shells complete only a one-word command, which `python -m search` is not.
SCRIPT = "transformer-compression-search"
COMPLETING = "_TRANSFORMER_COMPRESSION_SEARCH_COMPLETE"
COMPLETION = ("--install-completion", "--show-completion")
#: By name: the function, whose docstring is the command's help, and an example.
COMMANDS: Mapping[str, tuple[Callable[..., int], str]] = {
    "run": (run.run, run.EXAMPLE),
    "plan": (plan.plan, plan.EXAMPLE),
    "front": (front.front, front.EXAMPLE),
    "export": (export.export, export.EXAMPLE),
    "apply": (apply.apply, apply.EXAMPLE),
    "check": (check.check, check.EXAMPLE),
    "compare": (compare.compare, compare.EXAMPLE),
    "lm-eval": (lm_eval.lm_eval, lm_eval.EXAMPLE),
    "cache": (cache.cache, cache.EXAMPLE),
    "serve": (serve.serve, serve.EXAMPLE),
    "list": (listing.listing, listing.EXAMPLE),
    "doctor": (doctor.doctor, doctor.EXAMPLE),
    "ui": (ui.ui, ui.EXAMPLE),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 success, 1 the job failed, 2 the input is invalid."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = get_command(app())
    if COMPLETING in os.environ:  # a shell asks what may come next; this prints it and exits
        program.main(words, SCRIPT, COMPLETING)
    settings = GlobalOptions()
    name = SCRIPT if set(COMPLETION) & {word.partition("=")[0] for word in words[:1]} else PROGRAM
    try:
        with program.make_context(name, list(words), obj=settings) as context:
            status = int(program.invoke(context))
        sys.stdout.flush()  # here, where an error of it is told: a file that was cut short is no success
        return status
    except typer.Exit as ended:
        return ended.exit_code
    except UserError as error:
        if settings.debug:
            raise
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on where this one stopped")
        return 1
    except Exception as error:
        if settings.debug:
            raise
        return failed(error)


def app() -> typer.Typer:
    """The program with all its commands."""
    program = typer.Typer(
        cls=Commands,
        help="Finds the fastest compressed form of a transformer that is still good enough, on this device.",
        epilog=_example("python -m search run"),
        subcommand_metavar="COMMAND",
        invoke_without_command=True,
        callback=_named,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,  # plain lines, without an import of rich
        pretty_exceptions_enable=False,
    )
    for name, (function, example) in COMMANDS.items():
        program.command(name, cls=Command, short_help=function.__doc__, epilog=_example(example))(function)
    return program


def _example(line: str) -> str:
    return f"\b\nexample: {line}"  # \b: the line is not broken


def _named(context: typer.Context) -> None:
    """Raise UserError where no command is named."""
    if context.invoked_subcommand is None:
        raise UserError(f"{PROGRAM}: COMMAND must be given, one of {', '.join(COMMANDS)}")
