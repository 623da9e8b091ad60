"""A kill at any moment of a replacement or a removal leaves a whole folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.deliver import written_files
from search.deliver.export import RECIPE
from search.deliver.written_files import WRITTEN_JSON, mend, replacing_folder, take_away
from search.store import atomic, owner

from .test_written_files import tree

Cut = Callable[[], Iterator[None]]


def steps(monkeypatch: pytest.MonkeyPatch, die_at: int) -> None:
    """Ends this process without a word, as a kill does, before its change number `die_at` to names."""
    count = [0]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **named: object) -> object:
            if count[0] == die_at:
                os._exit(9)
            count[0] += 1
            return real(*arguments, **named)

        return step

    for name in ("rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(atomic, "exchange_names", counted(atomic.exchange_names))


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
        monkeypatch.setattr(atomic, "exchange_names", lambda a, b: False)
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
        assert content.pop(WRITTEN_JSON) and content.pop("notes.txt") == "mine"
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
    assert atomic.exchange_names(a, b) and (b / "file").exists()
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    assert not atomic.exchange_names(a, b) and (b / "file").exists()
    old = atomic.swap(a, b)
    assert old is not None and (old / "file").exists() and not (b / "file").exists()


def test_a_replacement_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = tmp_path / "7", Path.rename
    write_new(folder)
    before = tree(folder)
    monkeypatch.setattr(atomic, "exchange_names", lambda a, b: False)

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
    temporary = owner.temporary(tmp_path / "front.json")
    ended = temporary.with_name(temporary.name.replace(f"-{os.getpid()}-", "-4194305-"))
    for path in (tmp_path / ".x.123", tmp_path / ".front.json.4194305", temporary, ended):
        path.touch()
    assert [left.path for left in owner.leftovers(tmp_path)] == [ended]
    assert written_files.WRITTEN_JSON not in tree(tmp_path)
