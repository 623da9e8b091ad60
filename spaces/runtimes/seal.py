"""Seals of compiled code in a model folder, which is run only if this user compiled it here.

Weights and graphs are data. A shared library or a GPU engine is a program, and opening one runs whatever is in it, as
opening a pickle would. A model folder may come from anywhere, so compiled code in it carries a seal: an HMAC (RFC 2104)
under a key that never leaves this user's cache folder. Code without a valid seal is not opened but compiled again.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets
from pathlib import Path

KEY_BYTES = 32  # bytes of the key


def seal(path: Path, made_for: str) -> None:
    """Write the seal of `path`, valid for the conditions `made_for`, beside it."""
    partial = path.with_name(f".{path.name}.seal.{secrets.token_hex(8)}")
    partial.write_text(_mark(path, made_for))
    partial.replace(seal_path(path))


def sealed(path: Path, made_for: str) -> bool:
    """Whether this user made `path`, for these conditions, and nobody changed it since."""
    try:
        return hmac.compare_digest(seal_path(path).read_bytes(), _mark(path, made_for).encode())
    except FileNotFoundError:
        return False


def private_name(purpose: str) -> str:
    """16 hex digits that only this user can compute, so that a file of this name was made by this user."""
    return hmac.new(_key(), purpose.encode(), hashlib.sha256).hexdigest()[:16]


def private_folder(purpose: str) -> Path:
    """A folder in this user's cache for `purpose`, created where it does not exist."""
    folder = _cache() / private_name(purpose)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def seal_path(path: Path) -> Path:
    """The path of the seal of `path`. Copies of both files stay valid."""
    return path.with_name(f"{path.name}.seal")


def _mark(path: Path, made_for: str) -> str:
    mark = hmac.new(_key(), made_for.encode() + b"\0", hashlib.sha256)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            mark.update(block)
    return mark.hexdigest()


def _cache() -> Path:
    """This user's own cache folder; one that cannot be made where the user, as in some containers, has no home."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache if os.path.isabs(cache) else os.devnull, "transformer-compression-search")


def _key() -> bytes:
    return key_in(_cache())


@functools.cache
def key_in(folder: Path) -> bytes:
    """The key in `folder`, made at the first call; where nothing can be kept, one that ends with the process.

    It is read once in a process: `key_in.cache_clear()` lets the next call read it again.
    """
    path = folder / "seal.key"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = folder / f".seal.key.{secrets.token_hex(8)}"
            partial.touch(mode=0o600)
            partial.write_bytes(secrets.token_bytes(KEY_BYTES))
            try:
                os.link(partial, path)  # unlike a rename, it leaves the key of a process that was faster
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        key = path.read_bytes()
    except OSError:
        key = b""
    return key if len(key) == KEY_BYTES else secrets.token_bytes(KEY_BYTES)
