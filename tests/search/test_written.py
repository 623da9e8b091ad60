"""Exports remove nothing that this program did not write, and a kill at any moment leaves a whole folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from search.cli.apply import apply
from search.cli.export import export as export_command
from search.deliver import written
from search.deliver.export import RECIPE, export, export_model
from search.deliver.written import FILE, Written, free_place, mend, replacing_folder, take_away
from search.errors import UserError
from search.front.front import Front
from search.store import atomic, owner

from . import factory


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Front:
    return factory.stored(factory.front(), tmp_path_factory.mktemp("cache"))


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
    assert (exported / f"models/{number}/config.json").read_text() == "{}"


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
    kept = place.with_name("5.kept")
    assert kept.read_text() == "mine" if kind == "file" else kept.readlink() == elsewhere
    assert tree(elsewhere) == {"mine.txt": "mine"}


def test_an_export_of_a_version_without_records_is_replaced_as_ours(front: Front, exported: Path) -> None:
    for path in exported.rglob(FILE):
        path.unlink()
    (exported / "models" / "77").mkdir()
    (exported / "models" / "77" / "mine.txt").write_text("mine")
    later = other_front(front)
    export(later, factory.study(later), exported)
    assert not [name for name in tree(exported) if "kept" in name]
    assert {p.name for p in (exported / "models").iterdir()} == {"77", "99"}


def test_a_record_that_names_files_elsewhere_removes_none_of_them(front: Front, exported: Path) -> None:
    mine = exported.parent / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("mine")
    record = json.loads((exported / FILE).read_text())
    record["folders"] += ["../mine", str(mine)]
    record["files"] |= {"../mine/precious.txt": []}
    (exported / FILE).write_text(json.dumps(record))
    Written(mine, {"precious.txt": []}).save()
    later = other_front(front)
    export(later, factory.study(later), exported)
    assert (mine / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "said"),
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
def test_a_place_that_is_taken_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "to")
    with pytest.raises(UserError, match=f"--to: must be a folder that does not exist or is empty, got .*{said}"):
        free_place(tmp_path / "to")


def test_a_new_or_an_empty_place_is_taken_and_one_inside_a_file_is_refused(front: Front, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for to in (tmp_path / "empty", tmp_path / "a" / "b"):
        export_model(front, factory.study(front), front.members[0], free_place(to))
        assert (to / RECIPE).is_file()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--to: must be where a folder can be made"):
        free_place(tmp_path / "file" / "to")
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


# --- kills --------------------------------------------------------------------------------------------------

Cut = Callable[[], Iterator[None]]


def steps(monkeypatch: pytest.MonkeyPatch, die_at: int) -> None:
    """Ends this process without a word, as a kill does, before its change number `die_at` to names."""
    seen = [0]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **named: object) -> object:
            if seen[0] == die_at:
                os._exit(9)
            seen[0] += 1
            return real(*arguments, **named)

        return step

    for name in ("rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(atomic, "_exchange", counted(atomic._exchange))


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Whether `work`, done in a process of its own, was killed before its change number `step` to names."""
    child = os.fork()
    if child == 0:
        try:
            steps(pytest.MonkeyPatch(), step)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def write_new(folder: Path) -> None:
    with replacing_folder(folder) as partial:
        (partial / "weights").write_text("new")


@pytest.mark.parametrize("kernel", ["exchanges names", "does not"])
def test_a_kill_at_any_moment_of_a_replacement_leaves_the_old_folder_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel == "does not":
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    outcomes, step = set(), 0
    while True:
        folder = tmp_path / str(step) / "7"
        with replacing_folder(folder) as partial:
            (partial / "weights").write_text("old")
        (folder / "notes.txt").write_text("mine")
        killed = killed_at(step, lambda folder=folder: write_new(folder))  # type: ignore[misc]
        if kernel == "exchanges names":
            assert (folder / "weights").is_file(), "at no moment there is none"
        mend(folder.parent)
        content = tree(folder)
        assert content.pop(FILE) and content.pop("notes.txt") == "mine"
        assert sorted(p.name for p in folder.parent.iterdir()) == ["7"], "nothing half made is left"
        outcomes.add(content["weights"])
        assert killed or content == {"weights": "new"}
        if not killed:
            break
        step += 1
    assert outcomes == {"old", "new"} and step > 5


def test_where_names_are_exchanged_there_is_one_step_and_elsewhere_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system of this test exchanges names, or the test above tests the second way twice."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir(), b.mkdir()
    (a / "file").touch()
    assert atomic._exchange(a, b) and (b / "file").exists()
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    assert not atomic._exchange(a, b) and (b / "file").exists()
    old = atomic.swap(a, b)
    assert old is not None and (old / "file").exists() and not (b / "file").exists()


def test_a_replacement_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = tmp_path / "7", Path.rename
    write_new(folder)
    before = tree(folder)
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)

    def refuse(path: Path, to: Path) -> Path:
        if to == folder and path.name.endswith(atomic.SWAP):
            raise OSError("no")
        return real(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        write_new(folder)
    assert tree(tmp_path) == {f"7/{name}": content for name, content in before.items()}


def test_what_a_process_that_lives_is_making_is_left_alone(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "7") as partial:
        (partial / "weights").write_text("new")
        mend(tmp_path)
        assert (partial / "weights").exists()
    assert tree(tmp_path / "7")["weights"] == "new"


def test_a_removal_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    folder, step = tmp_path / "7", 0
    while True:
        with replacing_folder(folder) as partial:
            for name in (RECIPE, "a", "inside/b"):
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_text("ours")
        killed = killed_at(step, lambda: take_away(folder, first=(RECIPE,)))
        if step > 0:
            assert not (folder / RECIPE).exists(), "it is no model any more"
        take_away(folder, first=(RECIPE,))
        assert not folder.exists()
        if not killed:
            break
        step += 1
    assert step >= 4


def test_a_name_is_known_for_ours_only_with_a_machine_and_a_process(tmp_path: Path) -> None:
    made = owner.temporary(tmp_path / "front.json")
    ended = made.with_name(made.name.replace(f"-{os.getpid()}-", "-4194305-"))
    for path in (tmp_path / ".x.123", tmp_path / ".front.json.4194305", made, ended):
        path.touch()
    assert [left.path for left in owner.leftovers(tmp_path)] == [ended]
    assert written.FILE not in tree(tmp_path)
