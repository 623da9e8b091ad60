"""Does a product with one token wait for memory or for the processor? ONNX Runtime's kernels of fp32, int8 and int4.

    python -m benchmarks.decoding_kernels
    python -m benchmarks.decoding_kernels --quick --json kernels.json

A step of decoding multiplies one token (1, 576) by every matrix of the model. Here one matrix of random numbers is
multiplied: in 4 MB, which a processor keeps in its cache from call to call, and in 128 MB, which come from memory each
time. Where both take the same time a weight, the kernel is bound by computing, and fewer bits make nothing faster than
its instructions do. Beside them is the speed of copies of 128 MB (bytes read and written a second), in turns of random
order, since the bandwidth of a virtual machine changes while others use it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header
from objectives.clock import cpus
from spaces.generation.onnx_file import CONTRIBUTED, Graph
from spaces.generation.onnx_linear import ACCURACY_LEVEL, BITS
from spaces.runtime import Context
from spaces.runtimes.onnx import CPU, open_session
from spaces.weight_groups import WEIGHT_GROUP

HIDDEN = 576  # of SmolLM2-135M
NEAR, FAR = 4 << 20, 128 << 20  # bytes of a matrix
SECONDS = 0.1  # for which a kernel is called in a turn
COLUMNS = ("precision", "ps a weight, cached", "from memory", "ratio", "GB/s cached", "from memory", "copied", "share")


def bytes_per_weight(precision: str) -> float:
    """With the scale of a group, and in 4 bits its zero point."""
    bits = BITS[precision]
    beside = {32: 0.0, 8: 4.0, 4: 4.5}[bits] / WEIGHT_GROUP
    return bits / 8 + beside


def outputs_of(precision: str, size: int) -> int:
    """Columns of a matrix of about `size` bytes, a multiple of 64."""
    return int(size / bytes_per_weight(precision) / HIDDEN) // 64 * 64


def write_product(path: Path, precision: str, outputs: int) -> None:
    """A graph of one product of (1, 576) by (576, `outputs`), of random numbers."""
    rng, graph = np.random.default_rng(0), Graph()
    x = graph.input("x", np.float32, (1, HIDDEN))
    groups, bits = HIDDEN // WEIGHT_GROUP, BITS[precision]
    if bits == 32:
        numbers = graph.constant("weight", lambda: rng.standard_normal((HIDDEN, outputs), np.float32))
        product = graph.op("MatMul", x, numbers)
    else:
        shape = (outputs, groups, WEIGHT_GROUP * bits // 8)
        constants = [
            graph.constant("numbers", lambda: rng.integers(0, 256, shape, np.uint8)),
            graph.constant("scales", lambda: rng.random((outputs, groups), np.float32)),
        ]
        if bits == 4:
            constants.append(graph.constant("zeros", lambda: rng.integers(0, 256, (outputs, groups // 2), np.uint8)))
        sizes = {"K": HIDDEN, "N": outputs, "bits": bits, "block_size": WEIGHT_GROUP, "accuracy_level": ACCURACY_LEVEL}
        product = graph.op("MatMulNBits", x, *constants, domain=CONTRIBUTED, **sizes)
    graph.output(product, "y", np.float32, (1, outputs))
    graph.save(path, {})


def calls_of(session: Any) -> Callable[[], Any]:
    """A call of the session on one token, without copies of what goes in or out."""
    binding, token = session.io_binding(), np.random.default_rng(1).standard_normal((1, HIDDEN), np.float32)
    binding.bind_cpu_input("x", token)
    binding.bind_output("y", "cpu")
    return lambda: session.run_with_iobinding(binding)


def copy_of(size: int) -> Callable[[], Any]:
    """A copy of `size` bytes by all threads of torch."""
    import torch

    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    return lambda: target.copy_(source)


class Copies:
    """Copies of a buffer that no cache holds: how fast memory is read and written at the moment."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._copy = copy_of(FAR)

    def bytes_per_s(self) -> float:
        """Bytes read and written a second."""
        return 2 * FAR / timed(self._copy)


def timed(call: Callable[[], Any]) -> float:
    """Median seconds of a call over `SECONDS`, after one that is not counted."""
    call()
    taken: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(taken) < 5 or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def measure(folder: Path, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """By precision: weights, bytes and the median seconds of a product, cached and from memory; and of copies."""
    import torch

    torch.set_num_threads(threads)
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    figures: dict[str, dict[str, Any]] = {}
    for precision in BITS:
        figures[precision] = {}
        for where, size in (("cached", NEAR), ("memory", FAR)):
            path, outputs = folder / f"{precision}-{where}.onnx", outputs_of(precision, size)
            write_product(path, precision, outputs)
            calls[precision, where] = calls_of(open_session(path, Context(threads=threads), CPU))
            figures[precision][f"{where}_weights"] = outputs * HIDDEN
            figures[precision][f"{where}_bytes"] = outputs * HIDDEN * bytes_per_weight(precision)
            path.unlink()
    calls["copy", "memory"] = copy_of(FAR)
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    rng = np.random.default_rng(2)
    for _ in range(rounds):
        for index in rng.permutation(len(calls)):
            key = list(calls)[index]
            taken[key].append(timed(calls[key]))
    copied = 2 * FAR / float(np.median(taken.pop(("copy", "memory"))))
    for (precision, where), seconds in taken.items():
        figures[precision][f"{where}_s"] = float(np.median(seconds))
        figures[precision]["copied_bytes_s"] = copied
    return figures


def rows_of(figures: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of the table; adds each kernel's ratio of times and its share of the copied bandwidth to `figures`."""
    rows: list[tuple[str, ...]] = []
    for precision, f in figures.items():
        each = {where: f[f"{where}_s"] / f[f"{where}_weights"] * 1e12 for where in ("cached", "memory")}
        speed = {where: f[f"{where}_bytes"] / f[f"{where}_s"] / 1e9 for where in ("cached", "memory")}
        f |= {"ratio": each["memory"] / each["cached"], "share": speed["memory"] * 1e9 / f["copied_bytes_s"]}
        rows.append((
            precision, f"{each['cached']:.1f}", f"{each['memory']:.1f}", f"{f['ratio']:.2f}", f"{speed['cached']:.1f}",
            f"{speed['memory']:.1f}", f"{f['copied_bytes_s'] / 1e9:.1f}", f"{f['share']:.0%}",
        ))  # fmt: skip
    return rows


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    arguments = parser.parse_args()
    about, threads = header.hardware(), arguments.threads or cpus()
    print(f"{header.heading(about)}\none token, {threads} threads\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(Path(temporary), 5 if arguments.quick else 15, threads)
    print(header.table(COLUMNS, rows_of(figures)))
    return header.finish(arguments, about, figures, [])


if __name__ == "__main__":
    sys.exit(main())
