"""A PostgreSQL server of its own for the tests that need one, on a socket in a temporary folder."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, the newest version's where there are several."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]))
    return Path(folders[-1]) if folders else None


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database."""
    binaries = programs()
    assert binaries is not None
    # A short path: a socket's may have 107 bytes. The server refuses to run as root, so it runs as its own user then.
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as temporary:
        folder = Path(temporary)
        as_user: list[str] = []
        if os.geteuid() == 0:
            as_user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        data = folder / "data"

        def run(*command: str) -> None:
            subprocess.run([*as_user, *command], check=True, capture_output=True, cwd=folder, timeout=60)

        run(str(binaries / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://tester@/postgres?host={folder}"
        finally:
            run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
