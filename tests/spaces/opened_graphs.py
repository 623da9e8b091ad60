"""Causal language models with their graphs, opened by the runtimes that read them, and what transformers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import CASES, VOCABULARY

from spaces import registry
from spaces.generation import onnx_decoder
from spaces.generation.onnx_linear import Precision
from spaces.generation.onnx_program import GraphScores, OnnxProgram, OnnxScores
from spaces.generation.openvino_program import OpenVinoProgram, OpenVinoScores
from spaces.generation.program import CacheSettings, Program, greedy
from spaces.heads import Causal
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import onnx, openvino

NEW = 14
CPU = Context(threads=1)
without = registry.runtime_named("openvino").missing(CPU)
openvino_here = pytest.mark.skipif(without is not None, reason=str(without))
RUNTIMES = ("onnx", pytest.param("openvino", marks=openvino_here))
FP32: Plan = {"precision": "fp32"}
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


def cases(folder: Callable[[str], Path]) -> Callable[[str], Opened]:
    """The case of a name, by_name once; `folder` gives a new folder."""
    by_name: dict[str, Opened] = {}

    def open_case(name: str) -> Opened:
        if name not in by_name:
            by_name[name] = Opened(CASES[name](), folder("model"))
        return by_name[name]

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
