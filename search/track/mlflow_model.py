"""MLflow runs this file to load a front member: code, with the exported folder as its artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas


class FrontModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of `search.load` behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        import search

        self._model = search.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[Any]:
        """One answer a row, as a transformers pipeline gives it: {"label": ..., "score": ...}.

        A list of strings arrives as a table of one column. A table with several columns gives the model one
        mapping a row ({"text": ..., "text_pair": ...}).
        """
        return self._model.answers(rows(model_input))


def rows(table: pandas.DataFrame) -> list[Any]:
    return list(table.iloc[:, 0]) if table.shape[1] == 1 else list(table.to_dict("records"))


mlflow.models.set_model(FrontModel())
