"""Weights and graphs of an export are hard links to those of the store: their bytes are on disk once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from search.deliver.export import export_model
from search.deliver.finalists import weights_here
from search.deliver.read_exported import read_exported
from search.errors import UserError
from search.front.front import Front
from search.front.study_record import StudyRecord
from search.report.store_lines import cache_lines, disk_line, removed_line
from search.store.hard_links import disk_bytes, link_or_copy
from search.store.paths import inside
from search.store.store import Store, digest_in

from . import factory

SIZE = 100_000
LARGE = ("model.safetensors", "onnx/fp32.onnx")
LONG_AGO = (1e9, 1e9)


def filling(content: bytes) -> Callable[[Path], None]:
    """Fills an entry with weights, a graph of them, and texts."""

    def fill(folder: Path) -> None:
        (folder / "onnx").mkdir()
        for name in LARGE:
            (folder / name).write_bytes(content * SIZE)
        (folder / "config.json").write_text(factory.MODEL_CONFIG)
        (folder / "tokenizer.json").write_text("{}")

    return fill


@dataclass(frozen=True)
class StoredModel:
    """A results folder with one model in its store, and the study of that model."""

    results: Path
    store: Store
    entry: Path
    front: Front
    study: StudyRecord

    @property
    def exports(self) -> Path:
        return self.results / "exports" / "movie-reviews"

    def exported(self, to: Path | None = None) -> Path:
        """The folder of the exported model: in the results folder, or `to`."""
        target = to or self.exports / "models" / "0"
        export_model(self.front, self.study, self.front.outcomes[0], target)
        return target


@pytest.fixture
def stored(tmp_path: Path) -> StoredModel:
    results = tmp_path / "mlruns"
    store = Store(results / "cache")
    entry, _ = store.make("weights", {"number": 0}, filling(b"w"))
    store.release()
    os.utime(entry, LONG_AGO)
    outcome = factory.outcome(0, candidate=factory.recipe(runtime="onnx"), folder=inside(results, entry))
    front = Front(factory.TARGETS, (outcome,))
    study = replace(factory.study(front), config={**factory.CONFIG, "mlruns": str(results)})
    return StoredModel(results, store, entry, front, study)


def refusing(code: int) -> Callable[..., None]:
    """Stands in for `os.link` on a file system that refuses."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refused


def test_weights_and_graphs_of_an_export_are_those_of_the_store(stored: StoredModel) -> None:
    before = disk_bytes(stored.results)
    folder = stored.exported()
    for name in LARGE:
        assert os.path.samefile(folder / name, stored.entry / name)
    for name in ("config.json", "tokenizer.json"):  # a user may edit them
        assert not os.path.samefile(folder / name, stored.entry / name)
    assert disk_bytes(stored.results) - before < SIZE, "only texts were added"
    assert 2 * SIZE <= disk_bytes(stored.exports) < disk_bytes(stored.results) < 3 * SIZE
    assert read_exported(folder).files.keys() >= set(LARGE)
    assert stored.store.find("weights", {"number": 0}) == stored.entry, "it is whole"


def test_an_export_to_a_folder_of_the_users_own_is_a_copy(stored: StoredModel, tmp_path: Path) -> None:
    for to in (tmp_path / "mine", stored.results / ".." / "mine too"):
        folder = stored.exported(to)
        for name in LARGE:
            assert not os.path.samefile(folder / name, stored.entry / name)
            assert (folder / name).read_bytes() == (stored.entry / name).read_bytes()


def test_an_export_to_another_place_in_the_results_folder_is_a_copy(stored: StoredModel) -> None:
    """Its user may change it, as any folder of `--to`; with `--mlruns .` every folder is in the results folder."""
    folder = stored.exported(stored.results / "mine")
    assert not any(os.path.samefile(folder / name, stored.entry / name) for name in LARGE)


