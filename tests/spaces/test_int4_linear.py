"""int4 of PyTorch: what a module multiplies by, where it is offered, and the weights of a plan. On a CPU's kernels."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from causal import prompts, stored
from torch import Tensor, nn

from search.space.stored_sizes import key_heads
from spaces import build, calibration, registry, sensitivity
from spaces.axes.bits import TORCH_INT4_RUNTIMES
from spaces.base import WEIGHTS, ModelError
from spaces.errors import Infeasible
from spaces.generation.cache_size import cache_bytes, cached_precision
from spaces.generation.program import CacheSettings, GeneratingRuntime, open_program
from spaces.generation.torch_program import TorchProgram
from spaces.heads import Causal
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import int4, torch_predict
from spaces.runtimes.causal_onnx import matrix_precision
from spaces.runtimes.compiled import no_compiler
from spaces.runtimes.int4 import GroupTensors, Int4Linear
from spaces.weight_groups import WEIGHT_GROUP, integers_to_weights

CPU, CUDA = Context(threads=1), Context("cuda", threads=1)
INT4: Plan = {"precision": "int4"}
#: (inputs, outputs, size of a group): whole groups and tiles, and such as are padded.
SIZES = [(64, 32, 32), (128, 48, 64), (256, 16, 128), (512, 80, 256), (96, 33, 32), (45, 5, 32), (100, 64, 64)]
compiler = pytest.mark.skipif(no_compiler("torch.compile") is not None, reason="needs a C++ compiler")
gpu = [pytest.mark.gpu, pytest.mark.skipif(int4.missing(CUDA) is not None, reason=str(int4.missing(CUDA)))]


def groups_of(outputs: int, count: int, size: int) -> GroupTensors:
    rng = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 16, (outputs, count, size), generator=rng, dtype=torch.uint8)
    zeros = torch.randint(0, 16, (outputs, count), generator=rng, dtype=torch.uint8)
    return numbers, torch.rand(outputs, count, generator=rng) + 0.1, zeros


def weights_of(groups: GroupTensors, inputs: int) -> Tensor:
    """W (out, inputs) float32: by definition, with scales and offsets in bf16."""
    numbers, scales, zeros = groups
    scale = scales.bfloat16().float()
    offset = (scale * (8 - zeros.float())).bfloat16().float()
    return ((numbers.float() - 8) * scale[..., None] + offset[..., None]).flatten(1)[:, :inputs]


def multiplied_by(module: Int4Linear) -> Tensor:
    """W (out, in) in bf16 of a module without a bias, from its products with unit vectors."""
    with torch.no_grad():
        return module(torch.eye(module.in_features, dtype=torch.bfloat16, device=module.numbers.device)).T


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model with calibration rows, whose second block is the more sensitive one."""
    folder = stored(tmp_path_factory.mktemp("int4"))
    ids = np.random.default_rng(0).integers(4, 97, (8, 40))
    calibration.write(folder, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    sensitivity.write(folder, {"model.model.layers.0": 1.0, "model.model.layers.1": 2.0})
    return folder


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtimes offer it on this CPU, whose kernels they then run."""
    monkeypatch.setattr(int4, "missing", lambda context: None)


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))


# --- the module -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs", "size"), SIZES)
def test_a_module_multiplies_by_what_its_groups_say(inputs: int, outputs: int, size: int) -> None:
    groups = groups_of(outputs, -(-inputs // size), size)
    weights = weights_of(groups, inputs).bfloat16()
    torch.testing.assert_close(multiplied_by(Int4Linear(groups, inputs)), weights, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1,), (3,), (17,), (2, 5)])
def test_tokens_of_any_shape_are_multiplied_and_the_bias_is_added(shape: tuple[int, ...]) -> None:
    groups, bias = groups_of(33, 3, 32), torch.linspace(-40, 40, 33)
    x = torch.randn(*shape, 80, generator=torch.Generator().manual_seed(1)).bfloat16()
    module = Int4Linear(groups, 80, bias)
    output, expected = module(x), x.float() @ weights_of(groups, 80).T + bias
    assert output.dtype == torch.bfloat16 and output.shape == (*shape, 33)
    torch.testing.assert_close(output.float(), expected, rtol=1e-2, atol=0.01 * float(expected.abs().mean()))
    if len(shape) == 2:
        torch.testing.assert_close(module(x[:, -1:]), output[:, -1:])  # not contiguous


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (4, 16, "a group must have 32, 64, 128, 256 weights, got 16"),
        (3, 32, "64 inputs must fill 2 groups of 32, got 3"),
        (1, 32, "64 inputs must fill 2 groups of 32, got 1"),
    ],
)
def test_groups_that_no_kernel_takes_are_refused(count: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Int4Linear(groups_of(16, count, size), 64)


@pytest.mark.parametrize(("inputs", "tiles"), [(32, 2), (64, 4), (96, 2), (128, 8), (192, 4), (384, 8)])
def test_on_cuda_as_many_tiles_lie_together_as_divide_the_inputs(inputs: int, tiles: int) -> None:
    numbers = int4.pack_int4(torch.zeros(16, inputs, dtype=torch.uint8, device="meta"))
    assert numbers.dtype == torch.int32
    assert numbers.shape == (16 // 8, inputs // (16 * tiles), 32, tiles // 2), "as the kernel reads them"


def test_a_kernel_that_fails_makes_it_infeasible_and_leaves_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(numbers: Tensor) -> Tensor:
        raise RuntimeError("not available for build")

    monkeypatch.setattr(int4, "pack_int4", fails)
    model = nn.Sequential(nn.Linear(32, 16))
    with pytest.raises(Infeasible, match="int4: no kernel for 0 here: not available for build"):
        int4.replace_linear(model, "0", groups_of(16, 1, 32))
    assert isinstance(model[0], nn.Linear)


@pytest.mark.parametrize(("inputs", "outputs", "size"), SIZES)
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_a_gpu_multiplies_by_the_same_weights(inputs: int, outputs: int, size: int, device: str) -> None:
    groups = groups_of(outputs, -(-inputs // size), size)
    numbers, scales, zeros = (part.to(device) for part in groups)
    weights = weights_of(groups, inputs).bfloat16()
    torch.testing.assert_close(multiplied_by(Int4Linear((numbers, scales, zeros), inputs)).cpu(), weights)


# --- where it is offered ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize(("capability", "there"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_int4_from_ampere_on(
    capability: tuple[int, int], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert int4.int4_precisions(CUDA) == (("int4",) if there else ())
    if not there:
        assert f"compute capability 8.0 or above, and this GPU has 7.{capability[1]}" in str(int4.missing(CUDA))


@pytest.mark.usefixtures("ampere")
def test_on_a_gpu_language_models_have_it_under_the_runtimes_of_pytorch(folder: Path) -> None:
    generating = [runtime for runtime in registry.runtimes() if isinstance(runtime, GeneratingRuntime)]
    generating = [runtime for runtime in generating if runtime.missing(CUDA) is None]
    assert {r.name for r in generating if "int4" in r.generating_precisions(CUDA)} == set(TORCH_INT4_RUNTIMES)
    assert not [runtime.name for runtime in registry.runtimes() if "int4" in runtime.precisions(CUDA)]
    with pytest.raises(Infeasible, match="eager has no int4 kernels on this cuda"):
        build.open_predict(folder, "eager", INT4, CUDA)


def test_on_a_cpu_the_runtimes_of_pytorch_refuse_it_and_say_what_it_needs(language_model: Path) -> None:
    assert "int4" not in registry.runtime_named("eager").generating_precisions(CPU)
    for open_it in (build.open_predict, functools.partial(open_program, settings=CacheSettings())):
        with pytest.raises(Infeasible, match=r"int4 under PyTorch needs a CUDA device .* 8\.0 .* this is a cpu"):
            open_it(language_model, "eager", INT4, context=CPU)


def test_a_model_that_is_no_language_model_is_refused_when_it_is_lowered(folder: Path) -> None:
    with pytest.raises(Infeasible, match="int4 under PyTorch is for causal language models alone"):
        torch_predict.load_for(folder, INT4, CPU, "eager")


# --- a plan's weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "others", [{}, {"rounding": "gptq"}, {"head": "int8"}, {"head": "fp32"}, {"fp32_blocks": 1}], ids=str
)
def test_a_plan_gives_the_weights_that_it_gives_in_a_graph(others: Plan, language_model: Path) -> None:
    plan, whole = {**INT4, **others}, build.load_model(language_model)
    model = torch_predict.load_for(language_model, plan, CPU, "eager")
    precision = matrix_precision(build.load_model(language_model), plan, language_model)
    linears = {path: module for path, module in whole.named_modules() if isinstance(module, nn.Linear)}
    assert {len(m.weight[0]) for m in linears.values()} >= {20, 48}, "groups that are not full"
    for path, linear in linears.items():
        module = model.get_submodule(path)
        bits = precision.head if path == "model.lm_head" else precision.bits(path)
        assert isinstance(module, Int4Linear) == (bits == 4)
        if bits == 32:
            assert torch.equal(module.weight, linear.weight.bfloat16())  # type: ignore[arg-type]
            continue
        groups = precision.quantise(path, linear.weight, bits)
        weights = torch.from_numpy(integers_to_weights(groups, linear.in_features))
        if isinstance(module, Int4Linear):
            steps = torch.from_numpy(groups[1]).repeat_interleave(WEIGHT_GROUP, 1)[:, : linear.in_features]
            assert ((multiplied_by(module).float() - weights).abs() < steps / 6).all()
        else:
            assert torch.equal(module.weight, weights.bfloat16())  # type: ignore[arg-type]
    tables = [m.model.get_input_embeddings().weight for m in (whole, model)]  # type: ignore[operator,union-attr]
    assert torch.equal(tables[0].bfloat16(), tables[1]), "the head has weights of its own"


def test_the_integers_are_made_once_and_nothing_that_they_were_made_of_is_needed_then(
    language_model: Path, tmp_path: Path
) -> None:
    """An export has no calibration rows."""
    folder = shutil.copytree(language_model, tmp_path / "model", ignore=shutil.ignore_patterns("pytorch"))
    for plan, name in (({**INT4, "rounding": "gptq"}, "int4-gptq"), ({**INT4, "head": "int8"}, "int4-h8")):
        first = torch_predict.load_for(folder, plan, CPU, "eager").state_dict()
        assert registry.runtime_named("eager").files(plan) == (f"pytorch/{name}.safetensors",)
        file = folder / "pytorch" / f"{name}.safetensors"
        assert file.stat().st_size < (folder / WEIGHTS).stat().st_size / 2
        sources = (folder / WEIGHTS, folder / calibration.CALIBRATION_FILE)
        kept = {path: path.rename(tmp_path / path.name) for path in sources}
        again = torch_predict.load_for(folder, plan, CPU, "eager").state_dict()
        assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
        for path, moved in kept.items():
            moved.rename(path)


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_a_file_of_another_model_is_refused(name: str, language_model: Path, tmp_path: Path) -> None:
    torch_predict.load_for(language_model, INT4, CPU, "eager")
    folder = stored(tmp_path, name)
    shutil.copytree(language_model / "pytorch", folder / "pytorch")
    with pytest.raises(ModelError, match=r"int4\.safetensors: its tensors"):
        torch_predict.load_for(folder, INT4, CPU, "eager")


def dequantised(folder: Path) -> Causal:
    """The model in bf16, with the weights that its int4 modules multiply by."""
    model, int4_model = (torch_predict.load_for(folder, {"precision": p}, CPU, "eager") for p in ("bf16", "int4"))
    for path, module in int4_model.named_modules():
        if isinstance(module, Int4Linear):
            model.get_submodule(path).weight = nn.Parameter(multiplied_by(module), requires_grad=False)
    assert isinstance(model, Causal)
    return model


def near(ours: np.ndarray, expected: np.ndarray) -> bool:
    """As near as two orders of the same sums in bf16 are."""
    return bool(np.abs(ours - expected).mean() < 0.02 * np.abs(expected).mean())


@pytest.mark.parametrize(
    ("runtime", "device"),
    [
        ("eager", "cpu"),
        pytest.param("compiled", "cpu", marks=compiler),
        *(pytest.param(name, "cuda", marks=gpu) for name in ("eager", "compiled", "cuda_graph")),
    ],
)
def test_generation_is_that_of_the_quantised_weights(
    runtime: str, device: str, language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":  # without Inductor's kernels, which take a minute to compile: their graph is the same
        monkeypatch.setattr(int4, "missing", lambda context: None)
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    settings, context = CacheSettings("static", capacity=32), Context(device, threads=1)
    opened = open_program(language_model, runtime, INT4, settings, context)
    reference = TorchProgram(dequantised(language_model).model, CacheSettings(), "cpu")
    (ids, mask), tokens = prompts((12, 7)), np.array([5, 9])
    (logits, cache), (expected, other_cache) = opened.prefill(ids, mask), reference.prefill(ids, mask)
    assert near(logits, expected)
    assert near(opened.decode(tokens, cache), reference.decode(tokens, other_cache))
    whole = open_program(language_model, "eager", {"precision": "fp32"}, CacheSettings(), CPU).prefill(ids, mask)[0]
    assert not near(whole, expected), "four bits change the logits by more than the order of sums"
    shape = key_heads(language_model)
    assert shape is not None
    assert cache.nbytes == 2 * cache_bytes(13, *shape, settings, cached_precision(runtime, "int4"))


@pytest.mark.usefixtures("on_a_cpu")
def test_scores_are_those_of_the_quantised_weights(language_model: Path) -> None:
    ids, mask = prompts((12, 12))
    batch = {"input_ids": ids, "attention_mask": mask}
    scores = build.open_predict(language_model, "eager", INT4, CPU)(batch)["log_likelihood"]
    with torch.no_grad():
        expected = dequantised(language_model)(**{name: torch.from_numpy(array) for name, array in batch.items()})
    assert near(scores, expected.float().numpy())
