"""A ceiling for memory and time, so that a test of a bomb fails instead of taking the machine."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MIB = 1 << 20


class TooLong(BaseException):
    """Not an Exception, so that nothing that is tested can swallow it."""


def _rings(_: int, __: FrameType | None) -> None:
    raise TooLong("it did not come back")


@contextmanager
def bounded(mib: int = 1024, seconds: int = 30) -> Iterator[None]:
    """Inside, at most `mib` more of address space and `seconds` are to be had."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    used = pages * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, _rings)
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * MIB, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
