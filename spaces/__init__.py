"""What can be built: the axes of compression and the runtimes, as `registry` lists them."""

from typing import Any

from spaces import registry
from spaces.axis import Axis, Runtime

#: In phase order, which is the order they are applied in. Imported when they are first asked for.
AXES: tuple[Axis, ...]
#: The first is the reference; imported when they are first asked for.
RUNTIMES: tuple[Runtime, ...]

#: Measured only where they are named: opening one takes a minute or more for every set of weights.
CLOSED_RUNTIMES = ("compiled-max-autotune",)

#: By the knob that names it: what is written after a library's documentation, and has not run on its hardware yet.
EXPERIMENTAL = {"runtime.name": ("tensorrt",), "bits.width": ("fp8",), "sparse.pattern": ("2-of-4",)}


def axis(name: str) -> Axis:
    return next(a for a in registry.axes() if a.name == name)


def runtime(name: str) -> Runtime:
    return next(r for r in registry.runtimes() if r.name == name)


def __getattr__(name: str) -> Any:
    if name == "AXES":
        return registry.axes()
    if name == "RUNTIMES":
        return registry.runtimes()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
