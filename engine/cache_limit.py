"""How a folder of cached files stays below its limit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path


def trim(files: Iterable[Path], limit_bytes: int, kept: Callable[[Path], bool]) -> int:
    """Remove the files unused for longest until the limit holds, but none that is `kept`.

    The time of last use is that of the file. Gives the bytes that remain.
    """
    entries = []
    for path in files:
        with contextlib.suppress(OSError):
            status = path.stat()
            entries.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit_bytes:
            break
        if not kept(path):
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
    return total
