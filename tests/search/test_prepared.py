"""What the trials of a search share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from search.prepare.prepared import PreparedData
from search.tasks import classification
from search.tasks.encoded import write_encoded
from search.tasks.tokens import Encoded
from spaces.runtime import Context


def rows_in(folder: Path, limit: int | None) -> PreparedData:
    """Six rows of validation data, of which a search looks at `limit`."""
    ids = [np.arange(n + 1) for n in range(6)]
    encoded = Encoded({"input_ids": ids}, {"input_ids": 0}, np.array([len(row) for row in ids]))
    write_encoded(folder / "validation.npz", encoded, np.arange(6))
    (folder / "data.json").write_text('{"labels": ["no", "yes"]}')
    model, measure = SimpleNamespace(problem_type=None), SimpleNamespace(validation_rows=limit)
    data = SimpleNamespace(score=None, choices=None)
    config = SimpleNamespace(task="classification", model=model, measure=measure, data=data, metric="accuracy", seed=0)
    return PreparedData(cast(Any, config), Context(), folder)


@pytest.mark.parametrize("limit", [None, 4])
def test_a_split_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    rows, real, reads = rows_in(tmp_path, limit), classification.read_encoded, []

    def read(path: Path) -> tuple[Encoded, np.ndarray]:
        reads.append(path.name)
        return real(path)

    monkeypatch.setattr(classification, "read_encoded", read)
    first, again = rows.split("validation"), rows.split("validation")
    assert first is again and len(first) == len(first.encoded) == (limit or 6)
    assert len(rows.whole("validation")) == 6
    assert reads == ["validation.npz"]
    assert rows_in(tmp_path, limit).split("validation").references.tolist() == first.references.tolist()
