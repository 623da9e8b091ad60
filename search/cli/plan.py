"""`python -m search plan`."""

from __future__ import annotations

from search.cli.options import ConfigFile, Debug, Mlruns, Overrides, StudyOption, TaskName, Timeout, Trials
from search.cli.terminal import say

EXAMPLE = "python -m search plan config.yaml"


def plan(
    config: ConfigFile = None,
    task: TaskName = None,
    trials: Trials = None,
    timeout: Timeout = None,
    study: StudyOption = None,
    overrides: Overrides = None,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """say what would be searched and what it would cost; trains nothing"""
    from search.planning import plan_lines
    from search.space.configured import configured

    say(plan_lines(configured(config, trials, timeout, study, mlruns, overrides or (), task)))
    return 0
