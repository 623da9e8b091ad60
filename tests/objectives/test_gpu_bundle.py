"""The bundle for a GPU machine without network: what it holds together with that machine is enough."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.gpu import closure, half

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"


def wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n")
    return path


def found(folder: Path) -> list[str]:
    return list(closure.problems(closure.read(folder), "3.12"))


def test_needs_are_met_by_other_wheels_or_by_the_machine_and_other_systems_needs_do_not_count(tmp_path: Path) -> None:
    wheel(tmp_path, "first", "1.0", "second>=2", "numpy", "absent; python_version < '3.12'", "absent; extra == 'x'")
    wheel(tmp_path, "second", "2.1", "absent; sys_platform == 'win32'")
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("need", "message"),
    [
        ("absent-package>=1", "first needs absent-package>=1, and nothing has it"),
        ("second>=3", "first needs second>=3, and second is 2.1"),
        ("numpy<2", "first needs numpy<2, and numpy is"),
    ],
)
def test_a_need_that_nothing_meets_is_named(tmp_path: Path, need: str, message: str) -> None:
    wheel(tmp_path, "first", "1.0", need)
    wheel(tmp_path, "second", "2.1")
    [problem] = found(tmp_path)
    assert problem.startswith(message)


def test_what_the_machine_has_is_not_carried_and_no_package_twice(tmp_path: Path) -> None:
    wheel(tmp_path, "numpy", "3.0")
    assert found(tmp_path) == ["numpy: in the bundle, and on the machine already"]
    wheel(tmp_path, "numpy", "3.1")
    with pytest.raises(ValueError, match=r"numpy must be there once, got 3\.0 and 3\.1"):
        closure.read(tmp_path)


def test_the_project_itself_needs_nothing_else() -> None:
    needs = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (FOLDER / "wheels.txt").read_text().split()
    pinned = {name: Version(version) for name, _, version in (line.partition("==") for line in lines)}
    there: dict[str, Any] = {**closure.machine(), **pinned}
    assert not closure.machine().keys() & pinned.keys()
    for need in map(Requirement, needs):
        name = canonicalize_name(need.name)
        assert name in there, f"{need} is neither in wheels.txt nor in machine.txt"
        assert there[name] is None or need.specifier.contains(there[name]), f"{need}: {there[name]}"


def test_a_model_in_half_the_bytes_is_loaded_in_fp32_with_its_rounded_weights(tmp_path: Path, tiny_bert: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from spaces.base import load_base

    path = tmp_path / "package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in tiny_bert.iterdir():
            archive.write(file, f"package/model/{file.name}")
    half.main(path, tmp_path / "model")
    before = load_file(tiny_bert / half.WEIGHTS)
    after = load_file(tmp_path / "model" / half.WEIGHTS)
    assert {t.dtype for t in after.values()} == {torch.float16} and before.keys() == after.keys()
    model, _ = load_base(tmp_path / "model", "half", "main", "mean", ("no", "yes"), {})
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    name = "embeddings.word_embeddings.weight"
    loaded = dict(model.backbone.named_parameters())[name].detach().numpy()
    np.testing.assert_array_equal(loaded, before[name].half().float().numpy())
