"""What a run writes is known before it starts, by disk; a start without room is refused with both numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RecipeError
from engine.hardware import Hardware
from engine.plan import Facts, fill, gather, plan
from engine.planning.disk import Disk, DiskNeeds, check_disks, disk_at, disk_needs
from engine.settings import Recipe

HARDWARE = Hardware(gpus=(), cores=2, ram_total=2**34, ram_free=2**33)
MB = 1_000_000


def filled(**sections: dict[str, Any]) -> Recipe:
    return fill(Recipe.model_validate(sections), Facts(HARDWARE, drawn_seed=1)).recipe


def needs(cache: int = 0, **sections: dict[str, Any]) -> DiskNeeds:
    """Of a network of a million numbers and two megabytes, over two epochs of five steps."""
    recipe = filled(**sections)
    return disk_needs(
        recipe, (5, 5), file_bytes=2 * MB, parameters=MB, cache=cache, side=(512, 512)
    )


PLAIN: dict[str, dict[str, Any]] = {
    "optim": {"optimizer": "adamw"}, "sample": {"prompts": []}, "train": {"epochs": 2},
}  # fmt: skip


def more(section: str, **changes: Any) -> int:
    """Bytes that settings add to those of the plain run."""
    sections = {**PLAIN, section: {**PLAIN.get(section, {}), **changes}}
    return needs(**sections).run - needs(**PLAIN).run


def test_one_state_more_than_are_kept_has_room() -> None:
    assert more("save", keep_states=3) == 12 * MB, "weights and two moments in fp32"
    three_states_three_files = 3 * 12 * MB + 3 * 2 * MB
    assert three_states_three_files < needs(**PLAIN).run < three_states_three_files + 3 * MB


def test_states_are_those_of_the_optimizer_and_the_average() -> None:
    assert more("optim", optimizer="adamw8bit") < 0
    assert more("train", ema_decay=0.99) == 3 * 4 * MB


def test_files_follow_what_is_kept() -> None:
    assert more("save", every_epochs=0) == -2 * 2 * MB
    assert more("save", every_steps=2) == 5 * 2 * MB
    assert more("save", every_steps=2, keep_last=1) == -2 * MB


def test_pictures_have_their_size_and_several_have_a_strip() -> None:
    one = more("sample", prompts=["a"], at_start=True, every_epochs=1)
    assert one == int(4 * 512 * 512 * 1.6), "before, after each epoch, at the end"
    two = more("sample", prompts=["a", "b"], at_start=True, every_epochs=1, width=256, height=512)
    assert two == pytest.approx(2 * one, abs=2)


def test_logs_and_the_start_file_count(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes(bytes(5 * MB))
    recipe = filled(**PLAIN)
    network = recipe.network.model_copy(update={"weights": start})
    begun = recipe.model_copy(update={"network": network})
    given: dict[str, Any] = {"file_bytes": MB, "parameters": 1, "cache": 0, "side": (64, 64)}
    assert disk_needs(begun, (5,), **given).run - disk_needs(recipe, (5,), **given).run == 5 * MB
    assert more("run", csv=True) > 0


def test_the_copy_is_counted_where_it_goes(tmp_path: Path) -> None:
    assert needs(**PLAIN).copy == 0
    found = needs(cache=7, **PLAIN, save={"copy_to": str(tmp_path)})
    assert (found.copy, found.cache) == (2 * MB, 7)
    assert found.total == found.run + found.copy + found.cache


# Whether they fit ---------------------------------------------------------------------------

NEEDS = DiskNeeds(run=100 * MB, cache=40 * MB, copy=10 * MB)


def disks(**free: int | None) -> Callable[[Path], Disk | None]:
    """Disks by the first folder of a path; those without a name cannot be asked."""
    numbers = {name: number for number, name in enumerate(free)}

    def at(path: Path) -> Disk | None:
        name = path.parts[1]
        return Disk(numbers[name], free[name]) if name in free else None

    return at


def checked(
    at: Callable[[Path], Disk | None], cache: str = "/one/cache"
) -> tuple[list[str], list[str]]:
    recipe = filled(run={"folder": "/one/runs"}, save={"copy_to": "/two/loras"})
    problems, notices = check_disks(recipe, NEEDS, at, Path(cache))
    return [f"{each.path}: {each}" for each in problems], notices


def test_what_fits_is_not_mentioned() -> None:
    assert checked(disks(one=200 * MB, two=20 * MB)) == ([], [])


def test_what_shares_a_disk_is_added_up_and_refused_with_both_numbers() -> None:
    (problem,), notices = checked(disks(one=139 * MB, two=20 * MB))
    assert problem.startswith("run.folder: /one/runs: ")
    assert "about 140 MB for the run's files and the cache, and 139 MB are free" in problem
    assert "another disk" in problem
    assert notices == []


def test_where_it_is_tight_it_is_only_said() -> None:
    problems, (notice,) = checked(disks(one=141 * MB, two=20 * MB))
    assert problems == []
    assert "tight" in notice and "140 MB" in notice and "141 MB" in notice


def test_each_disk_is_looked_at_by_itself() -> None:
    (problem,), _ = checked(disks(one=200 * MB, two=9 * MB))
    assert problem.startswith("save.copy_to: /two/loras: ")
    (problem,), _ = checked(disks(one=99 * MB, two=20 * MB, three=MB * 100), cache="/three/c")
    assert "100 MB for the run's files, and 99 MB" in problem


def test_a_cache_without_room_on_a_disk_of_its_own_refuses_nothing() -> None:
    problems, (notice,) = checked(disks(one=200 * MB, two=20 * MB, three=MB), cache="/three/c")
    assert problems == []
    assert "made anew" in notice


def test_a_disk_that_tells_nothing_refuses_nothing() -> None:
    assert checked(disks(one=None)) == ([], [])


def test_what_lies_in_the_cache_already_needs_no_room(tmp_path: Path) -> None:
    folder = tmp_path / "latents" / "ab"
    folder.mkdir(parents=True)
    (folder / "entry.safetensors").write_bytes(bytes(30 * MB))
    number = tmp_path.parts[1]
    at = disks(**{"one": 200 * MB, "two": 20 * MB, number: 11 * MB})
    problems, (notice,) = checked(at, cache=str(tmp_path))
    assert problems == [] and "tight" in notice and "about 10 MB" in notice


def test_a_folder_that_is_not_there_yet_is_on_the_disk_it_would_be_made_on(tmp_path: Path) -> None:
    assert disk_at(tmp_path / "a" / "b") is not None
    there, would = disk_at(tmp_path), disk_at(tmp_path / "a" / "b")
    assert there is not None and would is not None and there.number == would.number


def test_a_plan_without_room_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"run": {"folder": str(tmp_path)}})
    facts = gather(recipe, hardware=HARDWARE)
    assert facts.disk_at is disk_at, "a real plan looks at real disks"
    small = Facts(HARDWARE, drawn_seed=1, disk_at=lambda path: Disk(1, 1000))
    with pytest.raises(RecipeError, match="There is no room on the disk"):
        plan(recipe, small).raise_errors()
    unknown = Facts(HARDWARE, drawn_seed=1)
    assert not any("room" in str(each) for each in plan(recipe, unknown).problems)
