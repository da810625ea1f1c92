"""Places every picture of a survey in a bucket, and tells all that cannot be placed at once."""

from __future__ import annotations

from collections.abc import Sequence

from engine.data.buckets import BucketRules, Placement, bucket_list, place, rule_problems
from engine.data.findings import Finding, Findings, error_of
from engine.data.survey import Item
from engine.errors import Problem, RecipeError

CROPPED_SHARE = 0.2
"""Share of cut pixels from which a picture is named."""


def check_placements(
    items: Sequence[Item], rules: BucketRules
) -> tuple[tuple[Placement | None, ...], tuple[Finding, ...]]:
    """A placement for each item, None where there is none, and what is to be said about them.

    Raises RecipeError where the rules themselves are wrong.
    """
    problems = rule_problems(rules)
    if problems:
        raise RecipeError(*problems)
    buckets = bucket_list(rules)
    findings = Findings()
    placements: list[Placement | None] = []
    known: dict[tuple[int, int], Placement | Problem] = {}
    for item in items:
        size = (item.image.width, item.image.height)
        # Cameras give few sizes, and the live line places a folder at every key.
        placed = known.get(size) or known.setdefault(size, place(*size, rules, buckets))
        folder, name = item.image.path.parent, item.image.path.name
        if isinstance(placed, Problem):
            findings.add("too small", folder, name, detail=placed.what)
            placements.append(None)
            continue
        placements.append(placed)
        if placed.scale > 1:
            findings.add("enlarged", folder, name, detail=f"{placed.scale:.2f}x")
        if placed.cropped_share > CROPPED_SHARE:
            findings.add("cropped", folder, name, detail=f"{placed.cropped_share:.0%}")
    return tuple(placements), findings.done()


def place_all(items: Sequence[Item], rules: BucketRules) -> tuple[Placement, ...]:
    """A placement for each item; one DataError names every picture that has none."""
    placements, findings = check_placements(items, rules)
    error = error_of(findings)
    if error is not None:
        raise error
    return tuple(placement for placement in placements if placement is not None)
