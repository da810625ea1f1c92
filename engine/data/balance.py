"""Repeats that give each concept its share of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """One concept before and after balancing. Shares are of the training samples of an epoch."""

    name: str
    images: int
    repeats: int
    proposed: int
    samples: int
    proposed_samples: int
    share: float
    proposed_share: float
    small: bool
    """Under half the pictures of the largest concept: few pictures repeated often can overfit."""


def proposed_repeats(images: Sequence[int], repeats: Sequence[int]) -> tuple[int, ...]:
    """Repeats by guide 001's rule: the largest folder's images x repeats is everyone's target.

    Rounded to the nearest whole, at least 1; then halved together while all of them are even.
    """
    if not images:
        return ()
    largest = max(range(len(images)), key=lambda place: (images[place], repeats[place]))
    target = images[largest] * max(1, repeats[largest])
    found = [max(1, (2 * target + count) // (2 * count)) if count else 1 for count in images]
    while all(number % 2 == 0 for number in found):
        found = [number // 2 for number in found]
    return tuple(found)


def balance(concepts: Sequence[tuple[str, int, int]]) -> tuple[Share, ...]:
    """Before and after for concepts given as (name, images, repeats)."""
    images = [count for _, count, _ in concepts]
    proposed = proposed_repeats(images, [uses for _, _, uses in concepts])
    before = sum(count * uses for _, count, uses in concepts) or 1
    after = sum(count * uses for count, uses in zip(images, proposed, strict=True)) or 1
    return tuple(
        Share(
            name=name,
            images=count,
            repeats=uses,
            proposed=new,
            samples=count * uses,
            proposed_samples=count * new,
            share=count * uses / before,
            proposed_share=count * new / after,
            small=2 * count < max(images),
        )
        for (name, count, uses), new in zip(concepts, proposed, strict=True)
    )
