"""Disks that are full, read-only or gone while a run writes: it waits and goes on, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.events import Event, StepDone, Waiting
from engine.session import create_run
from tests.faults.disk import Act, Disk, counting
from tests.faults.golden import Golden, lines_of
from tests.faults.table import Ledger
from tests.faults.victim import Victim

pytestmark = pytest.mark.slow

TIMES = 12
"""How many changes in a row fail."""
NEVER_WAITED = 71
"""Exit code of a child whose run met no full disk."""


def refusing(first: int, number: int) -> Act:
    """Refuse TIMES changes from `first` on with this error."""

    def act(kind: str, path: str, place: int) -> None:
        if first <= place < first + TIMES and kind not in ("unlink", "rmdir"):
            raise OSError(number, os.strerror(number), path)

    return act


def soon() -> None:
    """Look at the disk again soon."""
    import engine.patience

    engine.patience.POLL_SECONDS = 0.02


def saves(golden: Golden) -> list[int]:
    """Numbers of the changes of a run in which a state, a network file or the manifest is written."""
    folder, told = golden.new_run(), golden.root / "saves.json"
    disk = Disk(folder, act=counting)

    def watch(event: Event, control: Any) -> None:
        told.write_text(json.dumps(disk.changes))

    end = golden.job(folder, disk.plant, watch=watch).run()
    assert end.code == 0, end.said()
    words = ("/state/", ".safetensors", "manifest.json", ".lyctui-")
    changes = json.loads(told.read_text())
    return [
        number
        for number, (_, path) in enumerate(changes, start=1)
        if any(word in path for word in words) and "/samples/" not in path
    ]


@pytest.fixture(scope="module")
def instants(quick: Golden) -> list[int]:
    return saves(quick)


def waits(golden: Golden, ledger: Ledger, fault: str, first: int, number: int) -> None:
    """Refuse some changes; the run is to go on by itself once they are taken again."""
    folder = golden.new_run()
    disk = Disk(folder, act=refusing(first, number))

    def patch() -> None:
        soon()
        disk.plant()

    with ledger.fault(fault, f"change {first}") as lost:
        end = golden.job(folder, patch).run()
        assert end.code == 0, end.said()
        lost += golden.differences(folder, deaths=0, asked=True)


@pytest.mark.fault("disk full in a save")
@pytest.mark.parametrize("share", [0.7])
def test_a_full_disk_in_a_save(
    quick: Golden, ledger: Ledger, instants: list[int], share: float
) -> None:
    waits(quick, ledger, "disk full in a save", instants[int(share * len(instants))], errno.ENOSPC)


@pytest.mark.fault("folder read-only")
@pytest.mark.parametrize("share", [0.4])
def test_a_disk_that_can_only_be_read(
    quick: Golden, ledger: Ledger, instants: list[int], share: float
) -> None:
    waits(quick, ledger, "folder read-only", instants[int(share * len(instants))], errno.EROFS)


@pytest.mark.fault("disk full in a save", "folder read-only")
@pytest.mark.faults_long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(8))
def test_a_full_or_read_only_disk_at_every_change_of_a_save(
    quick: Golden, ledger: Ledger, instants: list[int], part: int
) -> None:
    for first in instants[part::8]:
        waits(quick, ledger, "disk full in a save", first, errno.ENOSPC)
    for first in instants[part::24]:
        waits(quick, ledger, "folder read-only", first, errno.EROFS)


@pytest.mark.fault("disk full in the cache")
@pytest.mark.parametrize(
    "first", [4, *(pytest.param(n, marks=pytest.mark.faults_long) for n in range(1, 30, 3))]
)
def test_a_full_disk_in_the_cache_costs_no_picture(
    quick: Golden, ledger: Ledger, first: int
) -> None:
    folder = quick.new_run()
    cache = quick.root / f"full-{folder.name}"
    disk = Disk(cache, act=refusing(first, errno.ENOSPC))
    with ledger.fault("disk full in the cache", f"change {first}") as lost:
        end = quick.job(folder, disk.plant, cache=cache).run()
        assert end.code == 0, end.said()
        lost += quick.differences(folder, deaths=0)


@pytest.mark.fault("folder gone")
def test_a_folder_that_is_away_for_a_while(quick: Golden, ledger: Ledger) -> None:
    folder = quick.new_run()
    away = folder.with_name(f"{folder.name}-away")

    def back() -> None:
        away.rename(folder)

    def watch(event: Event, control: Any) -> None:
        if isinstance(event, StepDone) and event.step == 1:
            folder.rename(away)
        elif isinstance(event, Waiting) and event.reason:
            threading.Timer(0.1, back).start()

    with ledger.fault("folder gone") as lost:
        end = quick.job(folder, soon, watch=watch).run()
        assert end.code == 0, end.said()
        lost += quick.differences(folder, deaths=0)
        waited = [line for line in lines_of(folder / "events.jsonl") if _is_waiting(line)]
        lost += [] if waited else ["the wait is not told"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with eight megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.fault("disk full in a save")
def test_a_disk_that_is_truly_full_for_a_while(
    quick: Golden, ledger: Ledger, small_disk: Path
) -> None:
    """Filled to the last byte after the first step; freed once the run says that it waits."""
    run = quick.recipe.run.model_copy(update={"folder": small_disk})
    folder = create_run(quick.recipe.model_copy(update={"run": run}))
    filler, waited = small_disk / "filler", threading.Event()

    def watch(event: Event, control: Any) -> None:
        if isinstance(event, StepDone) and event.step == 1:
            fill(filler)
        elif isinstance(event, Waiting) and event.reason and not waited.is_set():
            waited.set()
            threading.Timer(0.1, filler.unlink).start()

    log = quick.root / "tmpfs.log"
    with ledger.fault("disk full in a save", "a real one") as lost:
        job = quick.job(folder, soon, watch=watch)
        end = Victim(lambda: job.work() or (0 if waited.is_set() else NEVER_WAITED), log).wait()
        assert end.code == 0, end.said()
        lost += quick.differences(folder, deaths=0)


def fill(file: Path) -> None:
    """Write until nothing more is taken."""
    with file.open("wb", buffering=0) as open_file, contextlib.suppress(OSError):
        while open_file.write(bytes(4096)):
            pass


def _is_waiting(line: object) -> bool:
    return isinstance(line, dict) and line["event"] == Waiting.name
