"""A mapping read from a file, checked field by field against a frozen dataclass.

The dataclass is the whole declaration: names, types, defaults, and rules as `Annotated[int, Rule(...)]`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

from search.errors import UserError, Where, nearest, wrong

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must satisfy beyond its type; `text` completes "must be ..."."""

    text: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Rule("at least 1", lambda v: v >= 1)]
Positive = Annotated[float, Rule("above 0", lambda v: v > 0)]
NonNegative = Annotated[float, Rule("at least 0", lambda v: v >= 0)]
Fraction = Annotated[float, Rule("between 0 and 1", lambda v: 0 <= v <= 1)]
Name = Annotated[str, Rule("not empty", lambda v: bool(v.strip()))]


class Mismatch(Exception):  # noqa: N818 - the caller turns it into a UserError that says where
    """A value that is not of the kind asked for."""


def parse(kind: type[T], raw: Any, where: Where, prefix: str = "", root: type | None = None) -> T:
    """The dataclass `kind` from the mapping `raw`; `prefix` is its own dotted key.

    Raises:
        UserError: unknown or missing key, wrong type, broken rule.
    """
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise wrong(where(prefix), f"a mapping of {', '.join(readable(kind))}", raw)
    hints = get_type_hints(kind, include_extras=True)
    for key in raw:
        if key not in readable(kind):
            raise unknown_key(where, _join(prefix, key), readable(kind), dotted(root or kind))
    values: dict[str, Any] = {}
    for name, field in readable(kind).items():
        key, hint = _join(prefix, name), hints[name]
        if name not in raw:
            if _required(field):
                if _section(hint):  # so that the message names the key inside that is missing
                    parse(hint, {}, where, key, root or kind)
                raise UserError(f"{where(key)}: missing, and it has no default ({describe(hint)})")
        elif _section(hint):
            values[name] = parse(hint, raw[name], where, key, root or kind)
        else:
            try:
                values[name] = convert(hint, raw[name])
            except Mismatch:
                raise wrong(where(key), describe(hint), raw[name]) from None
    return kind(**values)


def readable(kind: type) -> dict[str, Field[Any]]:
    """The fields of a dataclass that a file may set."""
    return {f.name: f for f in fields(kind) if f.metadata.get("from_file", True)}


def dotted(kind: type, prefix: str = "") -> list[str]:
    """Every key of the dataclass and of the dataclasses in it, dotted."""
    hints = get_type_hints(kind, include_extras=True)
    keys = []
    for name in readable(kind):
        keys.append(_join(prefix, name))
        if _section(hints[name]):
            keys += dotted(hints[name], _join(prefix, name))
    return keys


def unknown_key(where: Where, key: str, here: Mapping[str, Any], everywhere: list[str]) -> UserError:
    """The error for a key that does not exist, with its likeliest correction, here or in another section."""
    parent, _, leaf = key.rpartition(".")
    leaves = {k.rpartition(".")[2]: k for k in reversed(everywhere)} | {k: _join(parent, k) for k in here}
    close = nearest(leaf, leaves)
    hint = f'did you mean "{leaves[close]}"?' if close else f"valid here: {', '.join(here)}"
    return UserError(f"{where(key)}: unknown key; {hint}")


def convert(hint: Any, value: Any) -> Any:
    """`value` as the annotated type `hint`; raises Mismatch."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        made = convert(arguments[0], value)
        if not all(rule.holds(made) for rule in arguments[1:]):
            raise Mismatch
        return made
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return convert(option, value)
            except Mismatch:
                continue
        raise Mismatch
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(convert(arguments[0], item) for item in value)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _plain(value, Mapping)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise Mismatch
    if isinstance(hint, type) and origin is None:
        return _plain(value, hint)
    raise Mismatch


def describe(hint: Any) -> str:
    """The type and its rules as words that complete "must be ..."."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([describe(arguments[0]), *(rule.text for rule in arguments[1:])])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin is Literal:
        return " or ".join(f'"{option}"' for option in arguments)
    if origin is tuple:
        return f"a list, each {describe(arguments[0])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, "a mapping")


def _plain(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise Mismatch
    return value


def _section(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and is_dataclass(hint)


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _join(prefix: str, name: Any) -> str:
    return f"{prefix}.{name}" if prefix else str(name)
