"""The pass of data with their targets through the teacher that gives `spaces.statistics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.anatomy import Anatomy, anatomy_of
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.heads import Causal, PooledEncoder
from spaces.statistics import EMBEDDING, INPUT_OF, Statistics, cholesky

IMPORTANCE_ROWS = 256  # a block's importance is one number: it needs fewer rows than a second moment
_OBSERVED = {"attention_in": "query", "attention_out": "output", "ffn_in": "up", "ffn_out": "down"}


def collect(
    model: TaskModel,
    batches: Iterable[tuple[Mapping[str, Tensor], Tensor]],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    divergence: Callable[[Tensor, Tensor, Tensor], Tensor],
    progress: Callable[[float], None] = lambda done: None,
    importance_rows: int = IMPORTANCE_ROWS,
) -> Statistics:
    """Statistics of `model` over (inputs, targets) batches.

    `loss(output, targets, mask)` is the task's mean over rows, and `divergence(output, other, mask)` the sum over rows
    of the distance between two outputs; mask (B, L) is the attention mask.

    Cost: one forward and backward pass over the data, and for the importances one forward pass per block over the
    first `importance_rows` rows. Leaves `model` in eval mode with its weights frozen.

    Raises:
        Infeasible: a model of an unknown family, or one that does not use a head or neuron.
        ValueError: no batches.
    """
    anatomy = anatomy_of(model.backbone)
    gathered = _Gathered(anatomy)
    importances = _Importances(model, anatomy, divergence, importance_rows)
    model.eval().requires_grad_(False)  # only the masks need gradients
    every = list(batches)
    if not every:
        raise ValueError("statistics need at least one batch, got none")
    rows = 0
    for number, (inputs, targets) in enumerate(every):
        with gathered.watching(inputs) as masks:
            # Per-row gradients come from masks with a row each; the sum undoes the mean over rows.
            output = model(**inputs)
            total = loss(output, targets, inputs["attention_mask"]) * len(targets)
            total.backward()  # type: ignore[no-untyped-call]
        gathered.take_gradients(masks)
        if isinstance(model, PooledEncoder):
            gathered.take_embeddings(output)
        importances.take(inputs, output.detach(), len(targets))
        rows += len(targets)
        progress((number + 1) / len(every))
    tensors = gathered.result(rows) | importances.result()
    size = len(tensors[EMBEDDING]) if EMBEDDING in tensors else 0
    return Statistics(replace(anatomy.shape, embedding=size), tensors)


class _Importances:
    """The divergence of the outputs without each block, over the first `most_rows` rows."""

    def __init__(
        self,
        model: TaskModel,
        anatomy: Anatomy,
        divergence: Callable[[Tensor, Tensor, Tensor], Tensor],
        most_rows: int,
    ) -> None:
        self._model, self._blocks, self._divergence, self._most_rows = model, anatomy.blocks, divergence, most_rows
        self._sums = [torch.zeros((), dtype=torch.float64) for _ in self._blocks]
        self._rows = 0
        # Language models lose far more by their first and last block than by others (Men et al. 2024, arXiv 2403.03853,
        # figure 3), so these are always kept.
        self._always = {0, len(self._sums) - 1} if isinstance(model, Causal) else set()

    def take(self, inputs: Mapping[str, Tensor], output: Tensor, rows: int) -> None:
        """Add a batch of `rows` rows; `output` is that of the whole model."""
        if self._rows >= self._most_rows:
            return
        with torch.no_grad():
            for index, block in enumerate(self._blocks):
                if index in self._always:
                    continue
                with _bypassed(block):
                    other = self._model(**inputs)
                self._sums[index] += self._divergence(output, other, inputs["attention_mask"]).double().cpu()
        self._rows += rows

    def result(self) -> dict[str, Tensor]:
        """The importance of each block; infinite for one that is always kept."""
        means = {index: (total / self._rows).float() for index, total in enumerate(self._sums)}
        means |= {index: torch.tensor(torch.inf) for index in self._always}
        return {f"block.{index}.importance": mean for index, mean in means.items()}


@contextmanager
def _bypassed(block: nn.Module) -> Iterator[None]:
    """While open, the block returns its input unchanged."""

    def skip(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = block.register_forward_hook(skip, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _BatchHooks:
    """The hooks of one batch. They add to `sums`, and leave masks (B, units) of ones whose gradients are wanted."""

    def __init__(self, sums: _Gathered, keep: Tensor) -> None:
        self._sums, self._keep = sums, keep  # (B, L): the tokens that are not padding
        self.masks: dict[str, Tensor] = {}
        self._names: set[str] = set()

    def of_input(self, index: int, read: str) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        """A hook that adds moments of a module's inputs, and masks heads or neurons where these are its inputs."""
        name = f"block.{index}.input.{read}"

        def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
            if not self._first(name):
                return None
            x: Tensor = args[0]
            tokens = x.detach()[self._keep].float()  # (tokens, d)
            self._sums.add(name, tokens.T @ tokens)
            self._sums.add(name.replace(".input.", ".mean."), tokens.sum(0))
            if read == "attention_in":
                self._sums.add("hidden.energy", tokens.square().sum(0))
                return None
            if read == "ffn_in":
                return None
            anatomy = self._sums.anatomy
            unit = anatomy.head_dim * anatomy.shape.group if read == "attention_out" else 1
            mask = torch.ones(x.shape[0], x.shape[-1] // unit, device=x.device, requires_grad=True)
            self.masks[f"block.{index}.{'heads' if read == 'attention_out' else 'neurons'}"] = mask
            return (x * mask.repeat_interleave(unit, dim=1)[:, None, :].to(x.dtype),)

        return hook

    def of_gradient(self, index: int, role: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        """A hook that adds the squared gradients of a matrix's outputs."""
        name = f"block.{index}.gradient.{role}"

        def squares(gradient: Tensor) -> None:
            self._sums.add(name, gradient[self._keep].float().square().sum(0))

        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if self._first(name) and output.requires_grad:
                output.register_hook(squares)  # type: ignore[no-untyped-call]

        return hook

    def _first(self, name: str) -> bool:
        """Whether this is the first call; DeBERTa's later ones are of positions, and not of tokens."""
        if name in self._names:
            return False
        self._names.add(name)
        return True


class _Gathered:
    """Sums over batches, filled by hooks."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, list[Tensor]] = {}
        self.tokens = 0

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().float().cpu()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    @contextmanager
    def watching(self, inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Hooks for one batch: second moments of the inputs, and masks of ones whose gradients are wanted."""
        keep = inputs["attention_mask"].bool()
        self.tokens += int(keep.sum())
        vocabulary = self.anatomy.token_table.num_embeddings
        self.add("tokens.count", torch.bincount(inputs["input_ids"][keep].reshape(-1), minlength=vocabulary))
        hooks = _BatchHooks(self, keep)
        handles = []
        roles = self.anatomy.roles()
        for index in range(len(self.anatomy.blocks)):
            for read, role in _OBSERVED.items():
                linear = self.anatomy.linear(index, role if role in roles else f"{role}.0")
                handles.append(linear.register_forward_pre_hook(hooks.of_input(index, read)))
            for role in roles:
                handles.append(self.anatomy.linear(index, role).register_forward_hook(hooks.of_gradient(index, role)))
        # With all weights frozen, gradients start at the masks; the embeddings let them reach the first block too.
        for path in self.anatomy.family.embeddings[:1]:
            table = self.anatomy.backbone.get_submodule(path)
            handles.append(table.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)))
        try:
            yield hooks.masks
        finally:
            for handle in handles:
                handle.remove()

    def take_gradients(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.grad is None:
                raise Infeasible(f"no gradient reaches {name}; the model does not use it")
            self.add(name, mask.grad.square().sum(0))
            self.rows.setdefault(f"{name}_rows", []).append(mask.grad.float().cpu())

    def take_embeddings(self, embeddings: Tensor) -> None:
        unit = functional.normalize(embeddings.detach().float(), dim=-1)  # each text counts alike
        self.add(EMBEDDING, unit.T @ unit)

    def result(self, rows: int) -> dict[str, Tensor]:
        by_token = (".input.", ".mean.", ".gradient.")
        tensors = {n: t / (self.tokens if any(part in n for part in by_token) else rows) for n, t in self.sums.items()}
        tensors["tokens.count"] = self.sums["tokens.count"]
        tensors["hidden.energy"] = self.sums["hidden.energy"] / (self.tokens * len(self.anatomy.blocks))
        for name, parts in self.rows.items():
            gradients = torch.cat(parts)
            # Only their proportions inside a block are used, so half precision needs no scale beside it.
            tensors[name] = (gradients / gradients.abs().max().clamp(min=1e-30)).half()
        for index in range(len(self.anatomy.blocks)):
            tensors[f"block.{index}.heads_norm"] = self._head_norms(index)
            tensors[f"block.{index}.neurons_norm"] = self._neuron_norms(index)
            for role in self.anatomy.roles():
                tensors[f"block.{index}.spectrum.{role}"] = self._spectrum(index, role, tensors)
        return tensors

    def _spectrum(self, index: int, role: str, tensors: Mapping[str, Tensor]) -> Tensor:
        linear = self.anatomy.linear(index, role)
        moment, mean = (tensors[f"block.{index}.{kind}.{INPUT_OF[role]}"] for kind in ("input", "mean"))
        spread = moment if linear.bias is None else moment - torch.outer(mean, mean)
        rows = tensors[f"block.{index}.gradient.{role}"].sqrt()
        weighted = (rows[:, None] * linear.weight.detach().float().cpu()).double()
        if linear.out_features <= linear.in_features:  # squared singular values, from the smaller Gram matrix
            gram = weighted @ spread.double() @ weighted.T
        else:
            factor = cholesky(spread.double())
            gram = factor.T @ weighted.T @ weighted @ factor
        squares: Tensor = torch.linalg.eigvalsh(gram)
        return squares.flip(0).clamp(min=0).sqrt().float()

    def _head_norms(self, index: int) -> Tensor:
        shape, anatomy = self.anatomy.shape, self.anatomy
        heads = shape.layers[index].heads
        rows = [anatomy.linear(index, role).weight.detach().float() for role in ("query", "key", "value")]
        squares = sum(w.reshape(heads, -1).square().sum(1) for w in rows)
        out = anatomy.linear(index, "output").weight.detach().float().T.reshape(heads, -1).square().sum(1)
        return (squares + out).sqrt().cpu()

    def _neuron_norms(self, index: int) -> Tensor:
        anatomy = self.anatomy
        ups = [anatomy.linear(index, role).weight.detach().float() for role in anatomy.roles() if role[:2] == "up"]
        squares = sum(w.square().sum(1) for w in ups)
        down = anatomy.linear(index, "down").weight.detach().float().square().sum(0)
        return (squares + down).sqrt().cpu()
