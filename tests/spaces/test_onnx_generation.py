"""Causal language models as graphs: greedy output, logits and scores are those of transformers in each runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal import stored
from onnx_models import CASES, VOCABULARY, causal
from torch import nn

from spaces import registry
from spaces.errors import Infeasible
from spaces.generation import onnx_decoder
from spaces.generation.onnx_linear import Precision
from spaces.generation.onnx_program import GraphScores, OnnxProgram, OnnxScores
from spaces.generation.openvino_program import OpenVinoProgram, OpenVinoScores
from spaces.generation.prefix import PrefixProgram
from spaces.generation.program import CacheFullError, CacheSettings, GeneratingRuntime, Program, greedy, open_program
from spaces.heads import Causal
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import onnx, openvino
from spaces.runtimes.eager import Eager
from spaces.weight_groups import groups_to_integers, integers_to_weights

NEW = 14
CPU = Context(threads=1)
without = registry.runtime_named("openvino").missing(CPU)
openvino_here = pytest.mark.skipif(without is not None, reason=str(without))
RUNTIMES = ("onnx", pytest.param("openvino", marks=openvino_here))
CACHES = {"onnx": CacheSettings("static", capacity=64), "openvino": CacheSettings("dynamic")}


class Opened:
    """A model and its graphs, each made when it is asked for first."""

    def __init__(self, model: Causal, folder: Path) -> None:
        self.model, self._folder = model, folder
        self._sessions: dict[str, Any] = {}

    def path(self, **plan: Any) -> Path:
        path = self._folder / onnx.file_of(plan)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            onnx_decoder.write(self.model, Precision.of(plan), path)
        return path

    def session(self, **plan: Any) -> Any:
        path = self.path(**plan)
        if path.name not in self._sessions:
            self._sessions[path.name] = onnx.open_session(path, Context(threads=1), onnx.CPU)
        return self._sessions[path.name]

    def program(self, capacity: int = 64, runtime: str = "onnx", **plan: Any) -> Any:
        if runtime == "openvino":
            return self._opened(OpenVinoProgram, **plan)
        return OnnxProgram(self.session(**plan), CacheSettings("static", capacity=capacity))

    def scores(self, ids: np.ndarray, mask: np.ndarray, runtime: str = "onnx", **plan: Any) -> np.ndarray:
        scores: GraphScores = (
            self._opened(OpenVinoScores, **plan) if runtime == "openvino" else OnnxScores(self.session(**plan))
        )
        return scores({"input_ids": ids, "attention_mask": mask})["log_likelihood"]

    def _opened(self, kind: Callable[[Path, dict[str, Any]], Any], **plan: Any) -> Any:
        path = self.path(**plan)
        name = f"{kind} {path.name}"
        if name not in self._sessions:
            self._sessions[name] = kind(path, openvino.compile_options(CPU))
        return self._sessions[name]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    cache: dict[str, Opened] = {}

    def open_case(name: str) -> Opened:
        if name not in cache:
            cache[name] = Opened(CASES[name](), tmp_path_factory.mktemp("model"))
        return cache[name]

    return open_case


def prompts(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of these lengths, padded on the left: ids (B, L), mask (B, L)."""
    longest = max(lengths)
    ids = np.random.default_rng(0).integers(4, VOCABULARY, size=(len(lengths), longest))
    mask = np.arange(longest)[None, ::-1] < np.array(lengths)[:, None]
    return np.where(mask, ids, 1), mask.astype(np.int64)


