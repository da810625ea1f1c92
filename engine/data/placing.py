"""Places every picture of a survey in its buckets, and tells all that cannot be placed at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from engine.data.buckets import (
    BucketRules,
    Placement,
    Size,
    bucket_list,
    exceeds,
    place,
    rule_problems,
)
from engine.data.findings import Finding, Findings, error_of
from engine.data.survey import Item
from engine.errors import Problem, RecipeError

CROPPED_SHARE = 0.2
"""Share of cut pixels from which a picture is named."""
EVEN_STEP = 64
"""Below this bucket step there are many sizes, and few pictures of each."""
LONELY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """One picture at one resolution; each place is a sample of its own."""

    item: Item
    placement: Placement | None
    """None where the picture fits no bucket."""
    resolution: int = 0
    """Number of the resolution, from the smallest."""


def check_places(
    items: Sequence[Item], resolutions: Sequence[BucketRules]
) -> tuple[tuple[Place, ...], tuple[Finding, ...]]:
    """A place for each item at each resolution, and what is to be said about them.

    Where nothing is enlarged, a picture is left out of the resolutions it is too small for, except
    the smallest. Raises RecipeError where the rules themselves are wrong.
    """
    ordered = sorted(resolutions, key=lambda rules: (rules.area, rules.width))
    problems = [problem for rules in ordered for problem in rule_problems(rules)]
    problems += _repeated(ordered)
    if problems:
        raise RecipeError(*dict.fromkeys(problems))
    findings = Findings()
    places: list[Place] = []
    for level, rules in enumerate(ordered):
        places += _placed(items, rules, level, findings)
    _tell_lonely(places, ordered, findings)
    return tuple(places), findings.done()


def _repeated(ordered: Sequence[BucketRules]) -> list[Problem]:
    sizes = Counter((rules.width, rules.height) for rules in ordered)
    return [
        Problem(
            f"The resolution {width}x{height} is listed twice.",
            remedy="Keep one of them; data.resolution counts too.",
            path="data.more_resolutions",
        )
        for (width, height), count in sizes.items()
        if count > 1
    ]


def _placed(
    items: Sequence[Item], rules: BucketRules, level: int, findings: Findings
) -> list[Place]:
    buckets = bucket_list(rules)
    places: list[Place] = []
    known: dict[Size, Placement | Problem] = {}
    for item in items:
        size = (item.image.width, item.image.height)
        folder, name = item.image.path.parent, item.image.path.name
        if level > 0 and exceeds(*size, rules):
            findings.add("resolution skipped", folder, name)
            continue
        # Cameras give few sizes, and the live line places a folder at every key.
        placed = known.get(size) or known.setdefault(size, place(*size, rules, buckets))
        if isinstance(placed, Problem):
            findings.add("too small", folder, name, detail=placed.what)
            places.append(Place(item, None, level))
            continue
        places.append(Place(item, placed, level))
        if placed.scale > 1:
            findings.add("enlarged", folder, name, detail=f"{placed.scale:.2f}x")
        if placed.cropped_share > CROPPED_SHARE:
            findings.add("cropped", folder, name, detail=f"{placed.cropped_share:.0%}")
    return places


def _tell_lonely(
    places: Sequence[Place], resolutions: Sequence[BucketRules], findings: Findings
) -> None:
    """Small steps give nearly every picture a bucket of its own, and batches of one."""
    step = min((rules.step for rules in resolutions if rules.enabled), default=EVEN_STEP)
    counts = Counter(each.placement.bucket for each in places if each.placement is not None)
    lonely = sum(count == 1 for count in counts.values())
    if step >= EVEN_STEP or len(counts) < 3 or lonely < LONELY_SHARE * len(counts):
        return
    root = places[0].item.image.path.parent
    message = (
        f"A bucket step of {step} makes {len(counts)} buckets for {sum(counts.values())} pictures;"
        f" {lonely} of them hold a single one."
    )
    findings.add("lonely buckets", root, message=message)


def check_placements(
    items: Sequence[Item], rules: BucketRules
) -> tuple[tuple[Placement | None, ...], tuple[Finding, ...]]:
    """As `check_places` for one resolution: a placement for each item, None where there is none."""
    places, findings = check_places(items, (rules,))
    return tuple(each.placement for each in places), findings


def place_everywhere(
    items: Sequence[Item], resolutions: Sequence[BucketRules]
) -> tuple[Place, ...]:
    """A place for each item at each resolution; one DataError names every picture without one."""
    places, findings = check_places(items, resolutions)
    error = error_of(findings)
    if error is not None:
        raise error
    return places


def place_all(items: Sequence[Item], rules: BucketRules) -> tuple[Placement, ...]:
    """As `place_everywhere` for one resolution."""
    return placements_of(place_everywhere(items, (rules,)))


def placements_of(places: Sequence[Place]) -> tuple[Placement, ...]:
    """The placements of those that have one."""
    return tuple(each.placement for each in places if each.placement is not None)
