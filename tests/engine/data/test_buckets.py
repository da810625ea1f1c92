"""Buckets: the lists and the placement table of the data set rules, and what no picture may break."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.buckets import (
    BucketRules,
    Placement,
    bucket_list,
    nearest_bucket,
    place,
    rule_problems,
    settle,
)
from engine.errors import Problem


@pytest.mark.parametrize(
    ("side", "smallest", "largest", "step", "count"),
    [
        (512, 256, 1024, 64, 17),
        (768, 256, 1024, 64, 19),
        (768, 320, 960, 64, 15),
        (1024, 256, 2048, 64, 41),
        (1024, 256, 1024, 64, 25),
        (1024, 256, 2048, 32, 81),
    ],
)
def test_list_sizes(side: int, smallest: int, largest: int, step: int, count: int) -> None:
    assert len(bucket_list(BucketRules(side, side, smallest, largest, step))) == count


def test_the_512_list() -> None:
    half = [
        (256, 832),
        (256, 896),
        (256, 960),
        (256, 1024),
        (320, 704),
        (320, 768),
        (384, 640),
        (448, 576),
    ]
    expected = {*half, *((height, width) for width, height in half), (512, 512)}
    assert set(bucket_list(BucketRules(512, 512))) == expected


REFUSED = "refused"
# Image; then bucket (and resized size where it was scaled) for 512 list, 512 no upscale, 1024 list,
# 1024 no upscale.
TABLE = [
    ((512, 512), (512, 512), (512, 512), (1024, 1024), (512, 512)),
    ((768, 512), (640, 384, 640, 427), (640, 384), (1216, 832, 1248, 832), (768, 512)),
    ((1536, 1024), (640, 384, 640, 427), (640, 384), (1216, 832, 1248, 832), (1216, 832)),
    ((1920, 1080), (640, 384, 683, 384), (640, 384), (1344, 768, 1365, 768), (1344, 768)),
    ((1080, 1920), (384, 640, 384, 683), (384, 640), (768, 1344, 768, 1365), (768, 1344)),
    ((500, 500), (512, 512), (448, 448, 500, 500), (1024, 1024), (448, 448, 500, 500)),
    ((3072, 3000), (512, 512, 524, 512), (512, 512), (1024, 1024, 1049, 1024), (1024, 1024)),
    ((50, 50), (512, 512), REFUSED, (1024, 1024), REFUSED),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: "x".join(map(str, row[0])))
def test_the_placement_table(row: tuple[tuple[int, ...], ...]) -> None:
    (width, height), *cells = row
    sides = [(512, False), (512, True), (1024, False), (1024, True)]
    for (side, no_upscale), cell in zip(sides, cells, strict=True):
        rules = BucketRules(side, side, 256, 2 * side, 64, no_upscale)
        placed = place(width, height, rules)
        if cell == REFUSED:
            assert isinstance(placed, Problem)
            assert "data.no_upscale" in placed.remedy
            assert "50x50" in placed.what
            continue
        assert isinstance(placed, Placement)
        assert placed.bucket == cell[:2]
        if len(cell) == 4:
            assert placed.resized == cell[2:]


def test_small_picture_under_no_upscale_is_cut_around_its_centre() -> None:
    placed = place(500, 500, BucketRules(512, 512))
    assert isinstance(placed, Placement)
    assert placed.crop == (26, 26)
    assert placed.scale == 1.0
    assert placed.cropped_share == pytest.approx(1 - 448**2 / 500**2)


def test_true_crop_of_the_sdxl_example() -> None:
    placed = place(768, 512, BucketRules(512, 512))
    assert isinstance(placed, Placement)
    assert placed.crop == (0, 21)


def test_the_choice_that_kohya_makes_unevenly() -> None:
    rules = BucketRules(512, 512, no_upscale=False)
    wide, tall = place(1216, 832, rules), place(832, 1216, rules)
    assert isinstance(wide, Placement) and isinstance(tall, Placement)
    assert wide.bucket == (576, 448)
    assert tall.bucket == (448, 576)


def test_side_over_the_largest_bucket_follows_the_list() -> None:
    placed = place(1400, 600, BucketRules(1024, 1024, 256, 1024))
    assert isinstance(placed, Placement)
    assert max(placed.bucket) <= 1024
    assert placed.bucket in bucket_list(BucketRules(1024, 1024, 256, 1024))


rules_strategy = st.builds(
    BucketRules,
    width=st.integers(64, 1536),
    height=st.integers(64, 1536),
    smallest=st.integers(8, 512),
    largest=st.integers(64, 2048),
    step=st.sampled_from([8, 16, 24, 32, 64, 128, 256]),
    no_upscale=st.booleans(),
    enabled=st.booleans(),
)


@given(st.integers(1, 40_000), st.integers(1, 40_000), rules_strategy)
def test_no_picture_crashes_the_bucket_code(width: int, height: int, rules: BucketRules) -> None:
    placed = place(width, height, rules)
    if isinstance(placed, Problem):
        assert placed.what
        return
    settled, _ = settle(rules)
    bucket, resized, crop = placed.bucket, placed.resized, placed.crop
    assert all(0 <= crop[axis] <= resized[axis] - bucket[axis] for axis in (0, 1))
    assert 0 <= placed.cropped_share < 1
    if rules.enabled:
        assert all(side % settled.step == 0 for side in bucket)
        assert all(settled.smallest <= side <= settled.largest for side in bucket)


@given(st.integers(1, 8000), st.integers(1, 8000), rules_strategy)
def test_transposed_pictures_get_transposed_buckets(
    width: int, height: int, rules: BucketRules
) -> None:
    turned = BucketRules(
        rules.height,
        rules.width,
        rules.smallest,
        rules.largest,
        rules.step,
        rules.no_upscale,
        rules.enabled,
    )
    one, other = place(width, height, rules), place(height, width, turned)
    if isinstance(one, Problem):
        assert isinstance(other, Problem)
        return
    assert isinstance(other, Placement)
    assert other.bucket == one.bucket[::-1]
    assert other.resized == one.resized[::-1]
    assert other.crop == one.crop[::-1]


@given(st.integers(1, 8000), st.integers(1, 8000))
def test_the_chosen_bucket_is_nearest_in_log_ratio(width: int, height: int) -> None:
    rules = BucketRules(512, 512, no_upscale=False)
    placed = place(width, height, rules)
    assert isinstance(placed, Placement)

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(width / height))

    if (width, height) not in bucket_list(rules):
        nearest = min(map(distance, bucket_list(rules)))
        assert distance(placed.bucket) <= nearest + 1e-12


def test_ties_go_to_the_larger_area() -> None:
    buckets = ((64, 64), (128, 128), (96, 96), (32, 128), (128, 32))
    assert nearest_bucket(10, 10, buckets) == (128, 128)
    # Just between 1:1 and 4:1 on the logarithmic scale.
    assert nearest_bucket(20, 10, buckets) == (128, 128)
    assert nearest_bucket(20, 10, ((64, 64), (256, 64))) == (256, 64)


@given(rules_strategy)
def test_rules_without_problems_always_have_a_bucket(rules: BucketRules) -> None:
    if not rule_problems(rules):
        sizes = bucket_list(rules)
        assert sizes
        if rules.enabled:
            assert all(width * height <= rules.area for width, height in sizes)


def test_limits_are_rounded_to_the_step_with_a_notice() -> None:
    settled, notices = settle(BucketRules(512, 512, 300, 1000))
    assert (settled.smallest, settled.largest) == (256, 1024)
    assert len(notices) == 2
    assert settle(BucketRules(512, 512)) == (BucketRules(512, 512), ())
    assert settle(BucketRules(512, 512, 10, 1024))[0].smallest == 64


@pytest.mark.parametrize(
    ("rules", "path", "remedy"),
    [
        (BucketRules(64, 64, 256, 1024), "data.bucket_min", "data.bucket_min"),
        (BucketRules(512, 200, 256, 1024), "data.bucket_min", "200"),
        (BucketRules(1536, 512, 256, 1024), "data.bucket_max", "1536"),
        (BucketRules(512, 512, step=12), "data.bucket_step", "64"),
        (BucketRules(512, 650, enabled=False), "data.resolution", "648 or 656"),
    ],
)
def test_wrong_rules_are_refused_with_a_remedy(rules: BucketRules, path: str, remedy: str) -> None:
    problems = rule_problems(rules)
    assert [problem.path for problem in problems] == [path]
    assert remedy in problems[0].remedy


def test_without_buckets_there_is_one_size_and_no_upscale_does_not_apply() -> None:
    placed = place(100, 50, BucketRules(512, 512, enabled=False))
    assert isinstance(placed, Placement)
    assert placed.bucket == (512, 512)
    assert placed.resized == (1024, 512)
    assert placed.crop == (256, 0)
