"""A disk that takes nothing is told in words with numbers, waited for, and gone on with."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.room import (
    GaveUp,
    NoRoom,
    Trouble,
    free_bytes,
    megabytes,
    require_room,
    trouble_of,
    wait_for,
)


def disk(free: int, blocks: int = 1000, reserved: int = 0) -> Callable[[object], SimpleNamespace]:
    """What statvfs says of a disk, with what only its administrator may use."""
    facts = SimpleNamespace(
        f_blocks=blocks, f_frsize=4096, f_bavail=free // 4096, f_bfree=(free + reserved) // 4096
    )
    return lambda place: facts


def test_what_is_kept_for_the_administrator_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", disk(40 << 20, reserved=1 << 30))
    assert free_bytes(tmp_path / "not" / "there" / "yet") == 40 << 20


def test_a_file_that_fits_with_a_little_more_is_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", disk(40 << 20))
    require_room(tmp_path, 38 << 20)
    with pytest.raises(NoRoom) as refused:
        require_room(tmp_path, 40 << 20)
    assert refused.value.errno == errno.ENOSPC
    said = trouble_of(refused.value, tmp_path)
    assert "43 MB are needed, 42 MB are free" in said.reason
    assert str(tmp_path) in said.reason


def test_a_disk_that_tells_nothing_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", disk(0, blocks=0))
    assert free_bytes(tmp_path) is None
    require_room(tmp_path, 1 << 50)


WORDS = {
    errno.ENOSPC: ("is full", "Free some space"),
    errno.EDQUOT: ("share of the disk is used up", "Free some space"),
    errno.EROFS: ("can only be read", "writable"),
    errno.ENOENT: ("is not there", "Mount"),
    errno.ENOTDIR: ("is not there", "Mount"),
    errno.ESTALE: ("is not there", "Mount"),
    errno.EACCES: ("may not be written", "Allow"),
    errno.EIO: ("gives an error (Input/output error)", "See to the disk"),
}


@pytest.mark.parametrize("number", WORDS)
def test_every_trouble_has_words_and_a_remedy(number: int) -> None:
    said = trouble_of(OSError(number, os.strerror(number)), Path("/runs/small"))
    reason, remedy = WORDS[number]
    assert reason in said.reason and "/runs/small" in said.reason
    assert remedy in said.remedy and "goes on by itself" in said.remedy


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0.0 MB"), (1_234_567, "1.2 MB"), (34_000_000, "34 MB"), (2_500_000_000, "2.5 GB"),
     (12_345_000_000, "12 GB")],
)  # fmt: skip
def test_sizes_are_said_shortly(size: int, said: str) -> None:
    assert megabytes(size) == said


class Waited:
    """A thing that fails with these errors and then works; stops are asked for after `patience` tries."""

    def __init__(self, *errors: int, patience: int = 99) -> None:
        self._errors = list(errors)
        self._patience = patience
        self.told: list[str] = []

    def attempt(self) -> str:
        if self._errors:
            number = self._errors.pop(0)
            raise OSError(number, os.strerror(number))
        return "written"

    def tell(self, trouble: Trouble | None) -> None:
        self.told.append(trouble.reason if trouble is not None else "over")

    def hold(self) -> bool:
        self._patience -= 1
        return self._patience >= 0

    def go(self) -> str:
        return wait_for(
            self.attempt,
            explain=lambda error: trouble_of(error, Path("/r")),
            tell=self.tell,
            hold=self.hold,
        )


def test_what_works_at_once_says_nothing() -> None:
    waited = Waited()
    assert waited.go() == "written"
    assert waited.told == []


def test_a_wait_is_told_once_for_each_trouble_and_when_it_is_over() -> None:
    waited = Waited(errno.ENOSPC, errno.ENOSPC, errno.ENOSPC, errno.EROFS)
    assert waited.go() == "written"
    assert waited.told == ["The disk is full: /r.", "The disk can only be read: /r.", "over"]


def test_who_waits_may_leave() -> None:
    waited = Waited(*[errno.ENOSPC] * 50, patience=3)
    with pytest.raises(GaveUp) as left:
        waited.go()
    assert left.value.trouble.kind == errno.ENOSPC
    assert waited.told == ["The disk is full: /r.", "over"]


def test_memory_is_no_matter_of_disks() -> None:
    waited = Waited(errno.ENOMEM)
    with pytest.raises(OSError, match="memory"):
        waited.go()
    assert waited.told == []
