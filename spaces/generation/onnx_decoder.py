"""The ONNX Runtime graph of a causal language model, which reads tokens into a cache and scores the next ones.

The graph is written from the modules and not exported, so that it can use GroupQueryAttention, whose past and present
keys and values may share one buffer: a step copies nothing. Scoring a text uses the same graph with an empty cache.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spaces.anatomy import Anatomy, anatomy_of
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.generation.onnx_file import ABOUT, CONTRIBUTED, Graph
from spaces.generation.onnx_linear import Layers, Precision

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
#: Kinds of rotary positions whose frequencies are the same at every length.
ROTARY = ("default", "linear", "llama3", "yarn")
#: What GroupQueryAttention asks of the size of a head: with rotary positions, and without.
ROTARY_HEADS, TABLE_HEADS = 16, 8


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of attention beside hidden states, as names of values in the graph."""

    lengths: str  # (batch,) int32: tokens of each row after this call, less one
    total: str  # int32: the longest of them, and one
    cos: str  # (positions, head_dim / 2); "" where positions are a table
    sin: str


def write(model: TaskModel, precision: Precision, path: Path) -> None:
    """Write the graph of `model` with its weights to `path`.

    Raises:
        Infeasible: a family or module that is not supported, or a graph that is too big for one file.
    """
    decoder = DecoderGraph(model, precision)
    decoder.graph().save(path, {ABOUT: json.dumps(decoder.about())})


