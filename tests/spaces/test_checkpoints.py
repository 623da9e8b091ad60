"""A training that is killed ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import student, weights
from torch import Tensor, nn
from torch.nn import functional

from spaces.base import TaskModel
from spaces.checkpoints import Checkpoints
from spaces.early_stopping import Stopping
from spaces.training import Loss, Training, TrainingBatch, train

STEPS = 7  # three and a half epochs of two batches
QUICK = Training(epochs=STEPS / 2, batch=4, learning_rate=1e-3, head_learning_rate=1e-2)


class Killed(Exception):  # noqa: N818 - what stands in for a kill
    pass


def nothing(_: float) -> None:
    pass


def killing(after: int) -> Callable[[float], None]:
    """Raises once `after` steps were done, before the state after the last of them is written."""
    done: list[float] = []

    def progress(share: float) -> None:
        done.append(share)
        if len(done) == after:
            raise Killed

    return progress


def loss_on(labels: Tensor) -> Loss:
    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        return functional.cross_entropy(model(**inputs), labels[rows])

    return loss


def epochs(batches: list[TrainingBatch]) -> Callable[[int], list[TrainingBatch]]:
    """Every other epoch the other way round, so that where in its epochs a training goes on matters."""
    return lambda number: batches if number % 2 == 0 else batches[::-1]


def stopping_of(kind: str, batches: list[TrainingBatch], labels: Tensor) -> Stopping | None:
    """None; one by a loss that falls; one by a loss that rises, so that patience ends at the fourth evaluation."""

    def held_out(model: TaskModel) -> float:
        with torch.no_grad():
            return float(loss_on(labels)(model, *batches[0]))

    def rising(model: TaskModel) -> float:
        # Of the model alone, as it must be: what a function counts is not in the file.
        return -held_out(model)

    return {"none": None, "best": Stopping(held_out, 3, 0.5), "ends": Stopping(rising, 3, 0.5)}[kind]


def trained(
    file: Path | None = None,
    *,
    stopping: str = "none",
    progress: Callable[[float], None] = nothing,
    training: Training = QUICK,
    every_s: float = 0.0,
    case: str = "bert",
) -> dict[str, Tensor]:
    model, batches, labels = student(case)
    assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    checkpoints = None if file is None else Checkpoints(file, every_s)
    stopping_rule = stopping_of(stopping, batches, labels)
    train(model, epochs(batches), loss_on(labels), training, "cpu", progress, stopping_rule, checkpoints)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    return weights(model)


def begun(file: Path, steps: int = 4) -> None:
    """Leaves the state of a training that was killed after so many steps."""
    with pytest.raises(Killed):
        trained(file, progress=killing(steps + 1))


def steps_of(call: Callable[[Callable[[float], None]], object]) -> int:
    done: list[float] = []
    call(done.append)
    return len(done)


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize("stopping", ["none", "best", "ends"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_training_goes_on_to_the_same_weights(file: Path, after: int, stopping: str) -> None:
    """Killed once a step, so each call does what the one before did not keep, and `after - 1` steps more."""
    whole = trained(stopping=stopping)
    with pytest.raises(Killed):
        trained(file, stopping=stopping, progress=killing(after))
    with pytest.raises(Killed):
        trained(file, stopping=stopping, progress=killing(2))
    assert file.exists()
    assert steps_of(lambda progress: trained(file, stopping=stopping, progress=progress)) < STEPS
    assert equal(trained(file, stopping=stopping), whole)
    assert not list(file.parent.glob(".*"))


def test_the_state_is_written_no_more_often_than_asked(file: Path) -> None:
    whole = trained()
    assert equal(trained(file, every_s=1e9), whole) and not file.exists()
    written: list[int] = []

    def progress(_: float) -> None:
        written.append(file.stat().st_ino if file.exists() else 0)

    assert equal(trained(file, every_s=0.0, progress=progress), whole)
    assert written[0] == 0 and all(written[1:])


OTHERS = {
    "rate": replace(QUICK, learning_rate=2e-3),
    "seed": replace(QUICK, seed=1),
    "length": replace(QUICK, epochs=3),
    "frozen": replace(QUICK, freeze_embeddings=False),
}


@pytest.mark.parametrize("training", OTHERS.values(), ids=OTHERS)
def test_the_state_of_another_training_is_ignored(file: Path, training: Training) -> None:
    begun(file)
    assert equal(trained(file, training=training), trained(training=training))


def test_the_state_of_another_model_or_another_stopping_is_ignored(file: Path) -> None:
    begun(file)
    assert equal(trained(file, case="distilbert"), trained(case="distilbert"))
    begun(file)
    assert equal(trained(file, stopping="best"), trained(stopping="best"))


def test_a_damaged_file_is_ignored_wherever_the_damage_is(file: Path) -> None:
    """The law is that no damage changes a weight; where it hits nothing that counts, training may go on."""
    whole = trained()
    begun(file)
    content = file.read_bytes()
    places = [0, 8, 40, len(content) // 3, len(content) // 2, len(content) - 1]
    flipped = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in places]
    for damaged in (b"", b"x" * 100, content[:-1], content[: len(content) // 2], *flipped):
        file.write_bytes(damaged)
        assert equal(trained(file, every_s=1e9), whole)
    file.unlink()
    file.mkdir()
    assert equal(trained(file, every_s=1e9), whole)


def test_a_step_number_that_was_changed_is_found_out(file: Path) -> None:
    begun(file)
    content = file.read_bytes()
    changed = content.replace(b'\\"step\\": 4', b'\\"step\\": 2')
    assert changed != content
    file.write_bytes(changed)
    assert equal(trained(file), trained())


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_checkpoints
test_checkpoints.trained(Path(sys.argv[1]), stopping="best", progress=lambda done: (print(done, flush=True), input()))
"""


def test_a_process_that_is_killed_loses_only_what_it_had_not_written(file: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(file)],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdin is not None and child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
            child.stdin.write("\n")
            child.stdin.flush()
        assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert steps_of(lambda progress: trained(file, stopping="best", progress=progress, every_s=1e9)) == STEPS - 3
    assert equal(trained(file, stopping="best"), trained(stopping="best"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_killed_training_goes_on_with_its_random_numbers(file: Path) -> None:
    """Dropout draws from the device; kernels that add in another order are allowed a little."""

    def on_gpu(folder: Path | None, progress: Callable[[float], None] = nothing) -> dict[str, Tensor]:
        model, batches, labels = student()
        checkpoints = None if folder is None else Checkpoints(folder, 0.0)
        loss = loss_on(labels.cuda())
        train(model, epochs(batches), loss, QUICK, "cuda", progress, checkpoints=checkpoints)
        return weights(model)

    whole = on_gpu(None)
    with pytest.raises(Killed):
        on_gpu(file, killing(4))
    for name, tensor in on_gpu(file).items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-4, rtol=1e-3)
