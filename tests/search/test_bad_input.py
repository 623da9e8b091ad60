"""Every mistake in a configuration ends the real command with 2, a line or two that name it, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import command
import pytest
import tiny

from search.store.locks import LOCK


class World:
    """Good and bad files of a user, in one folder."""

    def __init__(self, folder: Path, bert: Path) -> None:
        self.folder = folder
        tiny.data(folder, train=60, held_back=30)
        shutil.copytree(bert, folder / "bert")
        self.config = command.write_config(folder / "good.yaml", model={"name": "bert"})
        rows = tiny.sentences(40, seed=4)
        (folder / "empty.csv").write_text("")
        (folder / "header.csv").write_text("text,label\n")
        tiny.write_csv(folder / "one-class.csv", [{**row, "label": "positive"} for row in rows])
        tiny.write_csv(folder / "other.csv", [{"review": row["text"], "label": row["label"]} for row in rows])
        (folder / "broken.jsonl").write_text('{"text": "a film", "lab')
        (folder / "broken.yaml").write_text("model: {name: bert\ntask: classification\n")
        command.write_config(folder / "key.yaml", model={"name": "bert"}, teacher={"epochz": 1})
        self.model("no-weights", lambda weights: weights.unlink())
        self.model("pickle", lambda weights: weights.rename(weights.with_name("pytorch_model.bin")))
        self.model("garbage", lambda weights: weights.write_bytes(b"\x80\x04 not safetensors"))
        self.model("cut", lambda weights: weights.write_bytes(weights.read_bytes()[:-500]))
        deeper = tiny.bert(folder / "deeper", num_hidden_layers=3)
        self.model("foreign", lambda weights: None)
        shutil.copyfile(deeper / "config.json", folder / "foreign" / "config.json")
        self.model("no-tokenizer", lambda weights: None)
        for file in (folder / "no-tokenizer").glob("tokenizer*"):
            file.unlink()

    def model(self, name: str, damage: Callable[[Path], object]) -> None:
        shutil.copytree(self.folder / "bert", self.folder / name)
        damage(self.folder / name / "model.safetensors")


#: Name of a mistake -> (what `--set` makes of the good configuration, what the message must hold).
SETTINGS: Mapping[str, tuple[str, list[str]]] = {
    "an unknown section": ("teachr.epochs=1", ["--set teachr.epochs", '"teacher"']),
    "an unknown key": ("workload.batsh=2", ["--set workload.batsh", '"workload.batch"']),
    "an override without a value": ("seed", ['--set "seed": must be key=value']),
    "a wrong type": ("teacher.epochs=many", ["--set teacher.epochs: must be a number", '"many"']),
    "a knob out of range": ("space.distill.layers=[1, 9]", ["--set space.distill.layers", "between 1 and 2, got 9"]),
    "an empty range": ("space.distill.layers=[2, 1]", ["--set space.distill.layers: empty range", "low 2, high 1"]),
    "an unknown axis": ("space.prun.heads=0.5", ["--set space.prun", '"prun"', '"prune"']),
    "an unknown knob": ("space.prune.head=0.5", ["space.prune.head", '"heads"']),
    "an unknown runtime": ("space.runtime.name=[eager,onx]", ["space.runtime.name", '"onx"', '"onnx"']),
    "an unknown task": ("task=clasification", ["--set task", '"clasification"', '"classification"']),
    "an unknown metric": ("metric=acuracy", ["--set metric", '"acuracy"', '"accuracy"']),
    "an unknown sampler": ("sampler=tpee", ["--set sampler", '"tpee"', '"tpe"']),
    "an unknown objective": ("objectives=[metric, latency]", ["--set objectives", '"latency"', "latency_p50_ms"]),
    "an unknown device": ("device=tpu", ["--set device: must be", "cuda", '"tpu"']),
    "a model folder that is missing": ("model.name=./nowhere", ["--set model.name: no such model folder"]),
    "a model without weights": ("model.name=../no-weights", ["--set model.name: no weights (*.safetensors)"]),
    "a model with pickled weights": ("model.name=../pickle", ["only pickles (pytorch_model.bin)", "convert"]),
    "a pickle named safetensors": ("model.name=../garbage", ["model.safetensors", "no safetensors file"]),
    "weights that are cut short": ("model.name=../cut", ["model.safetensors is truncated"]),
    "weights of another model": ("model.name=../foreign", ["--set model.name", "lacks", "tensors"]),
    "a model without tokenizer": ("model.name=../no-tokenizer", ["--set model.name", "no tokenizer"]),
    "a hub model out of reach": ("model.name=a/model", ["--set model.name", "the hub is out of reach", "a/model"]),
    "hub data out of reach": ("data={name: a/data}", ["--set data", "the hub is out of reach", "a/data"]),
    "data that are missing": ("data.train=../gone.csv", ["--set data.train: no such file", "train.csv"]),
    "an empty data file": ("data.train=../empty.csv", ["--set data.train", "empty.csv is empty"]),
    "data without rows": ("data.train=../header.csv", ["--set data.train: no rows in"]),
    "data that cannot be read": ("data.train=../broken.jsonl", ["broken.jsonl cannot be read as jsonl"]),
    "data of one class": ("data.train=../one-class.csv", ["data.label: must have at least two classes"]),
    "data without the column": ("data.train=../other.csv", ["data.text", '"text"', "review"]),
}
#: Name of a mistake -> (all arguments of `run`, what the message must hold). GOOD is the good configuration.
GOOD = "../good.yaml"
ARGUMENTS: Mapping[str, tuple[list[str], list[str]]] = {
    "a missing config": (["nope.yaml"], ["nope.yaml: no such configuration file"]),
    "a config that is no YAML": (["../broken.yaml"], ["broken.yaml, line", "not valid YAML"]),
    "an unknown key in the file": (["../key.yaml"], ["key.yaml: teacher.epochz: unknown key", '"teacher.epochs"']),
    "trials that are no number": ([GOOD, "--trials", "few"], ["--trials: must be a whole number", '"few"']),
    "no trials": ([GOOD, "--trials", "0"], ["--trials: must be a whole number, at least 1, got 0"]),
    "a negative time limit": ([GOOD, "--timeout", "-5"], ["--timeout: must be", "above 0", "-5"]),
    "results where nothing can be written": ([GOOD, "--mlruns", "/proc/here"], ["--mlruns: must be a folder that can"]),
    "results in a file": ([GOOD, "--mlruns", GOOD], ["--mlruns: must be a folder that can be written"]),
    **{name: ([GOOD, "--set", setting], wanted) for name, (setting, wanted) in SETTINGS.items()},
}
Running = Mapping[str, tuple[Path, Future[command.Ended]]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Running]:
    """Every command, under way, with the empty folder it runs in."""
    world = World(tmp_path_factory.mktemp("world"), tiny_bert)
    with ThreadPoolExecutor(command.AT_ONCE) as pool:
        runs = {}
        for number, (name, (arguments, _)) in enumerate(ARGUMENTS.items()):
            here = world.folder / str(number)
            here.mkdir()
            runs[name] = here, pool.submit(command.search, "run", *arguments, cwd=here, one_core_only=False)
        yield runs


@pytest.mark.parametrize("mistake", ARGUMENTS)
def test_a_mistake_is_named_and_leaves_nothing_half_written(running: Running, mistake: str) -> None:
    here, future = running[mistake]
    ended = future.result()
    command.refused(ended, ARGUMENTS[mistake][1])
    # What needs the model's shape or weights shows after they are read; stages that are whole may stay.
    for file in (path for path in here.rglob("*") if path.is_file()):
        stage = file.relative_to(here).parts[:4]
        if stage == ("mlruns", "cache", LOCK):
            continue
        assert stage[:2] == ("mlruns", "cache") and here.joinpath(*stage, "entry.json").is_file(), file
    if "reading data" not in ended.out and mistake != "a knob out of range":  # which the model's facts tell
        assert list(here.iterdir()) == []


def test_a_flag_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    ended = command.search("run", "--trails", "4", cwd=tmp_path)
    assert ended.code == 2 and "--trails" in ended.err and "Traceback" not in ended.err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    ended = command.search("run", "nope.yaml", "--debug", cwd=tmp_path)
    assert ended.code != 0 and "Traceback" in ended.err and "UserError: nope.yaml" in ended.err


def test_the_mistakes_of_the_data_are_those_of_plan_too(tmp_path: Path, tiny_bert: Path) -> None:
    world = World(tmp_path / "world", tiny_bert)
    (tmp_path / "here").mkdir()
    ended = command.search("plan", world.config, "--set", "data.train=../world/one-class.csv", cwd=tmp_path / "here")
    command.refused(ended, ["data.label: must have at least two classes"])


def test_the_examples_of_good_input_are_good(tmp_path: Path, tiny_bert: Path) -> None:
    """So that a mistake is refused for what it is, not for something else in its world."""
    world = World(tmp_path / "world", tiny_bert)
    command.search("plan", world.config, cwd=tmp_path).succeeded()
    assert json.loads((world.folder / "foreign" / "config.json").read_text())["num_hidden_layers"] == 3
