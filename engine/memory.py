"""Memory going short: telling that it did, giving back what is not needed, and how much the host has."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from engine.errors import OutOfMemory, Problem

Result = TypeVar("Result")

WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "status_alloc_failed",
)
"""What libraries say in a plain RuntimeError: torch's allocator on the CPU, CUDA, cuDNN and cuBLAS."""

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the host had no memory left.

    engine.errors.OutOfMemory is none of them: it is what follows once nothing helped, in words.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(word in text for word in WORDS)


def free_memory(device: torch.device | None = None) -> None:
    """Give back what nobody uses any more, on this device or wherever torch holds some.

    To be called outside the error's handler: its traceback holds what the failed attempt had made.
    """
    gc.collect()
    if device is None or device.type == "cuda":
        torch.cuda.empty_cache()  # Nothing happens where CUDA was never used.


def tried_again(work: Callable[[], Result], make_room: Callable[[], None] | None = None) -> Result:
    """What `work` gives; once more, after `make_room`, where it ran out of memory the first time.

    The second error is raised as it is. `work` has to begin anew each time.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Memory in pieces too small to use is whole again once nothing of the first attempt is held.
    if make_room is not None:
        make_room()
    free_memory()
    return work()


def in_words(work: Callable[[], Result], problem: Problem) -> Result:
    """What `work` gives; OutOfMemory with `problem` where it ran out of memory.

    That error does not refer to the first one, whose traceback would keep the memory in use.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # As text: whoever keeps the record would keep the traceback.
        logging.getLogger("engine").warning("%s", str(error))
    free_memory()
    raise OutOfMemory(problem)


def available_host_bytes() -> int:
    """Bytes that this process may still take without swapping, a container's limit included."""
    free: int = psutil.virtual_memory().available
    return min([free, *(max(0, left) for left in _left_in_groups())])


def _left_in_groups() -> Iterator[int]:
    """What each control group of this process has left, version 1 or 2; those above it count too."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in MEMBERSHIP.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" and not controllers:
                root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                root = CGROUPS / "memory"
            else:
                continue
            own = root / path.strip("/")
            # In a container the path may be the host's: then the root stands for its own group.
            for folder in (own, *own.parents):
                if folder.is_relative_to(root):
                    with contextlib.suppress(OSError, ValueError):
                        yield _left_in(folder, *names)


def _left_in(folder: Path, limit: str, used: str, reclaimable: str) -> int:
    """Raises OSError or ValueError where the group has no limit."""
    most, now = int((folder / limit).read_text()), int((folder / used).read_text())
    cached = 0
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == reclaimable:
                cached = int(value)
    # Pages of files that were not used lately are given up before anything fails.
    return most - now + cached
