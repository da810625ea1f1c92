"""Which pictures go through the VAE together: those of one size, as the order of the data has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.data.pictures import Pictures
from engine.errors import Problem

Entry = tuple[int, bool]
"""A picture by its number, and whether it is mirrored."""


def groups_of(pictures: Pictures, batch: int) -> dict[Entry, tuple[Entry, ...]]:
    """The entries in the order of the data, each with the at most `batch` it is encoded with."""
    open_groups: dict[tuple[int, int], list[Entry]] = {}
    lists: dict[Entry, list[Entry]] = {}
    for entry in _wanted(pictures):
        size = pictures.placements[entry[0]].bucket
        if len(open_groups.setdefault(size, [])) == batch:
            open_groups[size] = []
        open_groups[size].append(entry)
        lists[entry] = open_groups[size]
    return {entry: tuple(group) for entry, group in lists.items()}


def _wanted(pictures: Pictures) -> Iterator[Entry]:
    for index, item in enumerate(pictures.items):
        yield index, False
        if item.flip:
            yield index, True


def too_large_again(group: Sequence[Entry]) -> Problem:
    """For an entry that got lost in the middle of a run: other groups would give other last bits."""
    what = "a picture" if len(group) == 1 else f"{len(group)} pictures at once"
    return Problem(
        f"There is not enough memory to encode {what} again.",
        remedy="Resume the run: what is missing in the cache is encoded before training begins.",
        path="data.vae_batch",
    )
