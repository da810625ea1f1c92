"""Disks that are full, read-only or gone while a run writes: it waits and goes on, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import Any

import pytest

from engine.events import Event, StepDone, Waiting
from tests.faults.disk import Act, Disk, counting
from tests.faults.golden import Golden, lines_of
from tests.faults.table import Ledger

pytestmark = pytest.mark.slow

TIMES = 12
"""How many changes in a row fail."""


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
        lost += golden.differences(folder, deaths=0)


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_a_full_disk_in_a_save(
    quick: Golden, ledger: Ledger, instants: list[int], share: float
) -> None:
    waits(quick, ledger, "disk full in a save", instants[int(share * len(instants))], errno.ENOSPC)


@pytest.mark.parametrize("share", [0.4])
def test_a_disk_that_can_only_be_read(
    quick: Golden, ledger: Ledger, instants: list[int], share: float
) -> None:
    waits(quick, ledger, "folder read-only", instants[int(share * len(instants))], errno.EROFS)


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


def _is_waiting(line: object) -> bool:
    return isinstance(line, dict) and line["event"] == Waiting.name
