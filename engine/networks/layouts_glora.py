"""The two layouts of a GLoRA's tensors. No torch.

The older one (LyCORIS up to 2.x, A1111) calls the first factor what ours calls the second. Nothing is
transposed: the files differ in names alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

A1, A2, B1, B2 = "a1.weight", "a2.weight", "b1.weight", "b2.weight"
SWAPPED = {A1: A2, A2: A1, B1: B2, B2: B1}


class Shaped(Protocol):
    """A tensor, or what tells its shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""


T = TypeVar("T", bound=Shaped)


def layouts_of(tensors: Mapping[str, Shaped]) -> frozenset[str]:
    """ "new", "old", or both where all sides are equal; empty where the tensors make no GLoRA.

    The rank is the axis that all four share: the second of a1 in the new layout, the first in the old.
    """
    a1, a2, b1, b2 = (tuple(tensors[suffix].shape) for suffix in (A1, A2, B1, B2))
    if any(len(shape) < 2 for shape in (a1, a2, b1, b2)):
        return frozenset()
    new = a1[1] == a2[0] == b1[1] == b2[0] and a1[0] == a2[1] == b2[1]
    old = a2[1] == a1[0] == b2[1] == b1[0] and a2[0] == a1[1] == b1[1]
    return frozenset(name for name, fits in (("new", new), ("old", old)) if fits)


def new_layout(tensors: Mapping[str, T]) -> dict[str, T]:
    """A module's tensors (suffix to tensor) in our layout; as they are where they have it already.

    Where all sides are equal the shapes tell nothing, and they are left alone. Raises ValueError where
    the tensors make no GLoRA.
    """
    return _in_layout("new", tensors)


def old_layout(tensors: Mapping[str, T]) -> dict[str, T]:
    """Exact inverse of `new_layout`, for modules whose shapes tell the layout.

    Where all sides are equal the tensors are taken to be in our layout, and swapped. Raises ValueError
    where the tensors make no GLoRA.
    """
    return _in_layout("old", tensors)


def _in_layout(wanted: str, tensors: Mapping[str, T]) -> dict[str, T]:
    found = layouts_of(tensors)
    if not found:
        shapes = ", ".join(f"{suffix} {list(tensors[suffix].shape)}" for suffix in SWAPPED)
        raise ValueError(f"{shapes} have no common rank")
    if wanted == ("new" if "new" in found else "old"):
        return dict(tensors)
    return {SWAPPED.get(suffix, suffix): tensor for suffix, tensor in tensors.items()}
