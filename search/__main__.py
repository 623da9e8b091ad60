"""`python -m search`, which pip installs as `transformer-compression-search` too."""

import atexit
import io
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from search.cli.main import main


def leave(status: int) -> NoReturn:
    """End this process with `status`: exit handlers run, destructors of C++ libraries do not.

    A library's thread that is still there at the interpreter's own end calls std::terminate now and then, and the
    status would be that of an abort, whatever the command said.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient Ctrl-C would leave processes behind, and a traceback
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def open_streams() -> None:
    """Make standard streams that any text can be printed to.

    A stream that was closed (`>&-`) leads nowhere. A character that the encoding of the terminal does not have is
    escaped, as on stderr: a label must not end a search that was started under another locale.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - open as long as the process
            os.set_inheritable(nowhere.fileno(), True)
            setattr(sys, name, nowhere)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def program() -> NoReturn:
    """The whole program, as `python -m search` and the installed command run it."""
    open_streams()
    try:
        status = main()
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        status = ended.code
    except KeyboardInterrupt:  # another one, while the first was told
        status = 1
    leave(status)


if __name__ == "__main__":
    program()
