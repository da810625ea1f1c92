"""Opening files of strangers: what is no regular file is never opened, since a pipe would wait for ever."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; anything else raises OSError without being opened."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path.name!r} is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path.name!r} is not a regular file")
    # Between the look and the opening a pipe may have taken the name: do not wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path.name!r} is not a regular file")
    return os.fdopen(handle, "rb")