class DecoderGraph:
    """Turns the modules of a causal language model into a graph. Raises Infeasible for an unsupported family."""

    def __init__(self, model: TaskModel, precision: Precision) -> None:
        self._precision = precision
        backbone: Any = model.backbone
        self._config: Any = backbone.config
        kind = str(self._config.model_type)
        if kind not in MODEL_TYPES:
            raise Infeasible(
                f"the family of a causal model must be one of {', '.join(MODEL_TYPES)} under onnx, got {kind}"
            )
        self._anatomy: Anatomy = anatomy_of(backbone)
        self._backbone = backbone
        self._paths = {id(module): path for path, module in model.named_modules()}
        causal = next(m for m in model.modules() if callable(getattr(m, "get_output_embeddings", None)))
        head = causal.get_output_embeddings()  # type: ignore[operator]
        if head is None:
            raise Infeasible(f"a {type(causal).__name__} has no output matrix, so it gives no next token")
        self._head: nn.Module = head
        self._inverse = self._rotary()
        size, multiple = self._anatomy.head_dim, TABLE_HEADS if self._inverse is None else ROTARY_HEADS
        if size % multiple:
            raise Infeasible(f"onnx: the size of a head must be a multiple of {multiple} in this family, got {size}")

    def _rotary(self) -> np.ndarray | None:
        """Frequencies (head_dim / 2,) of rotary positions; None where positions are a table."""
        rotary = getattr(self._backbone, "rotary_emb", None)
        if rotary is None:
            return None
        if rotary.rope_type not in ROTARY:
            raise Infeasible(f"rotary positions of the kind {rotary.rope_type} change with the length of a text")
        frequencies: np.ndarray = rotary.inv_freq.float().cpu().numpy()
        return frequencies

    def about(self) -> dict[str, Any]:
        """Facts of the graph that a program needs, as JSON: sizes of the caches, and positions."""
        width, blocks = self._anatomy.head_dim, range(len(self._anatomy.blocks))
        rotary = None if self._inverse is None else self._inverse.tolist()
        return {
            "keys": [self._module(i, "key").out_features // width for i in blocks],
            "head_dim": width,
            "vocabulary": self._vocabulary,
            "frequencies": rotary,
            "scale": 1.0 if rotary is None else float(self._backbone.rotary_emb.attention_scaling),
            "positions": None if rotary is not None else int(self._config.max_position_embeddings),
        }

    def graph(self) -> Graph:
        """Tokens at the end of a cache -> logits (R, V) at `rows`, and the log-likelihood (R,) of `targets` there.

        `rows` count the tokens of the batch from its first to its last. Rows of the batch are padded at the right.
        """
        graph = Graph()
        ids = graph.input("input_ids", np.int64, ("batch", "length"))
        lengths, total = graph.input("lengths", np.int32, ("batch",)), graph.input("total", np.int32, ())
        rows, targets = graph.input("rows", np.int64, ("rows",)), graph.input("targets", np.int64, ("rows", 1))
        cos = sin = positions = ""
        if self._inverse is None:
            positions = graph.input("positions", np.int64, ("batch", "length"))
        else:
            shape = ("positions", len(self._inverse))
            cos, sin = (graph.input(name, np.float32, shape) for name in ("cos", "sin"))
        layers = Layers(graph, self._precision)
        hidden = self._hidden(layers, ids, positions, AttentionInputs(lengths, total, cos, sin))
        flat = graph.op("Reshape", hidden, graph.small([-1, int(self._module(0, "query").in_features)]))
        table = self._backbone.get_submodule(self._anatomy.family.embeddings[0])
        logits = layers.head(self._path(self._head), self._head, table, graph.op("Gather", flat, rows))
        graph.output(logits, "logits", np.float32, ("rows", self._vocabulary))
        likely = graph.op("GatherElements", logits, targets, axis=1)
        whole = graph.op("ReduceLogSumExp", logits, graph.small([1]), keepdims=1)
        score = graph.op("Squeeze", graph.op("Sub", likely, whole), graph.small([1]))
        graph.output(score, "log_likelihood", np.float32, ("rows",))
        return graph

    @property
    def _vocabulary(self) -> int:
        return int(self._head.out_features)  # type: ignore[arg-type]

    def _module(self, block: int, role: str) -> Any:
        """The matrix of this role, whole or in two factors."""
        return self._anatomy.blocks[block].get_submodule(self._anatomy.roles()[role])

    def _path(self, module: nn.Module) -> str:
        path: str = self._paths[id(module)]
        return path

    def _hidden(self, layers: Layers, ids: str, positions: str, reading: AttentionInputs) -> str:
        """Hidden states (B, L, hidden) after the last norm."""
        family = self._anatomy.family
        table = self._backbone.get_submodule(family.embeddings[0])
        x = layers.table(table, ids, "tokens", (self._path(self._head), self._head))
        if self._inverse is None:
            position_table = self._backbone.get_submodule(family.embeddings[1])
            x = layers.graph.op("Add", x, layers.table(position_table, positions, "positions_table"))
        added = ""
        for index, block in enumerate(self._anatomy.blocks):
            before, after = (block.get_submodule(path) for path in family.norms)
            normed, x = layers.norm(self._path(before), before, x, added)
            added = self._attention(layers, index, normed, reading)
            normed, x = layers.norm(self._path(after), after, x, added)
            added = self._feed_forward(layers, index, normed)
        norm = self._backbone.get_submodule(family.outer_norms[0])
        return layers.norm(self._path(norm), norm, x, added)[0]

    def _feed_forward(self, layers: Layers, index: int, x: str) -> str:
        ups = [self._module(index, role) for role in self._anatomy.roles() if role.startswith("up")]
        opened = [layers.linear(self._path(up), up, x) for up in ups]
        active = layers.activation(self._config, opened[0])
        if len(opened) == 2:
            active = layers.graph.op("Mul", active, opened[1])
        down = self._module(index, "down")
        return layers.linear(self._path(down), down, active)

    def _attention(self, layers: Layers, index: int, x: str, reading: AttentionInputs) -> str:
        graph, width = layers.graph, self._anatomy.head_dim
        query, key, value = (self._module(index, role) for role in ("query", "key", "value"))
        heads, keys = query.out_features // width, key.out_features // width
        attention = self._anatomy.attention(index)
        inputs = self._projected(layers, attention, (query, key, value), x)
        settings = {"num_heads": heads, "kv_num_heads": keys, "scale": float(attention.scaling)}  # type: ignore[arg-type]
        if reading.cos:
            settings["do_rotary"] = 1
        window = self._window(index)
        if window:
            settings["local_window_size"] = window
        shape = ("batch", keys, "capacity", width)
        past = [graph.input(f"past.{index}.{part}", np.float32, shape) for part in ("key", "value")]
        present = [f"present.{index}.{part}" for part in ("key", "value")]
        joined = f"attention.{index}"
        node_inputs = [*inputs, *past, reading.lengths, reading.total, reading.cos, reading.sin]
        graph.node("GroupQueryAttention", node_inputs, [joined, *present], CONTRIBUTED, **settings)
        for name in present:
            graph.output(name, name, np.float32, ("batch", keys, "grown", width))
        output = self._module(index, "output")
        return layers.linear(self._path(output), output, joined)

    def _projected(
        self, layers: Layers, attention: nn.Module, modules: tuple[nn.Module, nn.Module, nn.Module], x: str
    ) -> list[str]:
        """Query, key and value; or all three behind one another and two empty names, from one product."""
        graph, width = layers.graph, self._anatomy.head_dim
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        whole = all(isinstance(module, nn.Linear) for module in modules)
        if whole:
            joint = layers.joint({self._path(module): module for module in modules}, x)
            if norms[0] is None:
                return [joint, "", ""]
            parts = [f"{joint}.{i}" for i in range(3)]
            graph.node("Split", [joint, graph.small([m.out_features for m in modules])], parts, axis=-1)
        else:
            parts = [layers.linear(self._path(module), module, x) for module in modules]
        for i, norm in enumerate(norms):
            if norm is not None:
                by_head = graph.op("Reshape", parts[i], graph.small([0, 0, -1, width]))
                normed, _ = layers.norm(self._path(norm), norm, by_head)
                parts[i] = graph.op("Reshape", normed, graph.small([0, 0, -1]))
        return parts

    def _window(self, index: int) -> int | None:
        """How many tokens this block sees, the newest included; None: all."""
        window = getattr(self._config, "sliding_window", None)
        kinds = getattr(self._config, "layer_types", None)
        if window is None or (kinds is not None and kinds[index] != "sliding_attention"):
            return None
        return int(window)
