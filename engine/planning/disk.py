"""Room on disks: what a run writes, to which of them, and whether they take it. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.errors import Problem, RecipeError
from engine.prompt_files import all_prompts
from engine.room import free_bytes, megabytes, nearest_existing
from engine.runs import default_cache_folder, default_runs_folder
from engine.settings import Recipe
from engine.settings.optimizers import OPTIMIZERS

FP32_BYTES = 4
PICTURE_BYTES_PER_PIXEL = 1.6
"""A PNG of a sample, roughly."""
STEP_BYTES = 400
"""A step's line in events.jsonl."""
TABLE_BYTES = 200
"""A step's line in steps.csv or TensorBoard's file."""
RUN_BYTES = 2_000_000
"""Recipe, lists, log and metadata of a run."""
TIGHT = 0.9
"""Share of what is free from which on it is said."""


@dataclass(frozen=True, slots=True)
class DiskNeeds:
    """Bytes at their most, by where they go."""

    run: int
    """Network files, states, pictures and logs: the run's folder."""
    cache: int
    """Latents and captions that are kept on disk."""
    copy: int
    """The finished file in save.copy_to."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.run + self.cache + self.copy


class Disk(NamedTuple):
    """The disk on which a folder is or would be made."""

    number: int
    """The same for two folders on one disk."""
    free: int | None
    """Bytes this user may write; None where it does not tell."""


def disk_at(path: Path) -> Disk | None:
    """The disk of a folder; None where it cannot be asked."""
    try:
        return Disk(nearest_existing(path).stat().st_dev, free_bytes(path))
    except OSError:
        return None


def disk_needs(
    recipe: Recipe,
    steps_per_epoch: Sequence[int],
    *,
    file_bytes: int,
    parameters: int,
    cache: int,
    side: tuple[int, int],
) -> DiskNeeds:
    """Needs of a filled recipe. `side` is width and height of pictures that have no size of their own."""
    steps = sum(steps_per_epoch)
    run = network_files(recipe, steps_per_epoch) * file_bytes
    # One more than are kept: the oldest goes when the newest is whole.
    run += (recipe.save.keep_states + 1) * state_size(recipe, parameters)
    run += sample_bytes(recipe, steps_per_epoch, side)
    run += steps * (STEP_BYTES + TABLE_BYTES * (recipe.run.csv + recipe.run.tensorboard))
    run += RUN_BYTES + _size(recipe.network.weights)
    return DiskNeeds(run, cache, file_bytes if recipe.save.copy_to is not None else 0)


def _size(path: Path | None) -> int:
    with contextlib.suppress(OSError):
        return path.expanduser().stat().st_size if path is not None else 0
    return 0


def state_size(recipe: Recipe, parameters: int) -> int:
    """Weights in fp32, what the optimizer keeps of each, and their average where there is one."""
    kept = OPTIMIZERS[recipe.optim.optimizer or "adamw"].state_bytes
    averaged = FP32_BYTES * (recipe.train.ema_decay > 0)
    return int(parameters * (FP32_BYTES + kept + averaged))


def network_files(recipe: Recipe, steps_per_epoch: Sequence[int]) -> int:
    """Network files that are left at the end: those kept on the way, and the final one.

    How many come by the clock is not known before the start; at most as many as are kept.
    """
    epochs, steps = len(steps_per_epoch), sum(steps_per_epoch)
    save = recipe.save
    on_the_way = epochs // save.every_epochs if save.every_epochs else 0
    on_the_way += steps // save.every_steps if save.every_steps else 0
    if save.keep_last is not None:
        on_the_way = save.keep_last if save.every_minutes else min(on_the_way, save.keep_last)
    return on_the_way + 1


def sample_bytes(recipe: Recipe, steps_per_epoch: Sequence[int], side: tuple[int, int]) -> int:
    """Preview pictures of the whole run, and the strip of each set where it has several."""
    sample = recipe.sample
    prompts = _prompt_count(recipe)
    times = 1 + sample.at_start  # the last ones are made whatever is set
    times += len(steps_per_epoch) // sample.every_epochs if sample.every_epochs else 0
    times += sum(steps_per_epoch) // sample.every_steps if sample.every_steps else 0
    pixels = (sample.width or side[0]) * (sample.height or side[1])
    each = 2 if prompts > 1 else 1
    return int(times * prompts * each * pixels * PICTURE_BYTES_PER_PIXEL)


def _prompt_count(recipe: Recipe) -> int:
    try:
        return len(all_prompts(recipe.sample.prompts or (), recipe.sample.prompts_file))
    except RecipeError:
        return 0


class Share(NamedTuple):
    """A part of what a run writes, and where."""

    what: str
    place: Path
    bytes: int
    path: str
    """Setting that moves it elsewhere."""
    vital: bool
    """Whether the run cannot do without: what is not cached is made anew."""


def check_disks(
    recipe: Recipe, needs: DiskNeeds, at: Callable[[Path], Disk | None], cache: Path | None = None
) -> tuple[list[Problem], list[str]]:
    """Why the run has no room, and where it is merely tight. `at` tells of the disk of a folder."""
    problems, notices = [], []
    for disk, shares in _by_disk(_shares(recipe, needs, cache or default_cache_folder()), at):
        needed = sum(share.bytes for share in shares)
        if disk.free is None or not needed or needed <= TIGHT * disk.free:
            continue
        first = shares[0]
        parts = " and ".join(share.what for share in shares)
        numbers = f"about {megabytes(needed)} for {parts}, and {megabytes(disk.free)} are free"
        if needed <= disk.free:
            notices.append(f"Room is tight on the disk of {first.place}: {numbers}.")
        elif not any(share.vital for share in shares):
            notices.append(
                f"The disk of {first.place} has no room: {numbers}. What does not fit is made anew."
            )
        else:
            problems.append(
                Problem(
                    f"There is no room on the disk: the run needs {numbers}.",
                    where=str(first.place),
                    remedy=_remedy(recipe, first),
                    path=first.path,
                )
            )
    return problems, notices


def _remedy(recipe: Recipe, share: Share) -> str:
    steps = ["Free some space", f"set {share.path} to a folder on another disk"]
    if share.path == "run.folder" and recipe.save.keep_last is None:
        steps.append("keep fewer files on the way (save.keep_last)")
    return f"{', or '.join(steps)}."


def _shares(recipe: Recipe, needs: DiskNeeds, cache: Path) -> Iterator[Share]:
    runs = recipe.run.folder or default_runs_folder()
    yield Share("the run's files", runs, needs.run, "run.folder", True)
    if recipe.save.copy_to is not None:
        yield Share("the copy", recipe.save.copy_to, needs.copy, "save.copy_to", True)
    if needs.cache:
        missing = max(0, needs.cache - _bytes_below(cache, needs.cache))
        yield Share("the cache", cache, missing, "data.cache_latents", False)


def _bytes_below(folder: Path, enough: int) -> int:
    """Bytes of what is cached already, of whatever pictures; counted no further than `enough`."""
    found = 0
    for path in folder.glob("*/*/*.safetensors"):
        with contextlib.suppress(OSError):
            found += path.stat().st_size
        if found >= enough:
            break
    return found


def _by_disk(
    shares: Iterable[Share], at: Callable[[Path], Disk | None]
) -> list[tuple[Disk, list[Share]]]:
    found: dict[int, tuple[Disk, list[Share]]] = {}
    for share in shares:
        disk = at(share.place)
        if disk is not None:
            found.setdefault(disk.number, (disk, []))[1].append(share)
    return list(found.values())
