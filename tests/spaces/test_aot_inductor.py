"""AOTInductor packages: made once, never half-written, no pickle in them, and nobody else's is ever loaded."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import arrays_of, stored, subject

from spaces import build, registry
from spaces.errors import Infeasible
from spaces.runtime import Context
from spaces.runtimes import aot_inductor
from spaces.runtimes.aot_inductor import package

CPU = Context(threads=1)
FP32 = {"precision": "fp32"}
RUNTIME = registry.runtime_named("aot_inductor")
real = pytest.mark.skipif(RUNTIME.missing(CPU) is not None, reason=str(RUNTIME.missing(CPU)))
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


class Compiler:
    """Stands in for AOTInductor where only the file around its output matters."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, _folder: Path, _plan: Any, _context: Context, path: Path) -> None:
        self.runs += 1
        path.write_bytes(b"package %d" % self.runs)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    fake = Compiler()
    monkeypatch.setattr(aot_inductor, "compile_package", fake)
    return fake


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def inside(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / aot_inductor.AOT_FOLDER).iterdir())


@real
def test_a_package_is_loaded_again_without_compiling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = arrays_of(subject().base, (9, 4))
    first = build.open_predict(folder, "aot_inductor", FP32, CPU)(batch)["logits"]
    (name,) = RUNTIME.files(FP32)
    before = (folder / name).stat().st_mtime_ns

    def again(*_: Any) -> None:
        raise AssertionError("the package was made again")

    monkeypatch.setattr(aot_inductor, "compile_package", again)
    output = build.open_predict(folder, "aot_inductor", FP32, CPU)(batch)["logits"]
    assert np.array_equal(output, first)
    assert (folder / name).stat().st_mtime_ns == before


@real
@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (40,), (40, 1)])
def test_sizes_at_the_ends_of_their_ranges_need_no_package_of_their_own(lengths: tuple[int, ...], folder: Path) -> None:
    batch = arrays_of(subject().base, lengths)
    output = build.open_predict(folder, "aot_inductor", FP32, CPU)(batch)["logits"]
    exact = build.open_predict(folder, "eager", FP32, CPU)(batch)["logits"]
    np.testing.assert_allclose(output, exact, atol=1e-4, rtol=0)


@real
def test_a_package_holds_the_weights_and_no_pickle(folder: Path) -> None:
    path = package(folder, FP32, CPU)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith(".so") for name in content)
    assert not [name for name, data in content.items() if data.startswith((*PICKLES, b"PK"))]
    assert not [name for name in content if "/models/" in name or "/weights/" in name or "/constants/" in name]
    weight = build.load_model(folder).get_parameter("classifier.weight").detach().numpy().tobytes()
    assert any(weight in data for data in content.values())


@real
def test_a_folder_that_cannot_be_written_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    content = package(folder, FP32, CPU).read_bytes()
    place, allowed = stored(tmp_path / "read-only"), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != place and allowed(path, mode))
    monkeypatch.setattr(aot_inductor, "compile_package", lambda _f, _p, _c, path: path.write_bytes(content))
    batch = arrays_of(subject().base, (9, 4))
    output = build.open_predict(place, "aot_inductor", FP32, CPU)(batch)["logits"]
    np.testing.assert_allclose(output, build.open_predict(place, "eager", FP32, CPU)(batch)["logits"], atol=1e-4)
    assert not (place / aot_inductor.AOT_FOLDER).exists()


def test_a_package_is_made_once(model: Path, compiler: Compiler) -> None:
    first = package(model, FP32, CPU)
    assert package(model, FP32, CPU) == first and compiler.runs == 1
    assert inside(model) == ["fp32.pt2", "fp32.pt2.seal"]


@pytest.mark.parametrize("theirs", [b"planted", b"package 1"])
def test_a_package_of_somebody_else_is_replaced_and_never_taken(
    theirs: bytes, model: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "theirs"))
    path = package(model, FP32, CPU)
    path.write_bytes(theirs)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert package(model, FP32, CPU).read_bytes() == b"package 2"


