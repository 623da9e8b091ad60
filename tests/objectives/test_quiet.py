"""A process that is not ours keeps its warnings and its environment; one that is ours is quiet."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from objectives.quiet import QUIET_ENVIRONMENT, quietly

OWN = """
import os, warnings
from objectives.quiet import quiet
quiet()
warnings.warn("nobody hears this")
print(os.environ["DO_NOT_TRACK"], os.environ["TRANSFORMERS_VERBOSITY"])
"""


def test_a_library_is_imported_quietly_and_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    before, filters = dict(os.environ), list(warnings.filters)
    with quietly():
        assert os.environ["DO_NOT_TRACK"] == QUIET_ENVIRONMENT["DO_NOT_TRACK"]
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "info", "what the user has set stays"
        warnings.warn("nobody hears this", stacklevel=1)
    assert (dict(os.environ), list(warnings.filters)) == (before, filters)


def test_a_process_of_our_own_is_quiet_but_for_what_the_user_has_set() -> None:
    environment = {
        **{n: v for n, v in os.environ.items() if n not in QUIET_ENVIRONMENT},
        "TRANSFORMERS_VERBOSITY": "info",
    }
    answer = subprocess.run([sys.executable, "-c", OWN], env=environment, capture_output=True, text=True, check=True)
    assert (answer.stdout.split(), answer.stderr) == (["1", "info"], "")


def test_a_home_that_cannot_be_written_is_not_told() -> None:
    code = "from objectives.quiet import quiet; quiet(); import matplotlib; print(matplotlib.get_cachedir() != '')"
    environment = {n: v for n, v in os.environ.items() if n != "MPLCONFIGDIR" and not n.startswith("XDG_")}
    environment["HOME"] = os.devnull  # where not even root can make a folder
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (answer.stdout.strip(), answer.stderr) == ("True", "")
