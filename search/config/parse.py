"""Values read from a file or a flag, checked by pydantic; the first error is reported in this program's words.

pydantic's own sentences name neither the file nor the nearest valid key, and list the members of a union one by one. So
`parse` takes from a ValidationError only the location of the error, and the rule from the JSON schema of that place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from search.errors import UserError, Where, nearest, wrong

T = TypeVar("T")
Schema = Mapping[str, Any]

#: Words that switch something on or off. YAML 1.2 reads them as text, so that a column or label may be named so.
SWITCHES = {"on": True, "yes": True, "off": False, "no": False}
#: pydantic's error types for an unknown key; the last is for a field that no file may set.
UNKNOWN_KEY_ERRORS = ("unexpected_keyword_argument", "is_instance_of")


def switched(value: Any) -> Any:
    """True or False for a word such as "on" or "no" (`SWITCHES`), any other value unchanged."""
    return SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


#: Leaves are strict: "3" is no number, and true is not 1. Lists still become tuples, mappings sections.
SECTION = ConfigDict(extra="forbid", allow_inf_nan=False)
Section = Annotated[T, BeforeValidator(lambda raw: {} if raw is None else raw)]  # a key with nothing behind it
Flag = Annotated[bool, Strict(), BeforeValidator(switched)]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Text = Annotated[str, Strict()]
Count = Annotated[Whole, Field(ge=1)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Name = Annotated[Text, Field(pattern=r"\S", description="not empty")]


def parse(kind: TypeAdapter[T], raw: Any, where: Where, unknown: str = "unknown key") -> T:
    """`raw` as the type of `kind`. `where` gives the place where a dotted key was written; for "", that of `raw`.

    Raises:
        UserError: unknown or missing key, wrong type, broken rule. Unknown keys are reported first.
    """
    try:
        return kind.validate_python(raw)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False)
    schema = kind.json_schema()
    mistake = next((m for m in mistakes if m["type"] in UNKNOWN_KEY_ERRORS), mistakes[0])
    if mistake["type"] in UNKNOWN_KEY_ERRORS:
        raise _unknown_key(schema, mistake["loc"], where, unknown)
    keys, rule = _schema_at(schema, mistake["loc"])
    if mistake["type"] != "missing":
        value = raw
        for key in keys:
            value = value[key]
        raise wrong(where(".".join(keys)), _described(schema, rule), value)
    while needed := rule.get("required"):  # a section is missing: so is a key in it
        keys.append(needed[0])
        rule = _resolved(schema, rule["properties"][needed[0]])
    raise UserError(f"{where('.'.join(keys))}: missing, and it has no default ({_described(schema, rule)})")


def _unknown_key(schema: Schema, location: tuple[Any, ...], where: Where, unknown: str) -> UserError:
    """With the likeliest correction, in the same section or in another one."""
    parents, section = _schema_at(schema, location[:-1])
    here = {name: ".".join((*parents, name)) for name in section["properties"]}
    leaves = {dotted.rpartition(".")[2]: dotted for dotted in reversed(list(_dotted(schema, schema)))} | here
    close = nearest(location[-1], leaves)
    hint = f'did you mean "{leaves[close]}"?' if close else f"valid here: {', '.join(here)}"
    return UserError(f"{where('.'.join(map(str, location)))}: {unknown}; {hint}")


def _schema_at(schema: Schema, location: tuple[Any, ...]) -> tuple[list[str], Schema]:
    """The keys that `location` goes through, and the schema at their end; of what is in a list, the list's."""
    keys, node = [], schema
    for part in location:
        inner = node.get("properties", {}).get(part) or node.get("additionalProperties")
        if not inner:
            break
        keys.append(part)
        node = _resolved(schema, inner)
    return keys, node


def _dotted(schema: Schema, node: Schema, prefix: str = "") -> Iterator[str]:
    """Every key of a schema, dotted."""
    for name, inner in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from _dotted(schema, _resolved(schema, inner), f"{prefix}{name}.")


def _resolved(schema: Schema, node: Schema) -> Schema:
    target: Schema = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return target


def _described(schema: Schema, node: Schema) -> str:
    """A type and its rules as words that complete "must be ..."."""
    node = _resolved(schema, node)
    if "anyOf" in node:
        return " or ".join(_described(schema, option) for option in node["anyOf"])
    if "const" in node or "enum" in node:
        return " or ".join(f'"{option}"' for option in node.get("enum", [node.get("const")]))
    if "properties" in node:
        return f"a mapping of {', '.join(node['properties'])}"
    words = [WORDS[node["type"]]] if "type" in node else []
    if "minItems" in node:
        words[0] += " with at least one value"
    if "items" in node:
        words.append(f"each {_described(schema, node['items'])}")
    if "exclusiveMinimum" in node:
        most = f" and at most {node['maximum']}" if "maximum" in node else ""
        words.append(f"above {node['exclusiveMinimum']}{most}")
    elif "maximum" in node:
        words.append(f"between {node['minimum']} and {node['maximum']}")
    elif "minimum" in node:
        words.append(f"at least {node['minimum']}")
    return ", ".join([*words, *([node["description"]] if "description" in node else [])])


WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}
