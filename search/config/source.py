"""Where a configuration comes from: a YAML file, the embedded default, and `--set key=value` on top."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from search.config.parse import switched
from search.errors import UserError, unknown
from search.store.paths import expanded

PACKAGE = "package:"
DEFAULT_TASK = "classification"  # of the embedded default


@dataclass(frozen=True)
class Override:
    """One value from the command line; `flag` is how it was written ("--trials", "--set teacher.batch")."""

    key: str
    value: Any
    flag: str

    @classmethod
    def parse(cls, text: str) -> Override:
        """From `key=value`, the value being YAML."""
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise UserError(f'--set "{text}": must be key=value, as in --set teacher.epochs=1')
        return cls(key, parse_yaml(value, f"--set {key}"), f"--set {key}")


@dataclass(frozen=True)
class Source:
    """The origin of each key, for messages and for the base of relative paths."""

    name: str = ""  # the file, as the user named it
    folder: Path = field(default_factory=Path.cwd)  # of the file
    flags: Mapping[str, str] = field(default_factory=dict)  # overridden key -> flag
    keys: frozenset[str] = frozenset()  # that the file has, dotted

    def where(self, key: str) -> str:
        """ "config.yaml: data.text", or "--set data.text" for what the command line set."""
        if key in self.flags:
            return self.flags[key]
        if self._overridden(key):
            return f"--set {key}"
        within = [flag for other, flag in self.flags.items() if other.startswith(f"{key}.")]
        if within and key not in self.keys:  # a section that the command line opened
            return within[0]
        return ": ".join(part for part in (self.name, key) if part)

    def resolve(self, key: str, path: str) -> Path:
        """The absolute path meant by `path` under `key`: relative to the file, or to the shell for a flag."""
        if path.startswith(PACKAGE):
            return packaged(path) or Path(path)
        base = Path.cwd() if self._overridden(key) else self.folder
        return Path(base, expanded(path)).resolve()

    def _overridden(self, key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[: i + 1]) in self.flags for i in range(len(parts)))


def embedded(task: str = DEFAULT_TASK, flag: str = "--task") -> Path:
    """The embedded configuration of a task: a real model and real data, no hub.

    Raises:
        UserError: there is none for that task; names the nearest.
    """
    folder = Path(str(resources.files("search") / "quickstart"))
    examples = {DEFAULT_TASK: folder / "config.yaml"}
    examples |= {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.stem != "config"}
    if task not in examples:
        raise unknown(flag, "task", str(task), list(examples))
    return examples[task]


def packaged(name: str) -> Path | None:
    """The path meant by `package:<module>/<path inside>`, or None where that package is not installed."""
    module, _, inside = name.removeprefix(PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return Path(folders[0], inside) if folders else None


def portable(path: str) -> str:
    """`path`, or its package form when it is one of the files that come with this program."""
    root = embedded().parents[1]
    return f"{PACKAGE}search/{Path(path).relative_to(root).as_posix()}" if Path(path).is_relative_to(root) else path


def read(path: Path | None, overrides: Sequence[Override]) -> tuple[dict[str, Any], Source]:
    """(the merged mapping, still unchecked, the origin of its keys).

    Without a file it is the embedded default, or that of the task which the overrides name.
    """
    task = next((o for o in reversed(overrides) if o.key == "task"), Override("task", DEFAULT_TASK, ""))
    file = embedded(task.value, task.flag) if path is None else path
    if not file.exists():
        raise UserError(f"{file}: no such configuration file; without one, the embedded default is run")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: must be a readable UTF-8 YAML file: {error}") from None
    name = "embedded default" if path is None else str(path)
    raw = parse_yaml(text, name)
    if not isinstance(raw, Mapping):
        kind = "an empty file" if raw is None else type(raw).__name__
        raise UserError(f"{name}: must be a mapping with at least model, task and data, got {kind}")
    flags = {o.key: o.flag for o in overrides}
    return merge(raw, overrides), Source(name, file.resolve().parent, flags, frozenset(_dotted(raw)))


def _dotted(raw: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of nested mappings."""
    for name, value in raw.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")


def merge(raw: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """`raw` with every override applied; sections that are absent or off are created."""
    merged: dict[str, Any] = deepcopy(dict(raw))
    for override in overrides:
        *sections, leaf = override.key.split(".")
        section = merged
        for i, name in enumerate(sections):
            inner = section.get(name)
            if inner is None or isinstance(switched(inner), bool):
                inner = section[name] = {}
            if not isinstance(inner, dict):
                parent = ".".join(sections[: i + 1])
                raise UserError(f"{override.flag}: unknown key; {parent} has no keys in it")
            section = inner
        section[leaf] = override.value
    return merged


class _Loader(yaml.SafeLoader):
    """A loader with the plain values of YAML 1.2 (those of JSON) and text keys; a repeated key is an error.

    PyYAML's own are those of YAML 1.1: there `1e-4` is text, `no` is false, `010` is 8 and `1:30` is 90, and dates are
    not text. ruamel.yaml reads dates too, and would be a second YAML library, since MLflow requires PyYAML.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in keys:
                    raise yaml.MarkedYAMLError(problem=f'key "{key.value}" is there twice', problem_mark=key.start_mark)
                keys.add(key.value)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F]+)", list("-+0123456789")),
    ("float", r"[-+]?(\d[\d_]*\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises UserError with the line of the mistake."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {error.problem or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
