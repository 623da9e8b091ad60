"""Statistics of one pass of labelled data through the teacher (`spaces.statistics_pass`), from which the axes decide.

Per block i (shapes after the axes before):
    block.<i>.importance      ()               `divergence` of the outputs without the block; infinite for the first and
                                               the last block of a causal language model
    block.<i>.heads           (heads,)         Fisher information of each head's mask
    block.<i>.neurons         (neurons,)       Fisher information of each feed-forward neuron's mask
    block.<i>.heads_rows      (rows, heads)    gradients of the heads' masks by row, divided by the largest; float16
    block.<i>.neurons_rows    (rows, neurons)  the same of the neurons' masks
    block.<i>.heads_norm      (heads,)         Frobenius norm of each head's weights (the magnitude criterion)
    block.<i>.neurons_norm    (neurons,)
    block.<i>.input.<input>   (d, d)           second moment E[x x^T] of an input of matrices (`INPUT_OF`):
                                               attention_in, attention_out, ffn_in, ffn_out
    block.<i>.mean.<input>    (d,)             their mean
    block.<i>.gradient.<role> (out,)           mean square gradient of the loss at the outputs of a matrix
    block.<i>.spectrum.<role> (min(out, in),)  singular values of diag(gradient)^1/2 W S, with S S^T the covariance
                                               of the input (the second moment where there is no bias)
and for the whole model:
    hidden.energy             (hidden,)        mean square activation of the residual stream
    tokens.count              (vocabulary,)    count of each token id
    embedding.moment          (D, D)           second moment of embeddings of length 1, where the model gives embeddings
Source of the Fisher masks: Kwon et al. 2022 (arXiv 2204.09656), section 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaces.shape import LayerShape, Shape

#: The input that a matrix of each role reads.
INPUT_OF = {"query": "attention_in", "key": "attention_in", "value": "attention_in"}
INPUT_OF |= {"output": "attention_out", "up": "ffn_in", "up.0": "ffn_in", "up.1": "ffn_in", "down": "ffn_out"}
EMBEDDING = "embedding.moment"


@dataclass(frozen=True)
class Statistics:
    """Tensors by name, and the shape of the model they describe."""

    shape: Shape
    tensors: Mapping[str, Tensor]

    def block(self, index: int, name: str) -> Tensor:
        """The statistic `name` of one block."""
        return self.tensors[f"block.{index}.{name}"]

    def stacked(self, name: str) -> list[Tensor]:
        """The statistic `name` of every block, first to last."""
        return [self.block(i, name) for i in range(self.shape.depth)]

    def save(self, path: Path) -> None:
        """Write a safetensors file, with the shape in its metadata."""
        tensors = {name: t.contiguous() for name, t in self.tensors.items()}
        save_file(tensors, path, metadata={"shape": json.dumps(asdict(self.shape))})

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """The statistics that `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            shape = json.loads(file.metadata()["shape"])
        shape["layers"] = tuple(LayerShape(**layer) for layer in shape["layers"])
        return cls(Shape(**shape), load_file(path))


def cholesky(moment: Tensor) -> Tensor:
    """Lower Cholesky factor of a second moment (d, d), with the least ridge that makes it positive definite.

    Raises:
        ValueError: it is not positive semi-definite.
    """
    scale = moment.diagonal().mean().clamp(min=1e-12)
    eye = torch.eye(len(moment), dtype=moment.dtype)
    for ridge in (1e-6, 1e-4, 1e-2):
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(moment + ridge * scale * eye)
        if not bool(failed):
            return factor
    raise ValueError("the second moment of the inputs is not positive semi-definite")
