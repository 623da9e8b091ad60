"""Model folders: what is written is read, and what is not ours is refused in one sentence."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import LABELS, built, logits, subject, tiny
from safetensors.torch import load_file, save_file

from spaces import build
from spaces.base import REFUSAL, WEIGHTS, Base, ModelError, load_base, read_config, skeleton, write_folder
from spaces.loading import reading
from spaces.recipe import Step


@pytest.fixture  # of its own, since its tests damage it
def folder(tmp_path: Path) -> Path:
    original = subject()
    model, plans = built(original, Step("prune", {"neurons": 0.5}), Step("low_rank", {"rank": 0.5}))
    write_folder(tmp_path, model, original.base, plans)
    return tmp_path


def test_base_and_plans_survive_their_folder(folder: Path) -> None:
    base, plans = read_config(folder)
    assert base.to_json() == json.loads(json.dumps(subject().base.to_json()))
    assert Base.from_json(base.to_json()) == base
    assert list(plans) == ["prune", "low_rank"]


def test_writing_what_was_loaded_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    base, plans = read_config(folder)
    write_folder(tmp_path / "again", build.load_model(folder), base, plans)
    for name in (WEIGHTS, "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_plain_transformers_refuses_a_compressed_folder_and_says_what_to_do(folder: Path) -> None:
    from transformers import AutoModel, BertModel

    for loader in (AutoModel, BertModel):
        with pytest.raises((ValueError, OSError)) as caught:
            loader.from_pretrained(folder)
        assert "search.load" in str(caught.value), loader
    assert "search.load" in REFUSAL


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def garble(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\xff" * 64)


def remove(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def replace_by_pickle(folder: Path) -> None:
    torch.save({"x": torch.zeros(1)}, folder / WEIGHTS)


def replace_by_plain_pickle(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"x": 1}))


def leave_only_a_pickle(folder: Path) -> None:
    remove(folder)
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def replace_by_other_names(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / WEIGHTS)


def replace_by_other_shapes(folder: Path) -> None:
    model, base = tiny()
    write_folder(folder / "other", model, base, {})
    (folder / "other" / WEIGHTS).replace(folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "safetensors"),
        (empty, "safetensors"),
        (garble, "safetensors"),
        (remove, f"no {WEIGHTS}"),
        (replace_by_pickle, "pickle"),
        (replace_by_plain_pickle, "pickle"),
        (leave_only_a_pickle, "pytorch_model.bin is a pickle"),
        (replace_by_other_names, "do not fit"),
        (replace_by_other_shapes, "do not fit"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        build.load_model(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        changed = change(data)
        (folder / "config.json").write_text(json.dumps(data if changed is None else changed))

    return damage


def half(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:100])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": lambda folder: (folder / "config.json").unlink(),
    "truncated": half,
    "binary": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "a list": edited(lambda data: [1]),
    "plain transformers": edited(lambda data: data["base"]["config"]),
    "no plans": edited(lambda data: data.pop("plans") and None),
    "plans are no mapping": edited(lambda data: data.update(plans=None)),
    "an extra key": edited(lambda data: data["base"].update(surprise=1)),
    "an unknown axis": edited(lambda data: data["plans"].update(squeeze={})),
    "an unknown architecture": edited(lambda data: data["base"]["config"].update(model_type="perceptron9")),
    "a plan without its keys": edited(lambda data: data["plans"].update(prune={})),
    "a block that is not there": edited(lambda data: data["plans"].update(distill={"blocks": [0, 9]})),
    "text for indices": edited(lambda data: data["plans"]["prune"].update(neurons=["x", "y", "z"])),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_config_that_is_not_ours_is_refused(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(ModelError) as caught:
        build.load_model(folder)
    assert "config.json" in str(caught.value) and len(str(caught.value)) < 600


# --- base models --------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    subject("bert", "native").model.model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", [truncate, remove, replace_by_pickle, leave_only_a_pickle, garble, empty])
def test_a_base_model_without_good_weights_is_refused_by_the_name_its_user_gave(
    plain: Path, damage: Callable[[Path], None]
) -> None:
    damage(plain)
    with pytest.raises(ModelError, match="the model 'mine' cannot be loaded") as caught:
        load_base(plain, "mine", "main", "auto", LABELS, frame={})
    assert "\n" not in str(caught.value)


def drop_one(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def replace_by_foreign(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [drop_one, replace_by_foreign])
def test_no_weight_of_a_base_model_is_silently_random(plain: Path, damage: Callable[[Path], None]) -> None:
    damage(plain)
    with pytest.raises(ModelError, match=r"'mine'.*lacks \d+ of the tensors"):
        load_base(plain, "mine", "main", "auto", LABELS, frame={})


def test_a_base_model_without_a_config_is_refused(plain: Path) -> None:
    (plain / "config.json").unlink()
    with pytest.raises(ModelError, match="'mine'"):
        load_base(plain, "mine", "main", "auto", LABELS, frame={})


def test_another_number_of_labels_gets_a_new_head(plain: Path) -> None:
    """What the user's data say counts; a head for other labels cannot be kept."""
    model, base = load_base(plain, "mine", "main", "mean", ("no", "yes"), frame={})
    assert base.output_names == ("no", "yes")
    assert logits(model.eval(), subject().batch).shape == (4, 2)


