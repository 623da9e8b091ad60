"""Runtimes: the same numbers as eager, on kernels of the precision they claim, or a reason why not."""

from __future__ import annotations

import importlib.util
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import arrays_of, batch_of, logits, stored, subject, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from spaces import build, registry
from spaces.base import write_folder
from spaces.errors import Infeasible
from spaces.runtime import Context, Runtime
from spaces.runtimes import torch_predict
from spaces.runtimes.openvino import OpenVinoPredict
from spaces.runtimes.padding import PREPARED_LENGTHS, padded_length

CPU = Context(threads=1)
FP32 = {"precision": "fp32"}
RUNTIMES = pytest.mark.parametrize("runtime", registry.runtimes(), ids=lambda r: r.name)
SIZES = ((7, 4, 7, 2), (9,), (2,), (5, 5), (33, 17, 2), (16,))  # lengths of the rows of batches
TORCH_RUNTIMES = ("eager", "compiled", "compiled-max-autotune", "aot_inductor", "cuda_graph")
SLOW = "compiled-max-autotune"  # a minute or two for a whole model: it has a test with a single product
QUICK = tuple(r.name for r in registry.runtimes() if r.name != SLOW)
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def needs(runtime: str) -> Any:
    why = registry.runtime_named(runtime).missing(CPU)
    return pytest.mark.skipif(why is not None, reason=str(why))


def agree(path: Path, runtime: str, device: str = "cpu", case: str = "bert", head: str = "mean") -> None:
    base = tiny(case, head)[1]
    eager = build.open_predict(path, "eager", FP32, CPU)
    predict = build.open_predict(path, runtime, FP32, Context(device, threads=1))
    for seed, lengths in enumerate(SIZES):
        batch = arrays_of(base, lengths, seed)
        output = predict(batch)
        assert list(output) == [base.output] and output[base.output].dtype == np.float32
        real = batch["attention_mask"].astype(bool) if base.per_token else slice(None)
        np.testing.assert_allclose(output[base.output][real], eager(batch)[base.output][real], atol=1e-4, rtol=0)


# --- what holds for all -------------------------------------------------------------------------------------


@RUNTIMES
def test_every_runtime_says_what_it_is_and_can_do(runtime: Runtime) -> None:
    assert registry.runtime_named(runtime.name) is runtime and runtime.source
    assert runtime.precisions(CPU)[0] == "fp32"
    assert set(runtime.precisions(CPU)) <= set(registry.axis_named("bits").knobs(build.NO_SHAPE)[0].choices)


@pytest.mark.parametrize("runtime", [pytest.param(r, marks=needs(r)) for r in QUICK])
def test_every_runtime_gives_the_logits_of_eager(runtime: str, folder: Path) -> None:
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    agree(folder, runtime)
    # One graph for a single row and one for several: later lengths and batches compile nothing.
    assert counters["stats"]["unique_graphs"] - before == (2 if runtime == "compiled" else 0)
    for name in registry.runtime_named(runtime).files(FP32):
        assert (folder / name).stat().st_size > 0


@pytest.mark.parametrize("runtime", [pytest.param(r, marks=needs(r)) for r in ("onnx", "xla")])
def test_a_decoder_that_reads_its_last_token_gives_the_same_logits(runtime: str, decoder: Path) -> None:
    agree(decoder, runtime, case="llama", head="native")


@pytest.mark.parametrize("head", ["span", "embedding"])
@pytest.mark.parametrize("runtime", [pytest.param(r, marks=needs(r)) for r in ("onnx", "openvino")])
def test_graphs_name_and_give_the_output_of_every_head(runtime: str, head: str, tmp_path: Path) -> None:
    write_folder(tmp_path, *tiny(head=head), {})
    agree(tmp_path, runtime, head=head)


def test_eager_is_the_model_itself(folder: Path) -> None:
    base = subject().base
    output = build.open_predict(folder, "eager", FP32, CPU)(arrays_of(base, (6, 3)))
    expected = logits(build.load_model(folder), batch_of(base, (6, 3)))
    assert np.array_equal(output["logits"], expected.numpy())


@RUNTIMES
def test_a_runtime_that_is_missing_says_so_and_opens_nothing(runtime: Runtime, folder: Path) -> None:
    why = runtime.missing(CPU)
    if why is None:
        pytest.skip("it is here")
    with pytest.raises(Infeasible) as caught:
        runtime.open(folder, FP32, CPU)
    assert str(caught.value) == why


@RUNTIMES
@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_a_precision_without_kernels_is_infeasible_and_named(runtime: Runtime, precision: str, folder: Path) -> None:
    if runtime.missing(CPU) or precision in runtime.precisions(CPU):
        pytest.skip("it is missing, or has the precision")
    with pytest.raises(Infeasible, match=f"{runtime.name} has no {precision} kernels"):
        runtime.open(folder, {"precision": precision}, CPU)


@pytest.mark.parametrize(
    ("runtime", "package"),
    [("onnx", "onnxruntime"), ("onnx", "onnxscript"), ("openvino", "openvino"), ("xla", "jax")],
)
def test_a_missing_package_names_its_install_command(
    runtime: str, package: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    why = registry.runtime_named(runtime).missing(CPU)
    assert why and package in why and f'pip install "transformer-compression-search[{runtime}]"' in why
    with pytest.raises(Infeasible, match="pip install"):
        registry.runtime_named(runtime).open(folder, FP32, CPU)
    assert registry.runtime_named("eager").missing(CPU) is None


class OneRequest:
    """An OpenVINO whose only request holds its answer in one buffer, as the real one does."""

    def __init__(self) -> None:
        self.answer = np.zeros(1)

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.answer[:] = inputs["input_ids"].sum()
        time.sleep(0.01)  # another thread's turn to overwrite it
        return {"logits": self.answer}


def one_request(monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    """An OpenVINO whose models take token ids and have this request."""
    names = [[SimpleNamespace(get_any_name=lambda name=name: name)] for name in ("input_ids", "logits")]
    model = SimpleNamespace(inputs=names[0], outputs=names[1])
    compiled = SimpleNamespace(create_infer_request=lambda: request)
    core = SimpleNamespace(compile_model=lambda *_: compiled, read_model=lambda path: model)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))


