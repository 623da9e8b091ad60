"""What the command line says of itself and of words it does not know, before anything is imported or read."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import command
import pytest

from search.cli.main import COMMANDS, COMPLETING, SCRIPT, main

#: Nothing of a run is imported to show help, and nothing draws boxes.
HEAVY = ("torch", "transformers", "optuna", "mlflow", "numpy", "pandas", "datasets", "rich", "yaml")
MODULES = """
import json, sys
from search.cli.main import main

status = main(json.loads(sys.argv[1]))
print(json.dumps([status, sorted(sys.modules)]))
"""
#: A wrong command line -> what the one line on standard error says.
WRONG = {
    "": "COMMAND must be given, one of run, plan, front",
    "frnt": 'python -m search: unknown command "frnt"; did you mean "front"? (valid: run, plan, front,',
    "run --trails 3": 'search run: unknown option "--trails"; did you mean "--trials"? (valid: --task, --trials,',
    "run -trails 3": 'unknown option "-trails"; did you mean "--trials"?',
    "run --trails=3": 'unknown option "--trails"; did you mean "--trials"?',
    "front a --max-los 1": 'python -m search front: unknown option "--max-los"; did you mean "--max-loss"?',
    "front a --max-latency-ms abc": "--max-latency-ms: must be a number, got abc",
    "front a --max-latency-ms nan": "--max-latency-ms: must be a number, got nan",
    "front a --max-latency-ms": "--max-latency-ms: must be followed by a value: --max-latency-ms X",
    "front a --json=yes": "--json: must be given without a value, got --json=yes",
    "front a b": "python -m search front: got unexpected extra argument(s) (b)",
    "front": "python -m search front: STUDY must be given (example: python -m search front movie-reviews",
    "apply": "BEST.yaml must be given (example: python -m search apply mlruns/exports/movie-reviews/best-config.yaml)",
    "cache --max-gb -1": "--max-gb: must be a number of 0 or more, got -1",
    "ui --port http": "--port: must be a whole number from 1 to 65535, got http",
    "ui --port 70000": "--port: must be a whole number from 1 to 65535, got 70000",
    "--mlruns there run": "--mlruns must be given after a command that has it (run, plan, front,",
    "--instal-completion": 'unknown option "--instal-completion"; did you mean "--install-completion"?',
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_word_is_named_in_one_line_with_the_rule_and_the_nearest(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and WRONG[line] in output.err
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_example_on_one_line_and_the_common_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    output = capsys.readouterr().out
    assert f"example: {COMMANDS[name][1]}\n" in output and f"Usage: python -m search {name} [OPTIONS]" in output
    assert COMMANDS[name][1].startswith(f"python -m search {name}")
    assert "--mlruns DIR" in output and "where results are (default: mlruns)" in output
    assert "--debug" in output and "show the traceback of an error" in output


@pytest.mark.parametrize("words", ['["--help"]', '["run", "--help"]', '["frnt"]', '["run", "--trails"]'])
def test_help_and_wrong_words_import_nothing_heavy(words: str) -> None:
    ended = subprocess.run([sys.executable, "-c", MODULES, words], capture_output=True, text=True, check=True)
    modules = ended.stdout.splitlines()[-1]
    assert not [name for name in HEAVY if f'"{name}"' in modules]


def test_a_program_that_fails_shows_a_traceback_only_with_debug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = str(tmp_path / "nope.yaml")
    assert main(["plan", wrong]) == 2
    assert capsys.readouterr().err.startswith(f"error: {wrong}: no such configuration file")
    with pytest.raises(Exception, match="no such configuration file"):
        main(["plan", wrong, "--debug"])


def test_a_shell_completes_commands_and_options() -> None:
    """As the script asks that `--show-completion` prints."""
    for line, wanted in ((f"{SCRIPT} fr", ["front"]), (f"{SCRIPT} front x --max", ["--max-latency-ms", "--max-loss"])):
        words = {COMPLETING: "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        environment = {**command.environment(), **words}
        program = [sys.executable, "-c", "from search.__main__ import program; program()"]
        ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
        assert ended.stdout.split() == wanted, ended.stderr


def test_the_completion_that_is_installed_is_of_the_installed_program(tmp_path: Path) -> None:
    """A shell cannot complete after `python -m search`, which is three words."""
    shell = ["bash", "-c", f"{sys.executable} -m search --install-completion; exit $?"]
    environment = {**command.environment(), "HOME": str(tmp_path)}
    subprocess.run(shell, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    script = (tmp_path / ".bash_completions" / f"{SCRIPT}.sh").read_text()
    assert f"{COMPLETING}=complete_bash" in script and script.endswith(f"_completion {SCRIPT}")


@pytest.mark.parametrize(("number", "name"), [(30, ".front.json.partial"), (13, "service"), (1, "service")])
def test_what_cannot_be_written_is_one_error_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, name: str
) -> None:
    def fails() -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / name))

    monkeypatch.setattr("search.report.listing.lines", fails)
    assert main(["list"]) == 2
    shown = tmp_path if name.startswith(".") else tmp_path / name
    assert capsys.readouterr().err == f"error: {shown}: must be what this user can write, got {os.strerror(number)}\n"


def test_a_reader_that_goes_away_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("search.report.listing.lines", lambda: ["a line"] * 10_000)
    with suppress(BrokenPipeError), open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["list"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_a_stream_that_was_closed_leads_nowhere() -> None:
    for closed in (">&-", "<&- >&-", "2>&-"):
        shell = ["bash", "-c", f"{sys.executable} -m search --help {closed}"]
        ended = subprocess.run(shell, env=command.environment(), capture_output=True, text=True, check=True)
        assert ended.stderr == "" and ("Usage" in ended.stdout) is (closed == "2>&-")


def test_what_the_encoding_of_a_terminal_lacks_is_escaped() -> None:
    code = "from search.__main__ import open_streams; open_streams(); print('caf\\u00e9 \\udcff')"
    environment = {**command.environment(), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "caf\\xe9 \\udcff\n"


def test_output_that_cannot_be_written_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.report.listing.lines", lambda: ["one short line"])
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["list"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err.startswith("failed: nothing more can be written (is the disk full?): [Errno 28]")
