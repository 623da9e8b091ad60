"""A pretend CUDA device: tensors stay on the CPU, and an operation over tensors of two devices fails as on a real one.

Every tensor that is moved or made under `FakeCuda` remembers its device in a table. What has no entry, such as a
gradient that autograd makes, counts as being where it is used.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU, CUDA = "cpu", "cuda"
#: Functions that may read a CPU tensor beside one on another device.
MIXED = {"__setitem__", "copy_", "__getitem__", "__set__"}
#: Names of functions that say where their result is.
MOVES = {"to", "cpu", "cuda"}


class FakeCuda(TorchFunctionMode):
    """While open, "cuda" is a device. `used` counts the operations that ran on it."""

    def __init__(self) -> None:
        super().__init__()
        self._devices: dict[int, str] = {}
        self.used = 0
        self.asleep = False

    def device_of(self, tensor: Tensor) -> str | None:
        return self._devices.get(id(tensor))

    def put(self, tensor: Tensor, device: str) -> None:
        key = id(tensor)
        self._devices[key] = device
        weakref.finalize(tensor, self._devices.pop, key, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self.asleep:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        tensors = list(_tensors((args, kwargs)))
        if name == "__get__" and tensors and getattr(getattr(func, "__self__", None), "__name__", "") == "device":
            return _Named(CUDA) if self.device_of(tensors[0]) == CUDA else torch.device(CPU)
        wanted = _wanted(name, args, kwargs)
        args, kwargs = _on_cpu(args), _on_cpu(kwargs)
        if wanted is None:
            wanted = self._common(name, tensors) if tensors else CPU  # made of numbers alone
            if name == "numpy" and wanted == CUDA:
                raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        result = func(*args, **kwargs)
        moved = name in MOVES and wanted is not None
        for tensor in _tensors(result):
            if moved and any(tensor is source for source in tensors) and self.device_of(tensor) != wanted:
                tensor = tensor.view_as(tensor)  # noqa: PLW2901 - moving makes another tensor
                result = tensor
            if wanted is not None:
                self.put(tensor, wanted)
        self.used += wanted == CUDA and name not in MOVES
        return result

    def _common(self, name: str, tensors: Sequence[Tensor]) -> str | None:
        """The one device of an operation's tensors; scalars on the CPU go with any."""
        devices = {self.device_of(t) for t in tensors if t.ndim or self.device_of(t) == CUDA} - {None}
        if name == "__getitem__" and len(devices) > 1 and self.device_of(tensors[0]) != CUDA:
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        if len(devices) > 1 and name not in MIXED:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda and cpu")
        if not devices:
            return None
        return CUDA if CUDA in devices else CPU


class _Named(str):
    """A device, as far as callers look at one."""

    @property
    def type(self) -> str:
        return str(self)

    index = None


def _wanted(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The device that a call names, or None."""
    if name in (CPU, CUDA):
        return name
    named = [kwargs.get("device"), *(args[1:2] if name == "to" else ())]
    for value in named:
        if isinstance(value, Tensor):
            continue
        if isinstance(value, str | torch.device) and str(value).split(":")[0] in (CPU, CUDA):
            return str(value).split(":")[0]
    return None


def _on_cpu(value: Any) -> Any:
    """`value` with the CPU in the place of the pretend device."""
    if isinstance(value, str) and value.split(":")[0] == CUDA:
        return CPU
    if isinstance(value, tuple):
        return tuple(_on_cpu(v) for v in value)
    if isinstance(value, dict):
        return {k: _on_cpu(v) if k == "device" else v for k, v in value.items()}
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


@contextmanager
def fake_cuda(monkeypatch: Any) -> Iterator[FakeCuda]:
    """The pretend device, with modules that move to it and numpy arrays that come from the CPU."""
    from transformers import PreTrainedModel

    mode = FakeCuda()

    def move(module: nn.Module, device: Any = None, dtype: Any = None) -> nn.Module:
        place = _wanted("to", (module, device), {}) if device is not None else None
        if dtype is not None or (device is not None and place is None):
            plain_to(module, dtype or device)
        for tensor in (*module.parameters(), *module.buffers()):
            if place is not None:
                mode.put(tensor, place)
        return module

    def from_numpy(array: Any) -> Tensor:
        tensor = plain_from_numpy(array)
        mode.put(tensor, CPU)
        return tensor

    def load(kind: Any, *args: Any, **kwargs: Any) -> Any:
        mode.asleep = True  # loading has devices of its own (meta), and ends on the CPU
        try:
            return plain_load(kind, *args, **kwargs)
        finally:
            mode.asleep = False

    plain_to, plain_from_numpy, plain_load = nn.Module.to, torch.from_numpy, PreTrainedModel.from_pretrained.__func__
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load))
    monkeypatch.setattr(nn.Module, "to", move)
    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    with mode:
        yield mode
