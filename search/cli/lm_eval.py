"""`python -m search lm-eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, results, whole_option
from search.cli.terminal import complain, print_table

EXAMPLE = "python -m search lm-eval stories --tasks my_task --include-path my-tasks"


def lm_eval(
    name: Annotated[
        str,
        typer.Argument(metavar="STUDY_OR_DIR", help="an exported study, its folder, or the folder of one model"),
    ],
    tasks: Annotated[
        list[str], typer.Option("--tasks", metavar="NAME[,NAME]", help="tasks of lm-eval, or of --include-path")
    ],
    include_path: Annotated[
        Path | None,
        typer.Option(
            "--include-path", metavar="DIR", help="a folder with YAML files of tasks, in place of lm-eval's own"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", parser=whole_option(1), metavar="N", help="ask only the first N rows of each task"),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="write the scores to this file too")
    ] = None,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """score exported language models in tasks of lm-evaluation-harness, with data that is on this machine"""
    import json

    from search.deliver.read_exported import exported_models
    from search.errors import wrong
    from search.report.task_scores import scores_json, scores_table
    from search.serve.local_tasks import LocalTasks, model_scores
    from search.store.atomic import write_text
    from search.track.trial_metrics import log_in_trial

    folder = results(mlruns)
    if file is not None and file.is_dir():
        raise wrong("--json", "a file", file)
    folders = exported_models(name, folder)
    local = LocalTasks([one for words in tasks for one in words.split(",") if one], include_path)
    models = [model_scores(path, local, limit, complain) for path in folders]
    print_table(scores_table(models))
    if file is not None:
        write_text(file, json.dumps(scores_json(models, limit), indent=1) + "\n")
    logged = [m.number for m in models if log_in_trial(folder, m.study, m.number, m.digest, m.by_name())]
    if logged:
        print(f"logged in MLflow, as metrics lm_eval/... of trial {', '.join(map(str, logged))}")
    return 0