def test_weights_that_were_written_into_are_not_exported_again(stored: StoredModel, tmp_path: Path) -> None:
    [outcome] = stored.front.outcomes
    measured = replace(outcome, weights_sha256=digest_in(stored.entry, LARGE[0]))
    stored = replace(stored, front=stored.front.replacing({outcome.number: measured}))
    assert weights_here(stored.results, measured) == measured.weights_sha256
    folder = stored.exported()
    with (folder / LARGE[0]).open("r+b") as file:  # as who trains the model further, and saves it in its place
        file.write(b"other")
    with pytest.raises(UserError, match=r"trial 0: its weights in .* must be those that were measured, .*`run`"):
        stored.exported(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert weights_here(stored.results, measured) == "", "a run builds them again, also for a member that is late"
    stored.store.release()


def test_weights_of_a_member_that_is_late_stay_until_its_export(stored: StoredModel) -> None:
    """Those of another finalist may be built meanwhile, for which the store makes room."""
    assert weights_here(stored.results, stored.front.outcomes[0]) == digest_in(stored.entry, LARGE[0])
    assert stored.store.prune(0) == []
    stored.store.release()
    os.utime(stored.entry, LONG_AGO)
    assert [entry.folder for entry in stored.store.prune(0)] == [stored.entry]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_links_are_refused_an_export_is_a_copy(
    stored: StoredModel, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", refusing(code))
    folder = stored.exported()
    for name in LARGE:
        assert not os.path.samefile(folder / name, stored.entry / name)
    assert read_exported(folder).files.keys() >= set(LARGE)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_what_is_there_is_never_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refusing(errno.EXDEV))
    file, there = tmp_path / "file", tmp_path / "there"
    file.write_text("new")
    there.write_text("old")
    with pytest.raises(FileExistsError):
        link_or_copy(file, there)
    assert there.read_text() == "old"


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    file, symbolic, link = (tmp_path / name for name in ("file", "symbolic", "link"))
    file.write_text("content")
    symbolic.symlink_to("file")
    link_or_copy(symbolic, link)
    assert not link.is_symlink() and os.path.samefile(link, file)


def test_weights_that_are_made_again_replace_a_link_and_write_into_none(stored: StoredModel, tmp_path: Path) -> None:
    folder = stored.exported()
    os.link(folder / "model.safetensors", tmp_path / "held")
    shutil.rmtree(stored.entry)
    stored.store.make("weights", {"number": 0}, filling(b"v"))
    assert stored.exported() == folder
    assert (folder / "model.safetensors").read_bytes() == b"v" * SIZE
    assert (tmp_path / "held").read_bytes() == b"w" * SIZE


def test_an_export_outlives_the_cache(stored: StoredModel) -> None:
    folder = stored.exported()
    shutil.rmtree(stored.store.root)
    assert read_exported(folder).number == 0


def test_a_limit_counts_what_only_the_store_holds_and_leaves_what_is_exported(stored: StoredModel) -> None:
    other, _ = stored.store.make("weights", {"number": 1}, filling(b"x"))
    stored.store.release()
    os.utime(other, LONG_AGO)
    folder = stored.exported()
    assert stored.store.prune(3 * SIZE) == [], "an entry, and the texts of another"
    removed = stored.store.prune(0)
    assert [entry.folder for entry in removed] == [other] and stored.entry.is_dir()
    assert removed[0].freed == removed[0].bytes > 2 * SIZE
    shutil.rmtree(folder)
    assert [entry.folder for entry in stored.store.prune(0)] == [stored.entry]


def test_lines_say_what_the_disk_holds_and_what_can_be_freed(
    stored: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(cache_lines(stored.store))) == 2
    for name in LARGE:  # large enough to be seen in GB, and empty
        os.truncate(stored.entry / name, 50_000_000)
    assert removed_line(stored.store.entries()) == "removed 1 entries, 0.10 GB"
    freeing = "of which python -m search cache --max-gb 0 --mlruns"
    assert f"{freeing} {stored.results} frees 0.10 GB" in disk_line(stored.results, stored.exports)
    stored.exported()
    assert removed_line(stored.store.entries()) == "removed 1 entries, 0.00 GB", "the export has it still"
    *_, total, links = cache_lines(stored.store)
    assert "0.10 GB" in total and links.startswith("hard links to exports") and "0.10 GB" in links
    monkeypatch.chdir(stored.results.parent)
    assert "of which python -m search cache --max-gb 0 frees 0.00 GB" in disk_line(stored.results, stored.exports)
