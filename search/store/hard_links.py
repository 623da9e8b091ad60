"""Hard links between equal files of a results folder, so that their bytes are on disk once.

Weights and graphs are written once, into the store. The files of an export, and of the MLflow model of it, are hard
links to them where the file system has such links, and copies elsewhere. A file with several links is never written to:
what takes its place is a new file of its name, renamed to it, which leaves the other links as they are.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

#: Suffixes of the files that are linked: weights and graphs. They are large, and no text that a user may edit.
LINKED = (".safetensors", ".onnx")


def link_or_copy(file: Path, link: Path) -> None:
    """Make `link`, a name that must be free, a hard link to `file`, or a copy where no link can be made.

    Raises:
        FileExistsError: there is something at `link`; it stays as it is.
    """
    try:
        os.link(os.path.realpath(file), link)  # to the file itself where the store has a symbolic link
    except FileExistsError:
        raise
    except OSError:  # another file system, one without links, another user's file, or too many links
        link.touch(exist_ok=False)
        shutil.copyfile(file, link)


def disk_bytes(folder: Path) -> int:
    """Bytes that the files in `folder` take on disk; one with several links in it counts once."""
    taken: dict[tuple[int, int], int] = {}
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process removed it
                about = os.lstat(os.path.join(above, name))
                taken[about.st_dev, about.st_ino] = 512 * about.st_blocks
    return sum(taken.values())
