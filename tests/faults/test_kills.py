"""A run killed at any instant and resumed leaves what one leaves that was not."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from engine.events import Event
from engine.session import stored_recipe
from tests.faults import points
from tests.faults.disk import Disk, counting, dying_at
from tests.faults.golden import Golden
from tests.faults.points import Point
from tests.faults.recipes import BATCHES, STEPS, measured
from tests.faults.table import Ledger
from tests.faults.victim import Victim, die

pytestmark = pytest.mark.slow

PARTS = 16
"""Tests that the long enumerations are cut into."""


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    root = tmp_path_factory.mktemp("looked")
    return Golden(measured(root), root, keep_base=True)


# In a step, a picture, a resume -----------------------------------------------------------

SOME_STEPS = [points.in_backward(4)]


def dies_and_goes_on(golden: Golden, ledger: Ledger, fault: str, point: Point) -> None:
    """Kill a run at `point`, resume it and compare."""
    folder = golden.new_run()
    with ledger.fault(fault, point) as lost:
        end = golden.job(folder, point.plant).run()
        assert end.killed, end.said()
        golden.resumed(folder)
        lost += golden.differences(folder)


@pytest.mark.fault("killed in a step")
@pytest.mark.parametrize("point", SOME_STEPS, ids=str)
def test_killed_in_a_step(quick: Golden, ledger: Ledger, point: Point) -> None:
    dies_and_goes_on(quick, ledger, "killed in a step", point)


@pytest.mark.fault("killed in a step")
@pytest.mark.faults_long
@pytest.mark.parametrize("point", list(points.every_step_point(STEPS, BATCHES)), ids=str)
def test_killed_at_every_instant_of_every_step(
    golden: Golden, ledger: Ledger, point: Point
) -> None:
    dies_and_goes_on(golden, ledger, "killed in a step", point)


@pytest.mark.fault("killed in a picture or a measurement")
@pytest.mark.parametrize("point", [points.decoding(1)], ids=str)
def test_killed_while_a_picture_is_made(quick: Golden, ledger: Ledger, point: Point) -> None:
    dies_and_goes_on(quick, ledger, "killed in a picture or a measurement", point)


@pytest.mark.fault("killed in a picture or a measurement")
@pytest.mark.faults_long
@pytest.mark.parametrize("nth", range(1, 7))
def test_killed_in_every_pass_of_a_picture(golden: Golden, ledger: Ledger, nth: int) -> None:
    dies_and_goes_on(golden, ledger, "killed in a picture or a measurement", points.picture(nth))


@pytest.mark.fault("killed in a picture or a measurement")
@pytest.mark.faults_long
@pytest.mark.parametrize("nth", range(1, 11))
def test_killed_in_a_measurement(looked: Golden, ledger: Ledger, nth: int) -> None:
    dies_and_goes_on(looked, ledger, "killed in a picture or a measurement", points.picture(nth))


def resumed_twice(golden: Golden, ledger: Ledger, point: Point) -> None:
    """Kill a run, kill its resume at `point`, resume that and compare."""
    folder = golden.new_run()
    with ledger.fault("killed in a resume", point) as lost:
        first = golden.job(folder, points.forward(7).plant).run()
        # Read from its file: what is loaded is a part of it.
        again = golden.job(folder, point.plant, resume=True, base=None).run()
        assert first.killed and again.killed, first.said() + again.said()
        golden.resumed(folder)
        lost += golden.differences(folder, deaths=2)


RESUMES = [
    points.loading(),
    points.reading_state(1),
    points.reading_state(4),
    points.restoring(after=False),
    points.restoring(after=True),
    points.forward(1),
    points.update(1, after=True),
]


@pytest.mark.fault("killed in a resume")
@pytest.mark.parametrize("point", [points.restoring(after=True)], ids=str)
def test_killed_in_a_resume_and_resumed_again(quick: Golden, ledger: Ledger, point: Point) -> None:
    resumed_twice(quick, ledger, point)


@pytest.mark.fault("killed in a resume")
@pytest.mark.faults_long
@pytest.mark.parametrize("point", RESUMES, ids=str)
def test_killed_anywhere_in_a_resume(golden: Golden, ledger: Ledger, point: Point) -> None:
    resumed_twice(golden, ledger, point)


@pytest.mark.fault("other loader workers")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0, 3),
        pytest.param(3, 0, marks=pytest.mark.faults_long),
        pytest.param(1, 3, marks=pytest.mark.faults_long),
        pytest.param(3, 1, marks=pytest.mark.faults_long),
    ],
)
def test_resumed_with_another_number_of_loader_workers(
    quick: Golden, ledger: Ledger, before: int, after: int
) -> None:
    folder = quick.new_run()
    with ledger.fault("other loader workers", f"{before}, then {after}") as lost:
        changes = (f"data.workers={before}",)
        end = quick.job(folder, points.in_backward(7).plant, changes=changes).run()
        assert end.killed, end.said()
        quick.resumed(folder, changes=(f"data.workers={after}",))
        lost += quick.differences(folder)


# At random instants -----------------------------------------------------------------------


def killed_after(golden: Golden, folder: Path, seconds: float, *, resume: bool) -> bool:
    """Kill a run from outside after `seconds`; whether it was still running then."""
    victim = golden.job(folder, resume=resume).begin()
    time.sleep(seconds)
    victim.send()
    return victim.wait().killed


RANDOM = {"killed at a random instant": 1, "killed and resumed twice": 2}
"""How often a run dies."""


def at_random(golden: Golden, ledger: Ledger, fault: str, seed: int) -> None:
    """Kill a run at a drawn instant, its resume at another where it is to die twice, and resume that."""
    rng = random.Random(f"{fault} {seed}")
    folder, deaths = golden.new_run(), RANDOM[fault]
    with ledger.fault(fault, f"seed {seed}") as lost:
        for attempt in range(deaths):
            seconds = rng.uniform(0.05, 0.95) * golden.seconds
            if not killed_after(golden, folder, seconds, resume=attempt > 0):
                break  # It was faster than the golden run.
        else:
            golden.resumed(folder)
        lost += golden.differences(folder, deaths=deaths)


@pytest.mark.parametrize("fault", RANDOM)
def test_killed_at_a_random_instant(quick: Golden, ledger: Ledger, fault: str) -> None:
    at_random(quick, ledger, fault, 11)


@pytest.mark.faults_long
@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.parametrize("fault", RANDOM)
def test_killed_at_many_random_instants(
    golden: Golden, ledger: Ledger, fault: str, seed: int
) -> None:
    at_random(golden, ledger, fault, seed)


# At changes to the disk -------------------------------------------------------------------


def counted(golden: Golden) -> list[tuple[str, str]]:
    """Every change to the disk of a run that finds no cache: kind and path."""
    folder, cache = golden.new_run(), golden.root / f"counted-{time.monotonic_ns()}"
    told = golden.root / "changes.json"
    disk = Disk(folder, cache, act=counting)

    def watch(event: Event, control: Any) -> None:
        told.write_text(json.dumps(disk.changes))

    end = golden.job(folder, disk.plant, cache=cache, watch=watch).run()
    assert end.code == 0, end.said()
    return [(kind, path) for kind, path in json.loads(told.read_text())]


@pytest.fixture(scope="module")
def changes(golden: Golden) -> list[tuple[str, str]]:
    return counted(golden)


@pytest.fixture(scope="module")
def quick_changes(quick: Golden) -> list[tuple[str, str]]:
    return counted(quick)


DISK_FAULTS = (
    "killed in a cache write",
    "killed in an event",
    "killed in a save",
    "killed in another file",
)
CHANGES = pytest.mark.fault(*DISK_FAULTS)


def fault_of(path: str) -> str:
    """The row of the table that a change to this file belongs to."""
    parts = Path(path).parts
    if any(part.startswith(("cold", "counted")) for part in parts):
        return "killed in a cache write"
    if parts[-1] == "events.jsonl":
        return "killed in an event"
    if "state" in parts or ".safetensors" in parts[-1] or "manifest.json" in parts[-1]:
        return "killed in a save"
    return "killed in another file"


Instant = tuple[int, bool, str]
"""Number of a change, whether it is torn in half, and its fault."""


def instants(changes: list[tuple[str, str]]) -> list[Instant]:
    """Instants with different states of the disk: of a row of writes to one file the first and the last."""
    found: list[Instant] = []
    for number, change in enumerate(changes, start=1):
        before, after = changes[number - 2 : number - 1], changes[number : number + 1]
        if [change] == before and [change] == after:
            continue
        found.append((number, False, fault_of(change[1])))
        if change[0] == "write":
            found.append((number, True, fault_of(change[1])))
    return found


def dies_in_a_change(golden: Golden, ledger: Ledger, instant: Instant) -> None:
    """Kill a run that finds no cache at a change to the disk, resume it and compare."""
    number, torn, fault = instant
    folder = golden.new_run()
    cache = golden.root / f"cold-{folder.name}"
    act = counting if torn else dying_at(number)
    disk = Disk(folder, cache, act=act, tear=number if torn else 0)
    with ledger.fault(fault, f"change {number}{' torn' if torn else ''}") as lost:
        end = golden.job(folder, disk.plant, cache=cache).run()
        assert end.killed, end.said()
        resumed = golden.job(folder, resume=True, cache=cache).run()
        assert resumed.code == 0, resumed.said()
        lost += golden.differences(folder)
        lost += [f"left behind in the cache: {path.name}" for path in young(cache)]


def power_fails(golden: Golden, ledger: Ledger, number: int) -> None:
    """Kill a run at a change to the disk, and cut off what was not synced."""
    folder = golden.new_run()
    disk = Disk(folder, act=counting)

    def act(kind: str, path: str, place: int) -> None:
        if place == number:
            disk.cut_unsynced()
            die()

    disk.act = act
    with ledger.fault("power cut in a save", f"change {number}") as lost:
        end = golden.job(folder, disk.plant).run()
        assert end.killed, end.said()
        golden.resumed(folder)
        lost += golden.differences(folder)


def saving(changes: list[tuple[str, str]]) -> list[int]:
    """Numbers of the changes in saves, counted without those of the cache."""
    kept = [change for change in changes if fault_of(change[1]) != "killed in a cache write"]
    return [number for number, _, fault in instants(kept) if fault == "killed in a save"]


@pytest.mark.fault("power cut in a save")
def test_the_power_fails_in_a_save(
    quick: Golden, ledger: Ledger, quick_changes: list[tuple[str, str]]
) -> None:
    numbers = saving(quick_changes)
    power_fails(quick, ledger, numbers[-4])


@pytest.mark.fault("power cut in a save")
@pytest.mark.faults_long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_power_fails_at_every_change_of_a_save(
    golden: Golden, ledger: Ledger, changes: list[tuple[str, str]], part: int
) -> None:
    for number in sorted(set(saving(changes)))[part::PARTS]:
        power_fails(golden, ledger, number)


def young(cache: Path) -> list[Path]:
    """Temporary files of a cache that nobody will remove: none, since old ones are removed in time."""
    return [path for path in cache.rglob("*.tmp") if path.is_file()]


def picked(changes: list[tuple[str, str]], wanted: dict[str, int]) -> list[Instant]:
    """Some instants of each fault, spread over the run, the same ones every time."""
    every, found = instants(changes), []
    for fault, count in wanted.items():
        own = [each for each in every if each[2] == fault]
        found += random.Random(5).sample(own, min(count, len(own)))
    return found


@CHANGES
def test_killed_at_some_changes_to_the_disk(
    quick: Golden, ledger: Ledger, quick_changes: list[tuple[str, str]]
) -> None:
    for instant in picked(quick_changes, dict.fromkeys(DISK_FAULTS, 1)):
        dies_in_a_change(quick, ledger, instant)


@CHANGES
@pytest.mark.faults_long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_every_change_to_the_disk(
    golden: Golden, ledger: Ledger, changes: list[tuple[str, str]], part: int
) -> None:
    for instant in instants(changes)[part::PARTS]:
        dies_in_a_change(golden, ledger, instant)


# While a recipe is changed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(quick: Golden) -> Path:
    """A run that died in its last step."""
    folder = quick.new_run()
    end = quick.job(folder, points.in_backward(8).plant).run()
    assert end.killed, end.said()
    return folder


@pytest.mark.fault("killed in a change of the recipe")
def test_killed_while_a_resume_changes_the_recipe(
    quick: Golden, ledger: Ledger, killed: Path, tmp_path: Path
) -> None:
    """At every change to the disk: the recipe is the old or the new one, and never half of one."""
    changed = ("data.workers=1",)
    for number in range(1, 40):
        ignored = shutil.ignore_patterns("control.sock")
        root = tmp_path / str(number)
        folder = Path(shutil.copytree(killed, root / killed.name, ignore=ignored))
        act, tear = (dying_at(number // 2), 0) if number % 2 == 0 else (counting, (number + 1) // 2)
        disk = Disk(folder, act=act, tear=tear, thread="MainThread")

        def change(disk: Disk = disk, folder: Path = folder) -> int:
            disk.plant()
            stored_recipe(folder, changed)
            return len(disk.changes)

        end = Victim(change, root / "log").wait()
        if not end.killed and number // 2 >= end.code:
            break
        if not end.killed:
            continue  # What was to be torn is no write.
        with ledger.fault("killed in a change of the recipe", f"change {number // 2}") as lost:
            lost += [] if stored_recipe(folder).data.workers in (0, 1) else ["workers"]
            stored_recipe(folder, changed)
            torn = folder
    else:
        pytest.fail("a change of the recipe has no end")
    assert number > 8
    quick.resumed(torn)
    assert quick.differences(torn) == []