@torch.no_grad()
def generated(model: Causal, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    tokens, rows = torch.from_numpy(ids), torch.from_numpy(mask)
    continuation = model.model.generate(  # type: ignore[operator]
        tokens, attention_mask=rows, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=1
    )
    return continuation[:, ids.shape[1] :].numpy()  # type: ignore[no-any-return]


@torch.no_grad()
def logits(model: Causal, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(B, L, V), padding on either side."""
    rows = torch.from_numpy(mask)
    places = (rows.cumsum(1) - 1).clamp(min=0)
    output = model.model(input_ids=torch.from_numpy(ids), attention_mask=rows, position_ids=places)
    return output.logits.numpy()  # type: ignore[no-any-return]


def log_likelihood(model: Causal, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    sure = torch.from_numpy(logits(model, ids, mask)).log_softmax(-1)[:, :-1]
    by_token = sure.gather(-1, torch.from_numpy(ids)[:, 1:, None])[..., 0].numpy() * mask[:, 1:]
    return np.pad(by_token, ((0, 0), (1, 0)))  # type: ignore[no-any-return]


def answers(program: Program, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.stack(list(greedy(program, ids, mask, NEW)), 1)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_greedy_output_is_that_of_generate(name: str, runtime: str, opened: Callable[[str], Opened]) -> None:
    case = opened(name)
    program = case.program(runtime=runtime, precision="fp32")
    for lengths in ((7,), (9, 3, 14), (1, 1)):
        ids, mask = prompts(*lengths)
        expected = generated(case.model, ids, mask)
        assert len(np.unique(expected)) > 4, "an answer of few tokens tells nothing"
        np.testing.assert_array_equal(answers(program, ids, mask), expected)
        np.testing.assert_allclose(program.prefill(ids, mask)[0], logits(case.model, ids, mask)[:, -1], atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_shared_beginning_is_read_once_and_changes_no_output(name: str, opened: Callable[[str], Opened]) -> None:
    program = opened(name).program(precision="fp32")
    prefixes = PrefixProgram(program, 10**6)
    whole = prompts(20)[0]
    for length, end in ((20, 0), (12, 8), (12, 1), (20, 0)):
        ids = np.concatenate([whole[:, :length], whole[:, :end]], 1)
        mask = np.ones_like(ids)
        np.testing.assert_array_equal(answers(prefixes, ids, mask), answers(program, ids, mask))
        logits = [one.prefill(ids, mask)[0] for one in (prefixes, program)]
        np.testing.assert_allclose(*logits, atol=2e-5)
    assert (prefixes.hits, prefixes.misses) == (7, 1)
    assert prefixes.nbytes > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_log_likelihoods_of_the_tokens(name: str, runtime: str, opened: Callable[[str], Opened]) -> None:
    case, (ids, mask) = opened(name), prompts(9, 3, 14, 1)
    ids, mask = np.flip(ids, 1).copy(), np.flip(mask, 1).copy()  # padded at the right
    scores = case.scores(ids, mask, runtime, precision="fp32")
    np.testing.assert_allclose(scores, log_likelihood(case.model, ids, mask), atol=2e-5)
    assert scores.dtype == np.float32 and not scores[:, 0].any() and not scores[mask == 0].any()


def test_texts_are_scored_in_as_many_calls_as_memory_asks_for(
    opened: Callable[[str], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, (ids, mask) = opened("llama"), prompts(14, 14, 14)
    at_once = case.scores(ids, mask, precision="fp32")
    monkeypatch.setattr("spaces.generation.onnx_program.SCORED_PER_CALL", 20)
    np.testing.assert_allclose(case.scores(ids, mask, precision="fp32"), at_once, atol=1e-5)


def rounded(model: Causal, bits: int, head: int) -> None:
    """The weights of `model` become what its integers stand for."""
    output = model.model.get_output_embeddings()  # type: ignore[operator]
    output.weight = nn.Parameter(output.weight.detach().clone())  # no longer that of the table
    for linear in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        width = head if linear is output else bits
        weights = integers_to_weights(groups_to_integers(linear.weight.detach().numpy(), width), linear.in_features)
        linear.weight = nn.Parameter(torch.from_numpy(weights))


PLANS: tuple[tuple[Plan, int, int], ...] = (
    ({"precision": "int8"}, 8, 8),
    ({"precision": "int4"}, 4, 4),
    ({"precision": "int4", "head": "int8"}, 4, 8),
)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("plan", "bits", "head"), PLANS, ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen3, cut", "gpt2"])
def test_a_plan_gives_the_same_integers_in_scores_and_generation(
    name: str, plan: Plan, bits: int, head: int, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are those of a model whose weights are what the integers stand for, where products are in floating point."""
    monkeypatch.setattr("spaces.generation.onnx_linear.ACCURACY_LEVEL", 1)
    monkeypatch.setattr("spaces.generation.openvino_program.ACTIVATION_GROUP", 0)
    case, model, (ids, mask) = Opened(CASES[name](), tmp_path), CASES[name](), prompts(9, 9)
    rounded(model, bits, head)
    expected = logits(model, ids, mask)[:, -1]
    by_prefill, cache = case.program(runtime=runtime, **plan).prefill(ids[:, :-1], mask[:, 1:])
    by_steps = case.program(runtime=runtime, **plan).decode(ids[:, -1], cache)
    np.testing.assert_allclose(by_prefill, logits(model, ids[:, :-1], mask[:, 1:])[:, -1], atol=1e-4)
    np.testing.assert_allclose(by_steps, expected, atol=1e-4)
    np.testing.assert_allclose(case.scores(ids, mask, runtime, **plan), log_likelihood(model, ids, mask), atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_activations_of_8_bits_lose_less_than_weights_of_4(
    name: str, precision: str, runtime: str, opened: Callable[[str], Opened]
) -> None:
    case, model, (ids, mask) = opened(name), CASES[name](), prompts(9, 9)
    bits = int(precision.removeprefix("int"))
    rounded(model, bits, bits)
    whole, expected = (logits(candidate, ids, mask)[:, -1] for candidate in (case.model, model))
    error = np.abs(case.program(runtime=runtime, precision=precision).prefill(ids, mask)[0] - expected).mean()
    rounded(model, 4, 4)
    assert error < np.abs(logits(model, ids, mask)[:, -1] - whole).mean() / 3


def test_a_graph_holds_the_bytes_that_its_precision_says(opened: Callable[[str], Opened]) -> None:
    """The tied table once in fp32, once more where the head is of integers, and once where both are of the same."""
    case = opened("llama")
    table, body = VOCABULARY * 64, 2 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 96)
    scaled = 1 + 4 / 32  # bytes a weight in 8 bits
    overhead = 20_000
    for plan, size in (
        ({"precision": "fp32"}, 4 * (table + body)),
        ({"precision": "int8"}, 4 * table + scaled * (table + body)),
        ({"precision": "int8", "embeddings": "int8"}, scaled * (table + body)),
        ({"precision": "int4", "embeddings": "int8", "head": "int8"}, scaled * table + 0.64 * body),
    ):
        assert abs(case.path(**plan).stat().st_size - size) < overhead, plan


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_integer_table_gives_nearly_what_the_float_one_does(runtime: str, opened: Callable[[str], Opened]) -> None:
    case, (ids, mask) = opened("llama"), prompts(9, 3)
    output = case.program(runtime=runtime, precision="int8", embeddings="int8").prefill(ids, mask)[0]
    expected = case.program(runtime=runtime, precision="int8").prefill(ids, mask)[0]
    assert 0 < np.abs(output - expected).mean() < 0.05 * expected.std()


def test_a_full_cache_is_an_error_and_no_step(opened: Callable[[str], Opened]) -> None:
    program, (ids, mask) = opened("llama").program(capacity=10, precision="fp32"), prompts(8, 3)
    scores, cache = program.prefill(ids, mask)
    assert cache.length == 8 and cache.nbytes == 2 * 2 * 2 * 2 * 10 * 16 * 4  # rows, blocks, both, heads, tokens, width
    for _ in range(2):
        scores = program.decode(scores.argmax(-1), cache)
    with pytest.raises(CacheFullError, match="10 tokens"):
        program.decode(scores.argmax(-1), cache)
    assert cache.length == 10
    with pytest.raises(CacheFullError, match="10 tokens, got 11"):
        program.prefill(*prompts(11))


class Crowded:
    """A session before whose runs other arrays of a prompt's sizes are made, which take the memory that is free."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        others = [np.full(shape, 3, kind) for shape in ((1, 100), (1,), (1, 1)) for kind in (np.int64, np.int32)] * 20
        self.session.run_with_iobinding(binding, options)
        assert len(others) == 120


def test_the_memory_of_a_prompt_is_held_while_it_is_read(opened: Callable[[str], Opened]) -> None:
    """The session reads it by its address, so whatever takes that memory first would be read instead."""
    (ids, mask), cache = prompts(100), CacheSettings("static", capacity=128)
    session = opened("llama").session(precision="fp32")
    expected, scores = (OnnxProgram(s, cache).prefill(ids, mask)[0] for s in (session, Crowded(session)))
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_table_of_positions_bounds_the_cache(runtime: str, opened: Callable[[str], Opened]) -> None:
    program = opened("gpt2").program(4096, runtime, precision="fp32")
    with pytest.raises(CacheFullError, match="128 tokens, got 129"):
        program.prefill(*prompts(129))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("mask", [[[1, 1, 0]], [[1, 0, 1]], [[0, 0, 0]]], ids=str)
def test_padding_elsewhere_is_refused(mask: list[list[int]], runtime: str, opened: Callable[[str], Opened]) -> None:
    with pytest.raises(ValueError, match="padded on the left"):
        opened("llama").program(runtime=runtime, precision="fp32").prefill(np.array([[5, 6, 7]]), np.array(mask))


FP32: Plan = {"precision": "fp32"}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_stored_model_is_opened_for_scores_and_for_generation(name: str, runtime: str, tmp_path: Path) -> None:
    folder, opener, settings = stored(tmp_path, name), registry.runtime_named(runtime), CACHES[runtime]
    ids, mask = prompts(9, 3, 14)
    by_runtime = [
        answers(open_program(folder, reader, FP32, cache, CPU), ids, mask)
        for reader, cache in ((runtime, settings), ("eager", CACHES["onnx"]))
    ]
    np.testing.assert_array_equal(*by_runtime)
    batch = {"input_ids": np.flip(ids, 1).copy(), "attention_mask": np.flip(mask, 1).copy()}
    scores = [one.open(folder, FP32, CPU)(batch)["log_likelihood"] for one in (opener, Eager())]
    np.testing.assert_allclose(*scores, atol=2e-5)
    open_program(folder, runtime, {"precision": "int4", "head": "int8"}, settings, CPU)
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["fp32.onnx", "int4-h8.onnx"]


@openvino_here
def test_prompts_under_openvino_have_caches_of_their_own(opened: Callable[[str], Opened]) -> None:
    """Their steps may alternate, threads may share the program, and each is as if alone; bytes are those of tokens."""
    program, asked = opened("llama").program(runtime="openvino", precision="fp32"), (prompts(9, 3), prompts(5))
    alone = [answers(program, *one) for one in asked]
    prefilled = [program.prefill(*one) for one in asked]
    tokens = [[scores.argmax(-1)] for scores, _ in prefilled]
    for _ in range(NEW - 1):
        for answer, (_, cache) in zip(tokens, prefilled, strict=True):
            answer.append(program.decode(answer[-1], cache).argmax(-1))
    for answer, expected in zip(tokens, alone, strict=True):
        np.testing.assert_array_equal(np.stack(answer, 1), expected)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: answers(program, *one), asked * 4))
    for answer, expected in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(answer, expected)
    cache = prefilled[0][1]
    assert cache.length == 9 + NEW - 1
    assert cache.nbytes == 2 * 2 * 2 * 2 * cache.length * 16 * 4  # rows, blocks, both, heads, tokens, width


@openvino_here
@pytest.mark.parametrize(("precision", "stored_as"), [("int8", "i8"), ("int4", "u4")])
def test_openvino_multiplies_by_integers_and_attends_over_its_state(
    precision: str, stored_as: str, opened: Callable[[str], Opened]
) -> None:
    """The compiled model says what it runs: no weights are widened before a product, and no state is copied."""

    def kind(node: Any) -> str:
        return str(node.get_rt_info()["layerType"].astype(str))

    program = opened("llama").program(runtime="openvino", precision=precision)
    nodes = program.model.compiled.get_runtime_model().get_ops()
    products, attentions = (
        [node for node in nodes if kind(node) == wanted] for wanted in ("FullyConnected", "ScaledDotProductAttention")
    )
    assert len(products) == 2 * 5 + 1 and len(attentions) == 2
    for node in products:
        assert node.input_value(1).get_element_type().get_type_name() == stored_as
    for node in attentions:
        read = [kind(node.input_value(index).get_node()) for index in range(node.get_input_size())]
        assert read.count("MemoryInput") == 2


def test_plans_and_caches_that_there_are_not_are_infeasible(tmp_path: Path) -> None:
    folder, static = stored(tmp_path), CacheSettings("static")
    with pytest.raises(Infeasible, match="onnx has no dynamic cache on cpu; it has static"):
        open_program(folder, "onnx", FP32, CacheSettings("dynamic"), Context())
    with pytest.raises(Infeasible, match="onnx has no int8-static kernels on this cpu"):
        open_program(folder, "onnx", {"precision": "int8-static"}, static, Context())
    with pytest.raises(Infeasible, match=r"bits.head: eager"):
        open_program(folder, "eager", {**FP32, "head": "int8"}, static, Context())


def test_openvino_that_is_not_installed_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name))
    folder, wanted = (
        stored(tmp_path),
        r'openvino not installed: pip install "transformer-compression-search\[openvino\]"',
    )
    with pytest.raises(Infeasible, match=wanted):
        open_program(folder, "openvino", FP32, CACHES["openvino"], CPU)
    with pytest.raises(Infeasible, match=wanted):
        openvino.OpenVino().open(folder, FP32, CPU)


def test_what_a_graph_cannot_have_is_infeasible(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match="got int8-static"):
        Precision.of({"precision": "int8-static"})
    model = causal("llama")
    model.backbone.config.model_type = "bert"  # type: ignore[union-attr]
    with pytest.raises(Infeasible, match="got bert"):
        onnx_decoder.write(model, Precision.of({"precision": "fp32"}), tmp_path / "graph.onnx")
    model = causal("llama")
    model.backbone.rotary_emb.rope_type = "dynamic"  # type: ignore[union-attr]
    with pytest.raises(Infeasible, match="dynamic"):
        onnx_decoder.write(model, Precision.of({"precision": "fp32"}), tmp_path / "graph.onnx")


def test_graphs_generate_on_the_cpu_alone(tmp_path: Path) -> None:
    runtime, device = registry.runtime_named("onnx"), Context("cuda")
    assert isinstance(runtime, GeneratingRuntime)
    assert runtime.generating_precisions(device) == () and runtime.cache_kinds(device) == ()
    with pytest.raises(Infeasible, match="onnx does not generate text on cuda"):
        open_program(tmp_path, "onnx", {"precision": "fp32"}, CACHES["onnx"], device)
