"""What can be measured of a model, and how. Nothing here depends on how a model was compressed."""

from objectives import energy, generation_times, kv_cache, latency, memory, quality, roofline, size
from objectives.measurement import Measurement, Objective, comparable
from objectives.workload import MARK, marked

#: The objectives of every model, whatever its task. A new one is a file and a line here.
OBJECTIVES: tuple[Objective, ...] = (
    *latency.OBJECTIVES,
    *generation_times.OBJECTIVES,
    *kv_cache.OBJECTIVES,
    *size.OBJECTIVES,
    *memory.OBJECTIVES,
    *energy.OBJECTIVES,
    *roofline.OBJECTIVES,
)

__all__ = ["OBJECTIVES", "Measurement", "Objective", "all_objectives", "comparable", "objective_named"]


def all_objectives() -> tuple[Objective, ...]:
    """Everything that can be a search's objective or a limit: the metrics of tasks and `OBJECTIVES`."""
    return (*quality.objectives(), *OBJECTIVES)


def objective_named(name: str) -> Objective:
    """The objective that a measurement's name refers to; "latency_p50_ms/b32" is the latency under another workload.

    Raises:
        ValueError: no objective has this name, or a workload is named for one that does not depend on it.
    """
    plain, mark = marked(name)
    objective = next((o for o in all_objectives() if o.name == plain), None)
    if objective is None:
        raise ValueError(f"objective must be one of {', '.join(o.name for o in all_objectives())}, got {plain}")
    if MARK not in name:
        return objective
    return latency.under_workload(objective, mark)