def test_threads_that_share_an_openvino_request_each_get_their_own_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one_request(monkeypatch, OneRequest())
    predict = OpenVinoPredict(tmp_path / "model.onnx", {})
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(predict, ({"input_ids": np.full((1, 1), i)} for i in range(8))))
    assert [float(answer["logits"][0]) for answer in answers] == list(range(8))


@pytest.mark.parametrize("head", ["span", "mean"])
def test_openvino_meets_few_lengths_and_gives_back_the_rows_as_they_came(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: str
) -> None:
    base, seen = tiny("roberta", head)[1], set[int]()
    base = replace(base, config={**base.config, "max_position_embeddings": 514})

    def infer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids = inputs["input_ids"]
        seen.add(ids.shape[1])
        return {"logits": ids[..., None] if base.per_token else ids.sum(1, keepdims=True)}

    one_request(monkeypatch, SimpleNamespace(infer=infer))
    predict = OpenVinoPredict(tmp_path / "model.onnx", {}, base)
    for length in range(1, 513):
        batch = {"input_ids": np.arange(2 * length, dtype=np.int64).reshape(2, length)}
        padding = padded_length(length, PREPARED_LENGTHS) - length
        wanted = batch["input_ids"]
        whole = wanted.sum(1, keepdims=True) + padding * base.config["pad_token_id"]
        assert np.array_equal(predict(batch)["logits"], wanted[..., None] if base.per_token else whole)
        assert 0 <= padding <= max(7, length / 8)
    assert seen == set(PREPARED_LENGTHS) and len(seen) == 32


@pytest.mark.parametrize("case", ["roberta", "mpnet", "modernbert"])
@needs("openvino")
def test_padding_changes_no_output_of_openvino(case: str, tmp_path: Path) -> None:
    """Of families that count positions by the padding token, or attend locally."""
    write_folder(tmp_path, *tiny(case), {})
    agree(tmp_path, "openvino", case=case)


def test_some_runtimes_need_cuda_and_some_a_cpu() -> None:
    assert "CUDA" in str(registry.runtime_named("cuda_graph").missing(CPU))
    assert "CUDA" in str(registry.runtime_named("tensorrt").missing(CPU))
    assert registry.runtime_named("cuda_graph").missing(Context("cuda")) is None
    assert "CPU" in str(registry.runtime_named("openvino").missing(Context("cuda")))
    assert "CPU" in str(registry.runtime_named("xla").missing(Context("cuda")))


# --- torch.compile ------------------------------------------------------------------------------------------


class Products(TorchDispatchMode):
    """Notes the types of every matrix product that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm", "linear"):
            self.types |= {a.dtype for a in args if isinstance(a, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_matrix_product_runs_in_the_planned_precision(
    precision: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """On a CPU without bf16 instructions the precision is infeasible; here only that nothing is widened is asked."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    predict = build.open_predict(folder, "eager", {"precision": precision}, CPU)
    batch = arrays_of(subject().base, (6, 3))
    with Products() as products:
        output = predict(batch)["logits"]
    assert products.types == {torch_predict.TORCH_DTYPES[precision]}
    exact = build.open_predict(folder, "eager", FP32, CPU)(batch)["logits"]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, exact, atol=0.1 * np.abs(exact).max())


@pytest.mark.parametrize("capable", [True, False])
def test_bf16_is_offered_where_the_cpu_has_it(capable: bool, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    capabilities = {"avx512_bf16": capable, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert torch_predict.torch_precisions(CPU) == (("fp32", "bf16") if capable else ("fp32",))
    assert ("bf16" in registry.runtime_named("openvino").precisions(CPU)) == capable
    if not capable:
        with pytest.raises(Infeasible, match="eager has no bf16 kernels"):
            registry.runtime_named("eager").open(folder, {"precision": "bf16"}, CPU)


# --- on a GPU -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", [pytest.param(r, marks=gpu) for r in TORCH_RUNTIMES])
@pytest.mark.parametrize(("case", "head"), [("bert", "mean"), ("roberta", "native"), ("llama", "native")])
def test_torch_runtimes_agree_on_cuda(runtime: str, case: str, head: str, tmp_path: Path) -> None:
    agree(stored(tmp_path, case, head), runtime, "cuda", case, head)


@pytest.mark.parametrize("runtime", [pytest.param(r, marks=gpu) for r in ("eager", "cuda_graph")])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions_run_on_cuda(runtime: str, precision: str, folder: Path) -> None:
    context = Context("cuda")
    if precision not in registry.runtime_named(runtime).precisions(context):
        pytest.skip(f"no {precision} on this device")
    batch = arrays_of(subject().base, (6, 3))
    output = build.open_predict(folder, runtime, {"precision": precision}, context)(batch)["logits"]
    exact = build.open_predict(folder, "eager", FP32, CPU)(batch)["logits"]
    np.testing.assert_allclose(output, exact, atol=0.1 * np.abs(exact).max())
