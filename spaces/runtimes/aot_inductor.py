"""AOTInductor: the graph compiled ahead of time into a shared library (Ansel et al. 2024; PyTorch, "AOTInductor").

The package is a zip archive. What this file writes into it is a shared library with the weights baked in, the C++ it
was compiled from, and JSON. Opening one hands the library to the dynamic linker, which runs machine code. No pickle is
written, but torch's loader would unpickle an archive that has one. Both are code, so only a package that carries this
user's seal is opened (`spaces.runtimes.seal`), and any other is compiled again. The export copies a package with its
seal: whoever made it opens the exported folder without compiling. For anybody else, on another kind of machine or with
other weights the seal does not hold, and the model is compiled from its safetensors file.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spaces.base import WEIGHTS
from spaces.code_digest import code_digest
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes.compiled import COMPILER_INSTALL, no_compiler
from spaces.runtimes.requirements import require
from spaces.runtimes.seal import private_name, seal, sealed
from spaces.runtimes.torch_export import brief, export_graph, quiet_torch
from spaces.runtimes.torch_predict import TorchPredict, base_of, load_for, torch_precisions

AOT_FOLDER = "aot_inductor"
#: What writes a package, of this program.
PACKAGE_WRITERS = ("spaces.runtimes.aot_inductor", "spaces.runtimes.torch_export", "spaces.runtimes.torch_predict")


class AotInductor:
    """One compiled library for all batches and lengths, called without Python or graph guards in between."""

    name = "aot_inductor"
    source = "Ansel et al. 2024, PyTorch 2 (AOTInductor)"
    install = COMPILER_INSTALL

    def missing(self, context: Context) -> str | None:
        return no_compiler("AOTInductor")

    def precisions(self, context: Context) -> tuple[str, ...]:
        return torch_precisions(context)

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (f"{AOT_FOLDER}/{plan['precision']}.pt2",)

    def made_by(self, context: Context) -> Mapping[str, str]:
        threads = context.threads or torch.get_num_threads()
        seals = {"conditions": _machine(context, threads), "user": private_name(self.name)}
        return {**seals, "code": code_digest(*PACKAGE_WRITERS)}

    def made_from(self, plan: Plan, folder: Path) -> Plan | None:
        return None

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        require(self, plan, context)
        if context.threads:
            torch.set_num_threads(context.threads)
        base = base_of(folder)
        (name,) = self.files(plan)
        if os.access(folder, os.W_OK) or _has_package(folder / name, folder, context):
            return TorchPredict(load_package(package(folder, plan, context)), base, context.device)
        with tempfile.TemporaryDirectory() as scratch:  # torch unpacks what it loads: the package may go
            path = Path(scratch) / "model.pt2"
            compile_package(folder, plan, context, path)
            return TorchPredict(load_package(path), base, context.device)


def package(folder: Path, plan: Plan, context: Context) -> Path:
    """The package of the model in `folder`: compiled at the first call, reused while nothing it depends on changes.

    Raises Infeasible where the model does not compile.
    """
    (name,) = AotInductor().files(plan)
    path = folder / name
    if not _has_package(path, folder, context):
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{secrets.token_hex(8)}.{path.name}")  # torch insists on the suffix
        try:
            compile_package(folder, plan, context, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        seal(path, conditions(folder, context, torch.get_num_threads()))
    return path


def _has_package(path: Path, folder: Path, context: Context) -> bool:
    """Whether this user compiled the package at `path`, for the model in `folder`, here.

    Without a given number of threads, a package for torch's default number or for every processor is accepted. A search
    times its candidates with the latter, which is larger where two threads share a core.
    """
    from loky import cpu_count

    threads = {torch.get_num_threads()}
    if not context.threads:
        threads.add(int(cpu_count()))
    return any(sealed(path, conditions(folder, context, count)) for count in threads)


def conditions(folder: Path, context: Context, threads: int) -> str:
    """The conditions under which a package is valid, as text: weights, torch, processor, and number of threads."""
    with (folder / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{weights} {_machine(context, threads)}"


def _machine(context: Context, threads: int) -> str:
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    cpu = sorted(name for name, has in abilities.items() if has is True)
    gpu = torch.cuda.get_device_name() if context.device == "cuda" else ""
    # The number of threads is written into the code of every parallel loop.
    parts = (torch.__version__, platform.machine(), *cpu, gpu, context.device, threads)
    return " ".join(map(str, parts))


def load_package(path: Path) -> Any:
    """The compiled model in the package at `path`, whose code this runs: open only what this user has sealed."""
    return torch._inductor.aoti_load_package(str(path))


def compile_package(folder: Path, plan: Plan, context: Context, path: Path) -> None:
    """Compile the model in `folder` under this plan ahead of time, and write the package to `path`.

    Raises Infeasible where the model does not compile.
    """
    model = load_for(folder, plan, context, AotInductor.name)
    program = export_graph(model, base_of(folder).inputs, context.device)
    try:
        with quiet_torch():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # Inductor raises many types; all mean that it does not compile here
        raise Infeasible(f"AOTInductor failed: {brief(error)}") from error
