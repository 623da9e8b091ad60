"""How the threads of OpenMP wait for work, as its libraries read it from the environment when they are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: What OpenMP's libraries read of how their threads wait.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: Threads that sleep while they wait, and take nothing from other processes.
PASSIVE: Mapping[str, str] = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def is_passive() -> bool:
    """Whether the user's own environment says that threads sleep while they wait."""
    return all(os.environ.get(name) == value for name, value in PASSIVE.items())


def default_waiting() -> str:
    """How threads wait in what is timed: "default", or what the user has set."""
    return " ".join(f"{name}={os.environ[name]}" for name in WAIT_VARIABLES if name in os.environ) or "default"
