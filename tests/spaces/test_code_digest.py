"""The digest of code by which files are kept apart that other code wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

import spaces.generation
from spaces.code_digest import code_digest, package_digest, without_words
from spaces.runtimes import onnx

SOURCE = '"""A module."""\n\nimport ast\n\n\ndef f(x):\n    """Adds one."""\n    return x + 1\n'


def test_words_and_layout_do_not_count() -> None:
    bare = "import ast\ndef f(x):\n    # a comment\n    return (x + 1)\n"
    assert without_words(SOURCE) == without_words(bare)


@pytest.mark.parametrize("change", [("x + 1", "x + 2"), ("import ast", "import abc"), ("def f(x)", "def f(x=0)")])
def test_code_does_count(change: tuple[str, str]) -> None:
    assert without_words(SOURCE) != without_words(SOURCE.replace(*change))


def test_every_module_that_writes_a_graph_counts() -> None:
    names = {f"spaces.generation.{path.stem}" for path in Path(spaces.generation.__path__[0]).glob("onnx_*.py")}
    assert names - set(onnx.GRAPH_WRITERS) == {"spaces.generation.onnx_program"}, "which only runs one"
    each = {code_digest(name) for name in onnx.GRAPH_WRITERS}
    assert len(each) == len(onnx.GRAPH_WRITERS) and code_digest(*onnx.GRAPH_WRITERS) not in each


def test_the_digest_of_a_package_is_of_all_bytes_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, seen = tmp_path / "made_up", set[str]()
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("__init__", ""), ("a", "x = 1\n"), ("a", "x = 2\n"), ("b", "x = 2\n")):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
        package_digest.cache_clear()  # as a new process
        seen.add(package_digest("made_up"))
    assert len(seen) == 4 and package_digest("made_up") in seen