def test_other_weights_threads_or_torch_make_another_package(
    model: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(model, FP32, CPU)
    (model / "model.safetensors").write_bytes(b"other weights")
    package(model, FP32, CPU)
    assert compiler.runs == 2
    torch.set_num_threads(2)
    package(model, FP32, CPU)
    assert compiler.runs == 3
    monkeypatch.setattr(torch, "__version__", "0.0")
    package(model, FP32, CPU)
    assert compiler.runs == 4


def test_who_asks_for_no_threads_is_given_the_package_of_every_processor(model: Path, compiler: Compiler) -> None:
    every = len(os.sched_getaffinity(0))
    torch.set_num_threads(every)
    package(model, FP32, Context(threads=every))
    torch.set_num_threads(every + 1)
    package(model, FP32, Context())
    assert compiler.runs == 1
    package(model, FP32, Context(threads=every + 1))
    assert compiler.runs == 2


def moved(model: Path, to: Path) -> Path:
    """A copy of the whole folder, as an export makes one."""
    return Path(shutil.copytree(model, to))


@pytest.fixture
def opening(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What reaches torch's loader."""
    opened: list[bytes] = []
    monkeypatch.setattr(aot_inductor, "load_package", lambda path: opened.append(path.read_bytes()))
    monkeypatch.setattr(aot_inductor, "base_of", lambda _: SimpleNamespace(inputs=("input_ids",), output="logits"))
    monkeypatch.setattr(aot_inductor, "no_compiler", lambda _: None)
    return opened


def test_a_copied_folder_opens_without_compiling(
    model: Path, compiler: Compiler, opening: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    RUNTIME.open(model, FP32, CPU)
    RUNTIME.open(moved(model, tmp_path_factory.mktemp("to") / "copy"), FP32, CPU)
    assert compiler.runs == 1 and opening == [b"package 1"] * 2


def test_a_copied_folder_that_cannot_be_written_opens_without_compiling(
    model: Path,
    compiler: Compiler,
    opening: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    RUNTIME.open(model, FP32, CPU)
    copy = moved(model, tmp_path_factory.mktemp("to") / "copy")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    RUNTIME.open(copy, FP32, CPU)
    assert compiler.runs == 1
    (copy / aot_inductor.AOT_FOLDER / "fp32.pt2").write_bytes(b"planted")
    RUNTIME.open(copy, FP32, CPU)
    assert compiler.runs == 2 and opening == [b"package 1", b"package 1", b"package 2"]


@pytest.mark.parametrize("file", ["fp32.pt2", "fp32.pt2.seal"])
def test_one_changed_byte_in_a_copied_folder_is_never_opened(
    file: str, model: Path, compiler: Compiler, opening: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    RUNTIME.open(model, FP32, CPU)
    copy = moved(model, tmp_path_factory.mktemp("to") / "copy")
    path = copy / aot_inductor.AOT_FOLDER / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    RUNTIME.open(copy, FP32, CPU)
    assert compiler.runs == 2 and opening == [b"package 1", b"package 2"]


def test_the_copied_folder_of_somebody_else_is_compiled_again(
    model: Path,
    compiler: Compiler,
    opening: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    RUNTIME.open(model, FP32, CPU)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("mine")))
    RUNTIME.open(moved(model, tmp_path_factory.mktemp("to") / "copy"), FP32, CPU)
    assert compiler.runs == 2 and opening == [b"package 1", b"package 2"]


def test_a_compilation_that_fails_leaves_nothing_that_is_taken(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_folder: Path, _plan: Any, _context: Context, path: Path) -> None:
        path.write_bytes(b"half")
        raise Infeasible("no kernel")

    monkeypatch.setattr(aot_inductor, "compile_package", half)
    with pytest.raises(Infeasible, match="no kernel"):
        package(model, FP32, CPU)
    assert inside(model) == []


def test_a_model_that_does_not_compile_is_infeasible_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(Infeasible, match=r"AOTInductor failed: no kernel for this"):
        package(stored(tmp_path), FP32, CPU)
