"""Buckets: which picture sizes are trained, and which picture goes where.

Everything is integer arithmetic, so a transposed picture gets the transposed bucket exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt

from engine.errors import Problem

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class BucketRules:
    """How sizes are chosen. `width` x `height` is the area budget."""

    width: int
    height: int
    smallest: int = 256
    largest: int = 1024
    step: int = 64
    no_upscale: bool = True
    enabled: bool = True

    @property
    def area(self) -> int:
        """The area budget in pixels."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture goes: resized to `resized`, then cut to `bucket` at `crop`."""

    bucket: Size
    resized: Size
    crop: Size
    """Left and top of the cut in the resized picture, for a cut around the centre."""
    scale: float
    """Above 1: the picture is enlarged."""
    cropped_share: float
    """Share of the resized picture's pixels that is cut off."""


def settle(rules: BucketRules) -> tuple[BucketRules, tuple[str, ...]]:
    """The rules with sides rounded to the step (smallest down, largest up), and notices of it."""
    if not rules.enabled or rules.step < 1:
        return rules, ()
    step = rules.step
    smallest = max(step, rules.smallest // step * step)
    largest = -(-rules.largest // step) * step
    notices = [
        f"The {name} bucket side {asked} is rounded to {used}, a multiple of {step}."
        for name, asked, used in (
            ("smallest", rules.smallest, smallest),
            ("largest", rules.largest, largest),
        )
        if asked != used
    ]
    return replace(rules, smallest=smallest, largest=largest), tuple(notices)


def rule_problems(rules: BucketRules) -> tuple[Problem, ...]:
    """What is wrong with the rules themselves; empty when any picture can be judged by them."""
    if not rules.enabled:
        sides = (("Width", rules.width), ("Height", rules.height))
        return tuple(_multiple_of_8(name, side) for name, side in sides if side < 8 or side % 8)
    problems = []
    if rules.step < 8 or rules.step % 8:
        what = f"Bucket step {rules.step} is not a multiple of 8."
        problems.append(Problem(what, remedy="Use 64.", path="data.bucket_step"))
        return tuple(problems)
    settled, _ = settle(rules)
    short, long = sorted((rules.width, rules.height))
    if settled.smallest > short:
        what = f"The smallest bucket side {settled.smallest} is above the shortest side {short}"
        where = f"of the resolution {rules.width}x{rules.height}."
        remedy = f"Lower data.bucket_min to {max(8, short // 8 * 8)} or less"
        if settled.smallest == rules.step > rules.smallest or rules.step > short:
            remedy = f"Lower data.bucket_step and data.bucket_min to {max(8, short // 8 * 8)}"
        problems.append(
            Problem(
                f"{what} {where}",
                remedy=f"{remedy}, or raise data.resolution.",
                path="data.bucket_min",
            )
        )
    if settled.largest < long:
        what = f"The largest bucket side {settled.largest} is below the longest side {long}"
        problems.append(
            Problem(
                f"{what} of the resolution.",
                remedy=f"Raise data.bucket_max to {long}.",
                path="data.bucket_max",
            )
        )
    return tuple(problems)


def _multiple_of_8(name: str, side: int) -> Problem:
    below = max(8, side // 8 * 8)
    nearest = f"{below} or {below + 8}" if below < side else f"{below}"
    what = f"{name} {side} is not a multiple of 8, which it must be without buckets."
    return Problem(what, remedy=f"Use {nearest}.", path="data.resolution")


def bucket_list(rules: BucketRules) -> tuple[Size, ...]:
    """All bucket sizes, sorted by width: sides are multiples of the step, areas within the budget."""
    if not rules.enabled:
        return ((rules.width, rules.height),)
    rules, _ = settle(rules)
    step, area = rules.step, rules.area
    square = min(isqrt(area) // step * step, rules.largest)
    sizes = {(square, square)} if square >= max(rules.smallest, 1) else set()
    for width in range(rules.smallest, rules.largest + 1, step):
        height = min(area // width // step * step, rules.largest)
        if height >= rules.smallest:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def nearest_bucket(width: int, height: int, buckets: tuple[Size, ...]) -> Size:
    """The bucket with the smallest |ln(bw/bh) - ln(iw/ih)|; ties to the larger area.

    exp of that distance is the larger of the two ratio quotients, an exact fraction: no rounding
    can treat a picture and its transpose differently.
    """

    def distance(bucket: Size) -> tuple[Fraction, int, int]:
        across, down = bucket[0] * height, bucket[1] * width
        quotient = Fraction(max(across, down), min(across, down))
        return quotient, -bucket[0] * bucket[1], -min(bucket)

    return min(buckets, key=distance)


def place(
    width: int, height: int, rules: BucketRules, buckets: tuple[Size, ...] | None = None
) -> Placement | Problem:
    """Place one picture, or say why it cannot be placed. Never raises for any picture."""
    rules, _ = settle(rules)
    buckets = bucket_list(rules) if buckets is None else buckets
    if width < 1 or height < 1 or not buckets:
        return Problem(f"A picture of {width}x{height} fits no bucket.", path="data.resolution")
    if (width, height) in buckets:
        return _cover(width, height, (width, height))
    listed = _cover(width, height, nearest_bucket(width, height, buckets))
    if not rules.enabled or not rules.no_upscale:
        return listed
    if listed.scale <= 1 and width * height > rules.area:
        return listed
    return _own_size(width, height, rules, listed)


def exceeds(width: int, height: int, rules: BucketRules) -> bool:
    """Whether a resolution has more pixels than the picture, where nothing may be enlarged."""
    return rules.enabled and rules.no_upscale and rules.area > width * height


def _own_size(
    width: int, height: int, rules: BucketRules, listed: Placement
) -> Placement | Problem:
    """The picture's own size rounded down to the step, without resizing."""
    step = rules.step
    bucket = (width // step * step, height // step * step)
    if min(bucket) < rules.smallest:
        return Problem(
            f"{width}x{height} without enlarging gives {bucket[0]}x{bucket[1]}, "
            f"and no side may be under {rules.smallest}",
            remedy="Enlarge or remove the picture, lower data.bucket_min, or turn data.no_upscale "
            "off.",
            path="data.no_upscale",
        )
    if max(bucket) > rules.largest:
        return listed
    return _cut((width, height), bucket, 1.0)


def _cover(width: int, height: int, bucket: Size) -> Placement:
    """Scale to cover the bucket, sizes rounded half up; the overhang is cut around the centre."""
    if bucket[0] * height >= bucket[1] * width:
        resized = (bucket[0], _half_up(height * bucket[0], width))
        return _cut(resized, bucket, bucket[0] / width)
    resized = (_half_up(width * bucket[1], height), bucket[1])
    return _cut(resized, bucket, bucket[1] / height)


def _cut(resized: Size, bucket: Size, scale: float) -> Placement:
    crop = ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2)
    share = 1 - bucket[0] * bucket[1] / (resized[0] * resized[1])
    return Placement(bucket, resized, crop, scale, share)


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
