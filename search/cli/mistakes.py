"""typer's usage errors as UserErrors: the key, the rule, the value, the nearest name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from search.errors import UserError, listed, unknown


class Command(TyperCommand):
    """A command with this program's usage errors, that silences libraries for its whole process."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _telling(ctx, args):
            return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: Any) -> Any:
        from objectives.quiet import quiet

        quiet()  # here and in what is started from here
        return super().invoke(ctx)


class Commands(TyperGroup):
    """All commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _telling(ctx, args):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not ctx.resilient_parsing:  # resilient: a shell completes the word
            raise unknown(ctx.command_path, "command", args[0], self.commands)
        return super().resolve_command(ctx, args)


@contextmanager
def _telling(context: Any, arguments: Sequence[str]) -> Iterator[None]:
    """Turn typer's usage errors into UserError."""
    words = list(arguments)  # typer takes them out of its list
    try:
        yield
    except typer.TyperException as error:
        raise _told(error, context, words) from None


def _told(error: typer.TyperException, context: Any, words: Sequence[str]) -> UserError:
    option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    path = context.command_path
    if option is not None:
        return _of_option(option, context, words)
    if parameter is not None:
        name = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]
        if error.message:
            return UserError(f"{name}: {error.message}")
        example = context.command.epilog.strip("\b\n")
        return UserError(f"{path}: {name} must be given ({example})")
    message = error.format_message()
    return UserError(f"{path}: {message[:1].lower()}{message[1:]}")


def _of_option(option: str, context: Any, words: Sequence[str]) -> UserError:
    """The error for an unknown option, or for one with a missing or superfluous value."""
    path, command = context.command_path, context.command
    own = _options(command, context)
    written = next((word for word in words if word.startswith(option)), option)  # typer names one letter of "-trials"
    name = written.partition("=")[0]
    if option in own:
        if own[option].is_flag:
            return UserError(f"{option}: must be given without a value, got {written}")
        return UserError(f"{option}: must be followed by a value: {option} {own[option].metavar}")
    if isinstance(command, TyperGroup):
        having = [word for word, one in command.commands.items() if name in _options(one, context)]
        if having:
            return UserError(f"{path}: {name} must be given after a command that has it ({listed(having)})")
    return unknown(path, "option", name, own)


def _options(command: Any, context: Any) -> dict[str, Any]:
    """The command's options by their names."""
    options = (p for p in command.get_params(context) if p.param_type_name == "option")
    return {name: option for option in options for name in option.opts if name.startswith("--")}
