"""ATen operators as functions of JAX arrays: the table that lowers an exported graph to XLA.

Names and arguments are those of PyTorch's operator schemas (native_functions.yaml). The table holds what the model
families of `spaces.families` decompose to, and what is near to that. JAX keeps whole numbers in 32 bits and real ones
in 32 or fewer, so int64 becomes int32 and float64 float32.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch

JaxArray = Any  # jax.Array, or what stands for one while JAX traces

JAX_DTYPES = {
    torch.bool: jnp.bool_,
    torch.uint8: jnp.uint8,
    torch.int32: jnp.int32,
    torch.int64: jnp.int32,
    torch.float16: jnp.float16,
    torch.bfloat16: jnp.bfloat16,
    torch.float32: jnp.float32,
    torch.float64: jnp.float32,
}


# --- shapes -------------------------------------------------------------------------------------------------


def _expand(x: JaxArray, sizes: Sequence[int]) -> JaxArray:
    new = len(sizes) - x.ndim  # dimensions added in front; -1 keeps one that was there
    return jnp.broadcast_to(x, [x.shape[i - new] if size == -1 else size for i, size in enumerate(sizes)])


def _slice(x: JaxArray, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> JaxArray:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _select(x: JaxArray, dim: int, index: int) -> JaxArray:
    return x[(slice(None),) * (dim % x.ndim) + (index,)]


def _split(x: JaxArray, sizes: Sequence[int], dim: int = 0) -> list[JaxArray]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [_slice(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _squeeze(x: JaxArray, dims: Sequence[int]) -> JaxArray:
    return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


def _index(x: JaxArray, indices: Sequence[JaxArray | None]) -> JaxArray:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _gather(x: JaxArray, dim: int, index: JaxArray) -> JaxArray:
    """`index` may be shorter than `x` in the other dimensions: it then reads their first entries."""
    dim %= x.ndim
    first = tuple(slice(None) if d == dim else slice(size) for d, size in enumerate(index.shape))
    return jnp.take_along_axis(x[first], index, axis=dim)


# --- arithmetic ---------------------------------------------------------------------------------------------


def _add(x: JaxArray, y: JaxArray, alpha: float = 1) -> JaxArray:
    return x + (y if alpha == 1 else alpha * y)


def _sub(x: JaxArray, y: JaxArray, alpha: float = 1) -> JaxArray:
    return x - (y if alpha == 1 else alpha * y)


def _div_mode(x: JaxArray, y: JaxArray, rounding_mode: str | None = None) -> JaxArray:
    if rounding_mode is None:
        return x / y
    return jnp.floor_divide(x, y) if rounding_mode == "floor" else jnp.trunc(x / y)


def _addmm(bias: JaxArray, x: JaxArray, y: JaxArray, beta: float = 1, alpha: float = 1) -> JaxArray:
    product = jnp.matmul(x, y)
    return _add(product if alpha == 1 else alpha * product, bias, beta)


def _clamp(x: JaxArray, min: JaxArray | None = None, max: JaxArray | None = None) -> JaxArray:
    return jnp.clip(x, min, max)


def _gelu(x: JaxArray, approximate: str = "none") -> JaxArray:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _softmax(x: JaxArray, dim: int, half_to_float: bool = False) -> JaxArray:
    return jax.nn.softmax(x.astype(jnp.float32) if half_to_float else x, axis=dim)


def _layer_norm(
    x: JaxArray, shape: Sequence[int], weight: JaxArray | None, bias: JaxArray | None, eps: float
) -> tuple[JaxArray, ...]:
    """(normalised, mean, reciprocal deviation), computed in float32 as PyTorch does."""
    axes = tuple(range(-len(shape), 0))
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axes, keepdims=True)
    scale = jax.lax.rsqrt(jnp.var(wide, axes, keepdims=True) + eps)
    normalised = (wide - mean) * scale
    if weight is not None:
        normalised = normalised * weight
    if bias is not None:
        normalised = normalised + bias
    return normalised.astype(x.dtype), mean, scale


def _embedding(weight: JaxArray, ids: JaxArray, *_: Any) -> JaxArray:
    """Rows of `weight`; an id outside of it gives NaN, which no later layer hides."""
    return jnp.take(weight, ids, axis=0, mode="fill")


def _reduce(function: Callable[..., JaxArray]) -> Callable[..., JaxArray]:
    """An ATen reduction over `dim` (None or empty: all) by a function of jax.numpy."""

    def run(x: JaxArray, dim: int | Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None) -> JaxArray:
        axes = None if dim is None or dim == [] else dim if isinstance(dim, int) else tuple(dim)
        return function(x if dtype is None else x.astype(dtype), axis=axes, keepdims=keepdim)

    return run


def _cast(x: JaxArray, dtype: Any = None, **_: Any) -> JaxArray:
    return x if dtype is None else jnp.asarray(x, dtype)


def _arange(start: JaxArray, end: JaxArray, step: JaxArray = 1, dtype: Any = None) -> JaxArray:
    return jnp.arange(start, end, step, dtype)


def _same(x: JaxArray, *_: Any) -> JaxArray:
    return x


#: By the operator's name without its overload; overloads differ in the types of arguments, which Python does not mind.
TABLE: dict[str, Callable[..., Any]] = {
    # shapes
    "sym_size": lambda x, dim: x.shape[dim],
    "view": lambda x, sizes: jnp.reshape(x, tuple(sizes)),
    "permute": lambda x, dims: jnp.transpose(x, tuple(dims)),
    "expand": _expand,
    "unsqueeze": jnp.expand_dims,
    "squeeze": _squeeze,
    "slice": _slice,
    "select": _select,
    "split_with_sizes": _split,
    "cat": lambda arrays, dim=0: jnp.concatenate(arrays, dim),
    "repeat": lambda x, times: jnp.tile(x, tuple(times)),
    "index": _index,
    "index_select": lambda x, dim, index: jnp.take(x, index, axis=dim),
    "gather": _gather,
    "embedding": _embedding,
    "clone": _same,
    "alias": _same,
    "lift_fresh_copy": _same,
    "_to_copy": _cast,
    # made from nothing
    "full": lambda sizes, value, dtype=None: jnp.full(tuple(sizes), value, dtype),
    "full_like": lambda x, value, dtype=None: jnp.full(x.shape, value, dtype or x.dtype),
    "arange": _arange,
    "scalar_tensor": lambda value, dtype=None: jnp.asarray(value, dtype),
    # element by element
    "add": _add,
    "sub": _sub,
    "mul": operator.mul,
    "div": _div_mode,
    "neg": operator.neg,
    "abs": jnp.abs,
    "pow": lambda x, y: x**y,
    "sqrt": jnp.sqrt,
    "rsqrt": jax.lax.rsqrt,
    "reciprocal": lambda x: 1 / x,
    "exp": jnp.exp,
    "log": jnp.log,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tanh": jnp.tanh,
    "erf": jax.lax.erf,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "gelu": _gelu,
    "clamp": _clamp,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_not": jnp.logical_not,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_not": jnp.bitwise_not,
    "where": jnp.where,
    # over dimensions
    "sum": _reduce(jnp.sum),
    "mean": _reduce(jnp.mean),
    "amax": _reduce(jnp.max),
    "any": _reduce(jnp.any),
    "argmax": _reduce(jnp.argmax),
    "cumsum": lambda x, dim, dtype=None: jnp.cumsum(x, dim, dtype),
    "_softmax": _softmax,
    "native_layer_norm": _layer_norm,
    # products of matrices
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "addmm": _addmm,
}
