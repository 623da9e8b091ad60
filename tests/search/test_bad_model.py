"""A model that cannot be used ends `plan` and `run` with 2, in one line, before anything is read at length or run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import command
import families
import pytest
import yaml

from search.cli.main import main


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    return families.save(tmp_path_factory.mktemp("source") / "bert", "bert", **names)


def described(file: str = "config.json", **changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def strange(folder: Path) -> None:
    """A model of a stranger's own type, with the code that would load it."""
    described(model_type="mine", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})(folder)
    (folder / "code.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")


def tokens_added(folder: Path) -> None:
    tokenizer = families.tokenizer_of("bert")
    tokenizer.add_tokens(["film2"])
    tokenizer.save_pretrained(folder)


def without_an_end(folder: Path) -> None:
    """A tokenizer with no token to pad with, and none that ends a text, which would take its place."""
    tokenizer = families.word_tokenizer("bert", pads=False)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def a_shard_less(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


#: Name of the damage -> (what is done to the folder, what the message must hold).
MODELS: Mapping[str, tuple[Callable[[Path], None], list[str]]] = {
    "a stranger's code": (strange, ["config.json asks for code of its own", "code.Model"]),
    "an unknown type": (described(model_type="perceptron9"), ["model type `perceptron9`"]),
    "quantised weights": (described(quantization_config={"quant_method": "gptq"}), ["already quantised", "gptq"]),
    "a field of another type": (described(hidden_size="wide"), ["config.json", "expected int, got str"]),
    "a number format of no kind": (described(dtype="float17"), ["config.json", "float17"]),
    "an activation of no kind": (described(hidden_act="zoo"), ["KeyError: 'zoo'"]),
    "other shapes than described": (described(intermediate_size=16), ["have other shapes", "(64,), not (16,)"]),
    "fewer layers than described": (described(num_hidden_layers=7), ["lacks", "layer.2"]),
    "labels that are no mapping": (described(id2label=["a"]), ["config.json"]),
    "tokens without embeddings": (tokens_added, ["ids up to 31", "31 token embeddings"]),
    "truncated weights": (truncated, ["model.safetensors is truncated"]),
    "a shard that is missing": (a_shard_less, ["1 of 2 weight files missing", "model-2.safetensors"]),
    "a tokenizer of no kind": (
        described(
            "tokenizer_config.json", tokenizer_class="NobodysTokenizer", auto_map={"AutoTokenizer": ["a.B", None]}
        ),
        ["tokenizer_config.json asks for code of its own"],
    ),
    "a tokenizer without padding": (without_an_end, ["neither a padding nor an end-of-text token"]),
    "a tokenizer that is damaged": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        ["no usable tokenizer"],
    ),
}


def written(folder: Path, source: Path, data: Path, damage: Callable[[Path], None]) -> Path:
    shutil.copytree(source, folder / "model")
    damage(folder / "model")
    files = {"train": str(data / "train.csv"), "validation": str(data / "validation.jsonl")}
    about = {"model": {"name": "model"}, "task": "classification", "data": files, "teacher": {"epochs": 0}}
    (folder / "c.yaml").write_text(yaml.safe_dump({**about, "device": "cpu"}))
    return folder / "c.yaml"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_used_ends_a_plan_with_what_is_wrong(
    tmp_path: Path, source: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, wanted = MODELS[name]
    config = written(tmp_path, source, tiny_data, damage)
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {config}: model.name: ")
    assert len(line) < 500 and all(text in line for text in wanted), line
    assert not (tmp_path / "model" / "ran").exists() and not (tmp_path / "mlruns").exists()


def test_a_run_ends_alike_and_asks_nothing(tmp_path: Path, source: Path, tiny_data: Path) -> None:
    """One that fails when it is named, and one that only transformers can tell."""
    for number, name in enumerate(("a stranger's code", "a field of another type")):
        damage, wanted = MODELS[name]
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = command.search("run", written(folder, source, tiny_data, damage), cwd=folder)
        command.refused(ended, [f"{folder}/c.yaml: model.name: ", *wanted])
        assert not ended.out and not (folder / "model" / "ran").exists() and not (folder / "mlruns").exists()
