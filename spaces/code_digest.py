"""A digest of this program's own code, for the keys of what that code writes."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def code_digest(*modules: str) -> str:
    """16 hex digits of the code of these modules, by dotted name; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in modules:
        digest.update(without_words(_source(name).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def without_words(source: str) -> str:
    """The syntax tree of Python source, as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)


@functools.cache
def package_digest(*packages: str) -> str:
    """16 hex digits of the source files of these packages, byte by byte: for entries that are quick to make again."""
    digest = hashlib.sha256()
    for name in packages:
        for path in sorted(_source(name).parent.glob("*.py")):
            digest.update(f"{name}.{path.stem}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _source(name: str) -> Path:
    """The file of a module, or the `__init__.py` of a package."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, f"there is no module {name}"
    return Path(spec.origin)