def test_a_base_is_in_float32_whatever_its_file_is_in(plain: Path) -> None:
    model, _ = tiny("bert", "native")
    for dtype in (torch.bfloat16, torch.float16):
        model.model.to(dtype).save_pretrained(plain)
        assert json.loads((plain / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
        loaded, base = load_base(plain, "mine", "main", "auto", LABELS, frame={})
        assert {p.dtype for p in (*loaded.parameters(), *skeleton(base).parameters())} == {torch.float32}
        torch.testing.assert_close(logits(loaded, subject().batch), logits(model.float(), subject().batch))


def described(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


#: Name of the damage -> (what is done to the folder, what the message says beside the model's name).
MISFITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "other shapes": (described(intermediate_size=32), r"weight file have other shapes .*\.dense\.\w+ is \(\d+"),
    "more positions": (
        described(max_position_embeddings=80),
        r"position_embeddings.weight is \(40, 64\), not \(80, 64\)",
    ),
    "more layers than weights": (described(num_hidden_layers=5), r"lacks 32 of the tensors"),
    "fewer layers than weights": (described(num_hidden_layers=2), r"holds 16 tensors of layers that its config.json"),
    "no layers": (described(num_hidden_layers=0), r"describes 0 layers"),
    "an unknown type": (described(model_type="perceptron9"), "model type `perceptron9`"),
    "a field of another type": (described(hidden_size="wide"), "'hidden_size' expected int, got str"),
    "an unknown activation": (described(hidden_act="zoo"), "KeyError: 'zoo'"),
    "an unknown number format": (described(dtype="float17"), "float17"),
    "heads that do not divide": (described(num_attention_heads=7), "not a multiple"),
    "padding beyond the table": (described(vocab_size=-3), "-3"),
    "labels that are no mapping": (described(id2label=["a", "b", "c"]), "items"),
    "weights that are not finite": (not_finite, "classifier.bias holds numbers that are infinite or not a number"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_base_model_whose_files_do_not_fit_is_refused_with_what_does_not(plain: Path, name: str) -> None:
    damage, message = MISFITS[name]
    damage(plain)
    with pytest.raises(ModelError, match=message) as caught:
        load_base(plain, "mine", "main", "auto", LABELS, frame={})
    assert "'mine'" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_a_head_that_is_not_used_are_no_layers(plain: Path) -> None:
    """A language model's own head, and a pooler, are left in the file."""
    tensors = load_file(plain / WEIGHTS)
    save_file({**tensors, "cls.predictions.bias": torch.zeros(9)}, plain / WEIGHTS, metadata={"format": "pt"})
    load_base(plain, "mine", "main", "mean", LABELS, frame={})


def test_only_the_library_is_blamed_on_the_user() -> None:
    with pytest.raises(ModelError, match=r"^it cannot be read: KeyError: 'a'$"), reading("it cannot be read"):
        raise KeyError("a")
    with pytest.raises(MemoryError), reading("it cannot be read"):
        raise MemoryError
    with pytest.raises(OSError, match="No space"), reading("it cannot be read"):
        raise OSError(errno.ENOSPC, "No space left on device")
