"""What can be measured of a model, and how. Nothing here depends on how a model was compressed."""

from objectives import energy, generation, latency, memory, quality, roofline, size
from objectives.measurement import Measurement, Objective, comparable
from objectives.workload import MARK, marked

#: Everything that can be a search's objective or a limit. A new one is a file and a line here.
OBJECTIVES: tuple[Objective, ...] = (
    *quality.OBJECTIVES,
    *latency.OBJECTIVES,
    *generation.OBJECTIVES,
    *size.OBJECTIVES,
    *memory.OBJECTIVES,
    *energy.OBJECTIVES,
    *roofline.OBJECTIVES,
)

__all__ = ["OBJECTIVES", "Measurement", "Objective", "comparable", "objective_named"]


def objective_named(name: str) -> Objective:
    """The objective that a measurement's name refers to; "latency_p50_ms/b32" is the latency under another workload.

    Raises:
        ValueError: no objective has this name, or a workload is named for one that does not depend on it.
    """
    plain, mark = marked(name)
    objective = next((o for o in OBJECTIVES if o.name == plain), None)
    if objective is None:
        raise ValueError(f"objective must be one of {', '.join(o.name for o in OBJECTIVES)}, got {plain}")
    if MARK not in name:
        return objective
    return latency.under_workload(objective, mark)
