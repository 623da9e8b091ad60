"""`python -m search ui`."""

from __future__ import annotations

import os
import subprocess
from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, port, results
from search.errors import UserError

EXAMPLE = "python -m search ui --port 5000"


def ui(
    number: Annotated[int, typer.Option("--port", parser=port, metavar="PORT")] = 5000,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """open the MLflow UI on the right store"""
    from search.track.mlflow_store import ui_command, with_a_home

    folder = results(mlruns)
    if not (folder / "mlflow.db").exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        raise UserError(f"--mlruns: no MLflow store in {folder}; a run makes one: python -m search run")
    # One worker is enough for one person, and nothing here needs MLflow's ten processes for background jobs.
    command = [*ui_command(folder), "--port", str(number), "--workers", "1"]
    with with_a_home():
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # In a session of its own, so that Ctrl-C is ours: its server would answer it with a traceback.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return 0
