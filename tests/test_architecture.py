"""The arrows of the design, and rules of the code, read from its syntax."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search", "spaces", "objectives")


def imported(path: Path) -> Iterator[str]:
    """Top-level names of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def files(package: str) -> list[Path]:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths, f"no files in {package}"
    return paths


def test_rooms_import_only_rooms_before_them_and_there_are_no_circles() -> None:
    """The contracts of import-linter in pyproject.toml."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    result = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "0 broken" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("library", "rooms"),
    [("optuna", {"propose"}), ("mlflow", {"track", "serve"}), ("rich", {"report", "cli"}), ("typer", {"cli"})],
)
def test_a_library_is_imported_only_in_its_rooms(library: str, rooms: set[str]) -> None:
    users = {p.relative_to(ROOT / "search").parts[0] for p in files("search") if library in imported(p)}
    assert users and users <= rooms
    assert not [p for package in ("spaces", "objectives") for p in files(package) if library in imported(p)]


def test_the_loop_knows_no_heavy_library() -> None:
    assert not {"torch", "optuna", "mlflow", "transformers"} & set(imported(ROOT / "search" / "loop.py"))


@pytest.mark.parametrize("name", ["datasets", "evaluate", "transformers", "torch"])
def test_no_folder_shadows_a_library(name: str) -> None:
    assert not (ROOT / name).exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_built(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert package in built["packages"]


def test_no_pickle_is_loaded() -> None:
    """Weights come from safetensors, configurations from safe YAML; only our own processes talk in pickles."""
    for package in PACKAGES:
        for path in files(package):
            text = path.read_text()
            assert "torch.load(" not in text, path
            assert re.search(r"yaml\.(unsafe_|full_)load|Loader=yaml\.(Full|Unsafe)?Loader", text) is None, path
            assert "allow_pickle=True" not in text, path
            if path.name != "process.py":
                assert "pickle" not in set(imported(path)), path


#: Calls that run code which comes with a model or a data set, or ask on the terminal whether to, unless told not to.
RUN_FOREIGN_CODE = {"from_pretrained", "from_config", "load_dataset", "pipeline"}


def test_every_call_that_could_run_foreign_code_says_that_it_must_not() -> None:
    calls = []
    for path in (path for folder in (*PACKAGES, "benchmarks") for path in files(folder)):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in RUN_FOREIGN_CODE:
                flag = {k.arg: k.value for k in node.keywords}.get("trust_remote_code")
                calls.append((path, node.lineno, isinstance(flag, ast.Constant) and flag.value is False))
    assert len(calls) >= 7, "the calls are found"
    assert [(path, line) for path, line, refused in calls if not refused] == []


#: Functions that several modules have under one name, because callers choose the module: one a command (`cli/`), a
#: migration, an operator's lowering. Those of a stored file are called by its module: `calibration.read`.
CONVENTIONS = {"run", "check", "export", "load", "upgrade", "downgrade", "lower", "missing", "read", "write"}

#: Values that several modules have under one name, for the same reason: a module's logger and objectives, the example
#: of a command, and what Alembic reads of a migration.
MODULE_VALUES = {"log", "OBJECTIVES", "EXAMPLE", "revision", "down_revision", "branch_labels", "depends_on"}


def names_of(node: ast.stmt) -> Iterator[str]:
    """The names that a statement defines: of a class, a function, or what a value is assigned to."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        parts = (part for target in targets for part in ast.walk(target))
        yield from (part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))


def defined(*kinds: type[ast.stmt]) -> dict[str, list[str]]:
    """The files of the packages that define each public name at their top level, by name."""
    where: dict[str, list[str]] = {}
    for path in (path for package in PACKAGES for path in files(package)):
        statements = (node for node in ast.parse(path.read_text()).body if isinstance(node, kinds))
        for name in {name for node in statements for name in names_of(node)}:
            if not name.startswith("_"):
                where.setdefault(name, []).append(str(path.relative_to(ROOT)))
    return where


def texts_of(path: Path) -> set[str]:
    """Every literal text of a file."""
    values = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return {value for value in values if isinstance(value, str)}


#: Where an output's name may stand: with the heads and in what tasks say; a decoder has one head; the first two files
#: write what sentence-transformers reads, and a reply's own key.
NAMING_OUTPUTS = ("spaces/pooling.py", "search/serve/scorer.py", "spaces/heads.py", "search/tasks", "spaces/generation")


def test_exports_runtimes_measurer_and_checks_take_the_names_of_outputs_from_the_heads() -> None:
    heads = ast.walk(ast.parse((ROOT / "spaces" / "heads.py").read_text()))
    calls = [node for node in heads if isinstance(node, ast.Call) and ast.unparse(node.func) == "Head"]
    outputs = {ast.literal_eval(call.args[1]) for call in calls}
    assert {"logits", "span_logits", "sentence_embedding"} <= outputs
    for path in (path for package in PACKAGES for path in files(package)):
        if not any(path.is_relative_to(ROOT / place) for place in NAMING_OUTPUTS):
            assert not outputs & texts_of(path), path


def test_a_class_name_is_defined_once() -> None:
    """One word, one meaning: a second class takes a more precise name, and the same concept is imported."""
    assert {name: paths for name, paths in defined(ast.ClassDef).items() if len(paths) > 1} == {}


def test_a_function_name_is_defined_once() -> None:
    several = {n: paths for n, paths in defined(ast.FunctionDef, ast.AsyncFunctionDef).items() if len(paths) > 1}
    assert {name: paths for name, paths in several.items() if name not in CONVENTIONS} == {}
    assert set(several) >= CONVENTIONS, "the list names no more than it has to"


def test_a_constant_or_alias_is_defined_once_and_shares_no_name_with_a_class() -> None:
    """A value with one meaning is imported; one with another meaning says in its name which."""
    several = {n: paths for n, paths in defined(ast.ClassDef, ast.Assign, ast.AnnAssign).items() if len(paths) > 1}
    assert {name: paths for name, paths in several.items() if name not in MODULE_VALUES} == {}
    assert set(several) >= MODULE_VALUES, "the list names no more than it has to"


#: Private names of libraries that tests need, where the library has no public one.
LIBRARIES = {"os._exit", "torch._inductor", "aten._softmax", "aten._to_copy", "utils._initialize_tables"}


def private_names(path: Path) -> Iterator[tuple[int, str]]:
    """Private names of other objects and of our modules that a file reads, imports or replaces, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "getattr", "delattr")):
            names = [str(a.value) for a in node.args[:2] if isinstance(a, ast.Constant)]
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from ((node.lineno, name) for name in names if re.search(r"(^|\.)_(?!_)\w+$", name))


def test_tests_and_benchmarks_reach_for_no_private_names() -> None:
    """What a test replaces or reads is a seam, and a seam has a public name."""
    paths = (*files("tests"), *files("benchmarks"))
    private = [(p, line, name) for p in paths for line, name in private_names(p) if name not in LIBRARIES]
    assert private == []
