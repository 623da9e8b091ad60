"""Exports remove nothing that this program did not write, and a kill at any moment leaves a whole folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.cli.apply import apply
from search.cli.export import export as export_command
from search.deliver.export import RECIPE, export, export_model
from search.deliver.written_files import WRITTEN_JSON, WrittenFiles, free_folder
from search.errors import UserError
from search.front.front import Front

from . import factory


@pytest.fixture
def exported(front: Front, tmp_path: Path) -> Path:
    export(front, factory.study(front), tmp_path / "study")
    return tmp_path / "study"


def tree(folder: Path) -> dict[str, str]:
    """Content by name."""
    return {str(p.relative_to(folder)): p.read_text("latin1") for p in folder.rglob("*") if p.is_file()}


def other_front(front: Front) -> Front:
    """Of one member: a new trial that dominates all."""
    source = front.members[0].folder
    return front.add(replace(factory.outcome(99, 0.99, 0.1), folder=source))


# --- the user's files ---------------------------------------------------------------------------------------

OWN = (
    "notes.txt",
    "front.kept.json",
    ".x.123",
    ".front.json.4194304",
    "models/readme.md",
    "models/77/mine.txt",
    "models/.7.4194304/mine.txt",
    "models/{member}/notes/why.txt",
    "picks/fastest/mine.txt",
)


def test_files_of_the_users_own_in_an_export_survive_every_later_export(front: Front, exported: Path) -> None:
    member = front.members[0].number
    own = {name.format(member=member): f"my {name}" for name in OWN}
    for name, content in own.items():
        (exported / name).parent.mkdir(parents=True, exist_ok=True)
        (exported / name).write_text(content)
    (exported / "models" / str(member) / "empty").mkdir()
    for later in (front, other_front(front), front):
        export(later, factory.study(later), exported)
        assert {name: tree(exported).get(name) for name in own} == own
    assert (exported / "models" / str(member) / "empty").is_dir()


def test_models_that_left_the_front_go_and_what_the_user_put_into_one_stays(front: Front, exported: Path) -> None:
    stays, goes = (exported / "models" / str(o.number) for o in front.members[:2])
    (stays / "notes.txt").write_text("mine")
    later = other_front(front)
    export(later, factory.study(later), exported)
    assert not goes.exists() and tree(stays) == {"notes.txt": "mine"}


def test_a_copy_that_the_user_made_of_a_model_is_not_ours(front: Front, exported: Path) -> None:
    copy = exported / "models" / "123"
    shutil.copytree(exported / "models" / str(front.members[0].number), copy)
    before = tree(copy)
    later = other_front(front)
    export(later, factory.study(later), exported)
    assert tree(copy) == before


def test_a_file_that_was_edited_is_kept_under_another_name(front: Front, exported: Path) -> None:
    number = front.members[0].number
    for name in ("best-config.yaml", f"models/{number}/config.json"):
        (exported / name).write_text("edited")
    export(front, factory.study(front), exported)
    assert (exported / "best-config.kept.yaml").read_text() == "edited"
    assert (exported / f"models/{number}/config.kept.json").read_text() == "edited"
    assert (exported / "best-config.yaml").read_text() != "edited"
    assert (exported / f"models/{number}/config.json").read_text() == factory.MODEL_CONFIG


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_stands_where_a_model_must_go_is_moved_aside_whole(front: Front, tmp_path: Path, kind: str) -> None:
    place, elsewhere = tmp_path / "models" / "5", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    place.parent.mkdir()
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(elsewhere)
    export_model(front, factory.study(front), front.members[0], place)
    assert (place / RECIPE).is_file() and not place.is_symlink()
    backup = place.with_name("5.kept")
    assert backup.read_text() == "mine" if kind == "file" else backup.readlink() == elsewhere
    assert tree(elsewhere) == {"mine.txt": "mine"}


def test_files_of_an_export_whose_records_are_gone_belong_to_the_user(front: Front, exported: Path) -> None:
    for path in exported.rglob(WRITTEN_JSON):
        path.unlink()
    before = tree(exported)
    later = other_front(front)
    export(later, factory.study(later), exported)
    assert (exported / "front.kept.json").is_file() and (exported / "models" / "99" / RECIPE).is_file()
    assert set(before.values()) <= set(tree(exported).values())


def test_a_record_that_names_files_elsewhere_removes_none_of_them(front: Front, exported: Path) -> None:
    mine = exported.parent / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("mine")
    record = json.loads((exported / WRITTEN_JSON).read_text())
    record["folders"] += ["../mine", str(mine)]
    record["files"] |= {"../mine/precious.txt": []}
    (exported / WRITTEN_JSON).write_text(json.dumps(record))
    WrittenFiles(mine, {"precious.txt": []}).save()
    later = other_front(front)
    export(later, factory.study(later), exported)
    assert (mine / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda to: (to.mkdir(), (to / "a.txt").touch()), "which holds a.txt"),
        (lambda to: to.write_text("mine"), "which is a file"),
        (lambda to: to.symlink_to("nowhere"), "which is a link"),
        (
            lambda to: to.parent.joinpath("file").touch() or to.mkdir() or (to / ".hidden").touch(),
            "which holds .hidden",
        ),
    ],
)
def test_a_place_that_is_taken_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "to")
    with pytest.raises(UserError, match=f"--to: must be a folder that does not exist or is empty, got .*{message}"):
        free_folder(tmp_path / "to")


def test_a_new_or_an_empty_place_is_taken_and_one_inside_a_file_is_refused(front: Front, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for to in (tmp_path / "empty", tmp_path / "a" / "b"):
        export_model(front, factory.study(front), front.members[0], free_folder(to))
        assert (to / RECIPE).is_file()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--to: must be where a folder can be made"):
        free_folder(tmp_path / "file" / "to")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "empty", "file"]


@pytest.mark.parametrize("pick", [None, "fastest"])
def test_the_commands_refuse_a_place_that_is_taken_before_they_read_or_make_anything(
    tmp_path: Path, pick: str | None
) -> None:
    to = tmp_path / "to"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"^--to: must be a folder"):
        export_command("tiny", pick, to, tmp_path / "mlruns")
    with pytest.raises(UserError, match=r"^--to: must be a folder"):
        apply(tmp_path / "best-config.yaml", to, tmp_path / "mlruns")
    assert tree(tmp_path) == {"to/mine.txt": "mine"}
