"""Several resolutions, and what is said of small bucket steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from engine.data.buckets import BucketRules
from engine.data.images import ImageFact
from engine.data.order import Order
from engine.data.placing import Place, check_places, place_everywhere, placements_of
from engine.data.survey import Item
from engine.errors import DataError, RecipeError

SMALL = BucketRules(512, 512)
LARGE = replace(SMALL, width=768, height=768)


def items_of(*sizes: tuple[int, int], reg: int = 0, repeats: int = 1) -> list[Item]:
    count = len(sizes) - reg
    return [
        Item(
            index=n,
            image=ImageFact(Path(f"d/{n}.png"), *size, 1),
            caption_raw="x",
            has_caption=False,
            text="x",
            concept="c",
            repeats=repeats,
            is_reg=n >= count,
            flip=False,
        )
        for n, size in enumerate(sizes)
    ]


def buckets(places: tuple[Place, ...]) -> list[tuple[int, int, tuple[int, int]]]:
    return [
        (each.item.index, each.resolution, each.placement.bucket)
        for each in places
        if each.placement is not None
    ]


def order_of(places: tuple[Place, ...], **options) -> Order:
    return Order(
        placements_of(places),
        [each.item.repeats for each in places],
        [each.item.is_reg for each in places],
        pictures=[each.item.index for each in places],
        resolutions=[each.resolution for each in places],
        **{"batch_size": 2, **options},
    )


def test_each_picture_is_placed_once_in_the_buckets_of_each_resolution() -> None:
    places, findings = check_places(items_of((1024, 1024), (1536, 1024)), (LARGE, SMALL))
    assert buckets(places) == [
        (0, 0, (512, 512)),
        (1, 0, (640, 384)),
        (0, 1, (768, 768)),
        (1, 1, (896, 640)),
    ]
    assert findings == ()


def test_a_resolution_above_the_picture_is_skipped_and_counted_but_never_the_smallest() -> None:
    items = items_of((600, 600), (400, 400), (800, 800))
    places, findings = check_places(items, (SMALL, LARGE))
    assert [(n, level) for n, level, _ in buckets(places)] == [(0, 0), (1, 0), (2, 0), (2, 1)]
    (finding,) = [one for one in findings if one.check == "resolution skipped"]
    assert finding.level == "note" and finding.files == ("0.png", "1.png")
    large = tuple(replace(rules, no_upscale=False) for rules in (SMALL, LARGE))
    places, findings = check_places(items, large)
    assert len(buckets(places)) == 6
    assert "resolution skipped" not in {finding.check for finding in findings}


def test_without_buckets_every_resolution_is_one_size() -> None:
    rules = tuple(replace(one, enabled=False) for one in (SMALL, LARGE))
    places, _ = check_places(items_of((600, 400)), rules)
    assert [bucket for _, _, bucket in buckets(places)] == [(512, 512), (768, 768)]


def test_wrong_resolutions_are_refused() -> None:
    with pytest.raises(RecipeError, match="512x512 is listed twice"):
        check_places(items_of((600, 600)), (SMALL, LARGE, SMALL))
    with pytest.raises(RecipeError, match="below the longest side 2048"):
        check_places(items_of((600, 600)), (SMALL, replace(SMALL, width=2048, height=2048)))


def test_a_picture_too_small_for_any_resolution_is_refused_once() -> None:
    with pytest.raises(DataError, match=r"1 picture is too small") as caught:
        place_everywhere(items_of((50, 50), (600, 600)), (SMALL, LARGE))
    assert len(caught.value.problems) == 1


# Steps and regularisation -------------------------------------------------------------------------


def test_every_place_is_a_sample_of_every_epoch() -> None:
    places, _ = check_places(
        items_of((800, 800), (900, 900), (600, 600), repeats=3), (SMALL, LARGE)
    )
    order = order_of(places)
    assert order.train_samples == 3 * (3 + 2)
    for epoch in (1, 2):
        plan = order.epoch(epoch)
        assert len(plan) == order.steps_per_epoch(2)[epoch - 1]
        uses = Counter(n for step in plan for batch in step.batches for n in batch.items)
        assert uses == Counter(dict.fromkeys(range(5), 3))


def test_reg_draws_are_spread_like_the_training_samples() -> None:
    # 4 training pictures at 512, one of them at 768 too: four to one.
    train = [(600, 600)] * 3 + [(900, 900)]
    places, _ = check_places(items_of(*train, *[(900, 900)] * 10, reg=10), (SMALL, LARGE))
    order = order_of(places)
    assert order.reg_samples == 5
    drawn = [n for epoch in range(1, 11) for n in order.reg_draws(epoch)]
    assert Counter(places[n].resolution for n in drawn) == {0: 40, 1: 10}
    for epoch in range(1, 11):
        levels = Counter(places[n].resolution for n in order.reg_draws(epoch))
        assert levels == {0: 4, 1: 1}
    # Each picture is used before any is used again, at whatever resolution.
    for start in range(0, 50, 10):
        assert len({places[n].item.index for n in drawn[start : start + 10]}) == 10
    usage = order.reg_usage(10)
    assert (usage.images, usage.used, usage.fewest, usage.most) == (10, 10, 5, 5)


def test_a_small_reg_picture_is_drawn_at_the_resolution_it_has() -> None:
    places, _ = check_places(items_of((900, 900), (600, 600), reg=1), (SMALL, LARGE))
    order = order_of(places)
    assert [places[n].resolution for n in order.reg_draws(1)] == [0, 0]


def test_one_resolution_draws_what_it_always_drew() -> None:
    places, _ = check_places(items_of(*[(600, 600)] * 9, reg=4), (SMALL,))
    plain = Order(
        placements_of(places),
        [1] * 9,
        [False] * 5 + [True] * 4,
        batch_size=2,
    )
    assert [plain.epoch(n) for n in (1, 2)] == [order_of(places).epoch(n) for n in (1, 2)]


# Small steps --------------------------------------------------------------------------------------


def test_a_small_step_that_gives_each_picture_its_bucket_is_told() -> None:
    items = items_of(*[(520 + 24 * n, 700 - 8 * n) for n in range(6)])
    rules = replace(SMALL, step=8)
    _, findings = check_places(items, (rules,))
    (finding,) = [one for one in findings if one.check == "lonely buckets"]
    assert "step of 8" in finding.message and finding.level == "warning"
    _, findings = check_places(items, (SMALL,))
    assert "lonely buckets" not in {one.check for one in findings}
    _, findings = check_places(items_of(*[(600, 600)] * 6), (rules,))
    assert "lonely buckets" not in {one.check for one in findings}
