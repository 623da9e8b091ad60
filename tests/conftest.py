"""What tests share, made once a session: a tiny model, its data, and a finished search over them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import command
import counted
import pytest
import tiny

from objectives import campaign
from objectives.openmp_waiting import PASSIVE

# Before torch is imported: the threads of tests, and of the commands they start, sleep while they wait. Then one fork
# server is enough for a command, which saves it the seconds that importing torch takes.
os.environ.update(PASSIVE)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # where tests run in parallel, each worker has a CPU of its own
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[int(worker.removeprefix("gw")) % len(cpus)]})

# Temporary folders are in memory where there is room: databases of a search wait for a disk at every step.
MEMORY = "/dev/shm"
ROOM = 4e9  # bytes; the folders of all tests take under one


def _roomy(folder: str) -> bool:
    """Whether the tests' folders fit in here, and compiled code may be loaded from it."""
    if not os.path.isdir(folder):
        return False
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize > ROOM and not about.f_flag & os.ST_NOEXEC


if _roomy(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)

if counted.is_on():
    counted.count_in_workers()

STUDY = "tiny"

#: Groups that take long, real searches and compilations: begun first, so that the workers end together.
LONGEST = ("finished", "test_reuse", "test_crash", "test_objectives", "compiled", "test_gpu_run", "test_failures")

#: Files of one group, which one worker runs: they compile the same model, or import the compiler, once.
GROUPS = dict.fromkeys(("test_aot_inductor", "test_compiled", "test_runtimes"), "compiled")


#: Files that ask for the search `finished`, but for those that are long themselves.
SHARING = {
    path.stem
    for path in Path(__file__).parent.rglob("test_*.py")
    if "finished: Finished" in path.read_text() and path.stem not in LONGEST
}


def _group(path: str) -> str:
    """Tests of one group run in one worker: those of a file, those of `GROUPS`, and those that share `finished`."""
    stem = Path(path).stem
    return "finished" if stem in SHARING else GROUPS.get(stem, stem)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_group(str(item.path)), len(place)))


def pytest_collection_finish() -> None:
    """Garbage collections look only at what tests make: those that time a fake machine collect before each block."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid.partition("::")[0])

    return ByGroup(config, log)


@pytest.fixture(scope="session", autouse=True)
def _server_ends() -> Iterator[None]:
    """The server of commands ends with the tests, so that what was counted in it is whole then."""
    yield
    command.SERVER.end()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT of two layers."""
    return tiny.bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of train.csv, validation.jsonl and test.parquet."""
    return tiny.data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def config(tiny_bert: Path, tiny_data: Path) -> Path:
    """Configuration of a quick search over the tiny model."""
    return command.write_config(tiny_data / f"{STUDY}.yaml", model={"name": str(tiny_bert)})


@dataclass(frozen=True)
class State:
    """What a search had done at some moment."""

    entries: Mapping[str, int]  # stage cache entry -> when it was written, in nanoseconds
    outcomes: tuple[Any, ...]


@dataclass(frozen=True)
class Finished:
    """A search that was run with 4 trials, once more as it was, and then with 6."""

    folder: Path  # where the commands ran
    config: Path
    runs: tuple[command.Ended, ...]
    states: tuple[State, ...]  # after each of them

    @property
    def mlruns(self) -> Path:
        return self.folder / "mlruns"

    @property
    def exports(self) -> Path:
        return self.mlruns / "exports" / STUDY

    def models(self) -> list[Path]:
        """Exported model folders, by number."""
        return sorted((self.exports / "models").iterdir(), key=lambda folder: int(folder.name))


def state_of(mlruns: Path, study: str = STUDY) -> State:
    from search.propose.study import read_outcomes

    written = {str(p.parent.relative_to(mlruns)): p.stat().st_mtime_ns for p in mlruns.glob("cache/*/*/entry.json")}
    return State(written, tuple(read_outcomes(mlruns, study)[1]))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Finished:
    """One finished search, shared: do not change its files."""
    folder = tmp_path_factory.mktemp("finished")
    runs, states = [], []
    # The second is a real start, so that another process with another hash seed goes on with the first.
    in_sets = partial(command.search, sets=campaign.SETS)
    for trials, start in ((4, in_sets), (4, command.search_anew), (6, in_sets)):
        runs.append(start("run", config, "--trials", trials, cwd=folder).succeeded())
        states.append(state_of(folder / "mlruns"))
    return Finished(folder, config, tuple(runs), tuple(states))
