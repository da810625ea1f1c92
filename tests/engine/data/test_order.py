"""Steps and order: exact numbers, every sample once, regularisation over the epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.buckets import Placement
from engine.data.order import Order, epoch_of_step, reg_samples
from engine.errors import DataError


def placed(width: int, height: int = 64) -> Placement:
    return Placement((width, height), (width, height), (0, 0), 1.0, 0.0)


def order_of(
    buckets: Sequence[int],
    *,
    repeats: int | Sequence[int] = 1,
    reg: Sequence[int] = (),
    reg_repeats: int | Sequence[int] = 1,
    batch: int = 1,
    accumulation: int = 1,
    seed: int = 0,
    ratio: float = 1.0,
) -> Order:
    train_uses = [repeats] * len(buckets) if isinstance(repeats, int) else list(repeats)
    reg_uses = [reg_repeats] * len(reg) if isinstance(reg_repeats, int) else list(reg_repeats)
    return Order(
        [placed(width) for width in (*buckets, *reg)],
        [*train_uses, *reg_uses],
        [False] * len(buckets) + [True] * len(reg),
        batch_size=batch,
        accumulation=accumulation,
        seed=seed,
        reg_ratio=ratio,
    )


def items_of(order: Order, epoch: int) -> list[int]:
    return [n for step in order.epoch(epoch) for batch in step.batches for n in batch.items]


def test_twenty_images_in_ten_buckets_of_two() -> None:
    # 10 partial batches an epoch: kohya's step count ends this run after 5 of 10 epochs.
    order = order_of([64 * (1 + n // 2) for n in range(20)], batch=4)
    assert order.steps_per_epoch(10) == (10,) * 10


def test_six_hundred_samples_are_68_steps_not_67() -> None:
    order = order_of([64] * 60, repeats=10, batch=3, accumulation=12)
    assert sum(order.steps_per_epoch(4)) == 68


@given(
    buckets=st.lists(st.sampled_from([64, 128, 192]), min_size=1, max_size=20),
    reg=st.lists(st.sampled_from([64, 128, 256]), max_size=6),
    repeats=st.integers(1, 4),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 4),
    seed=st.integers(0, 5),
    ratio=st.sampled_from([0.0, 0.15, 0.5, 1.0, 2.5]),
)
@settings(deadline=None)
def test_counted_steps_are_the_steps_of_the_order(
    buckets: list[int],
    reg: list[int],
    repeats: int,
    batch: int,
    accumulation: int,
    seed: int,
    ratio: float,
) -> None:
    order = order_of(
        buckets,
        repeats=repeats,
        reg=reg,
        batch=batch,
        accumulation=accumulation,
        seed=seed,
        ratio=ratio,
    )
    counted = order.steps_per_epoch(4)
    for epoch, steps in enumerate(counted, start=1):
        plan = order.epoch(epoch)
        assert len(plan) == steps
        assert sum(step.samples for step in plan) == order.samples_per_epoch
        assert all(1 <= len(step.batches) <= accumulation for step in plan)
        assert all(len(step.batches) == accumulation for step in plan[:-1])
        sizes = [*buckets, *reg]
        for step in plan:
            for one in step.batches:
                assert 1 <= len(one.items) <= batch
                assert {sizes[n] for n in one.items} == {one.bucket[0]}
        uses = Counter(items_of(order, epoch))
        assert all(uses[n] == repeats for n in range(len(buckets)))
    rows = order.bucket_table()
    assert sum(row.samples for row in rows) == order.samples_per_epoch
    batches = [one for step in order.epoch(1) for one in step.batches]
    assert sum(row.batches for row in rows) == len(batches)
    for row in rows:
        lengths = [len(one.items) for one in batches if one.bucket == (row.width, row.height)]
        assert min(lengths) == row.last_batch


def test_order_is_a_function_of_seed_and_epoch() -> None:
    one = order_of([64] * 12, batch=2, seed=7)
    again = order_of([64] * 12, batch=2, seed=7)
    again.epoch(3)  # Asking in another order changes nothing.
    assert one.epoch(1) == again.epoch(1)
    assert one.epoch(1) != one.epoch(2)
    assert one.epoch(1) != order_of([64] * 12, batch=2, seed=8).epoch(1)


def test_batches_hold_other_pictures_in_each_epoch() -> None:
    order = order_of([64] * 12, batch=3)
    kept = [
        {frozenset(step.batches[0].items) for step in order.epoch(epoch)} for epoch in (1, 2, 3)
    ]
    assert kept[0] != kept[1] != kept[2]


def test_seed_zero_is_a_seed() -> None:
    assert order_of([64] * 12, seed=0).epoch(1) != order_of([64] * 12, seed=1).epoch(1)


def test_partial_batches_are_not_always_last() -> None:
    order = order_of([64] * 9, batch=4)
    places = {
        [len(step.batches[0].items) for step in order.epoch(epoch)].index(1)
        for epoch in range(1, 20)
    }
    assert len(places) > 1


# Regularisation -----------------------------------------------------------------------------------


def test_reg_samples_are_rounded_half_up() -> None:
    assert reg_samples(10, 0.15) == 2
    assert reg_samples(5, 0.1) == 1
    assert reg_samples(4, 0.1) == 0
    assert reg_samples(600, 1) == 600
    assert reg_samples(3, 10) == 30


@pytest.mark.parametrize(
    ("train", "reg", "reg_repeats", "epochs", "used", "fewest", "most"),
    [
        # 200 images at 600 samples: each three times an epoch, as with kohya.
        (600, 200, 1, 1, 200, 3, 3),
        # 1000 images at 600 samples: kohya uses the first 600 for ever; here all, evenly.
        (600, 1000, 1, 5, 1000, 3, 3),
        (600, 1000, 1, 2, 1000, 1, 2),
        # 100 images x 10 repeats at 600: kohya uses 60 of them.
        (600, 100, 10, 1, 100, 6, 6),
        # 7 images x 10 repeats at 30: kohya uses 5 images for 35 samples.
        (30, 7, 10, 1, 7, 4, 5),
    ],
)
def test_every_reg_picture_is_used_before_any_is_used_again(
    train: int, reg: int, reg_repeats: int, epochs: int, used: int, fewest: int, most: int
) -> None:
    order = order_of([64] * train, reg=[64] * reg, reg_repeats=reg_repeats, batch=4)
    usage = order.reg_usage(epochs)
    assert order.reg_samples == train
    assert (usage.images, usage.used, usage.fewest, usage.most) == (reg, used, fewest, most)


def test_the_row_of_reg_draws_goes_on_over_the_epoch_border() -> None:
    order = order_of([64] * 3, reg=[64] * 7)
    drawn = [n for epoch in range(1, 8) for n in order.reg_draws(epoch)]
    assert len(drawn) == 21
    for start in (0, 7, 14):
        assert sorted(drawn[start : start + 7]) == list(range(3, 10))


def test_reg_repeats_are_weights() -> None:
    order = order_of([64] * 30, reg=[64, 64], reg_repeats=[10, 20])
    uses = Counter(order.reg_draws(1))
    assert uses == {30: 10, 31: 20}


def test_reg_draws_differ_with_the_seed_and_are_the_same_for_one() -> None:
    one = order_of([64] * 5, reg=[64] * 9, seed=1)
    assert one.reg_draws(2) == order_of([64] * 5, reg=[64] * 9, seed=1).reg_draws(2)
    assert one.reg_draws(1) != order_of([64] * 5, reg=[64] * 9, seed=2).reg_draws(1)


def test_ratio_zero_draws_none() -> None:
    order = order_of([64] * 5, reg=[64] * 3, ratio=0)
    assert order.reg_samples == 0
    assert max(items_of(order, 1)) == 4


def test_extra_steps_of_reg_are_exact() -> None:
    with_reg = order_of([64] * 10, reg=[128] * 4, batch=3, ratio=0.5)
    without = order_of([64] * 10, batch=3)
    extra = sum(with_reg.steps_per_epoch(6)) - sum(without.steps_per_epoch(6))
    assert with_reg.reg_usage(6).extra_steps == extra


# Edges --------------------------------------------------------------------------------------------


def test_pictures_with_zero_repeats_are_never_drawn() -> None:
    order = order_of([64] * 3, repeats=[1, 0, 2])
    assert Counter(items_of(order, 1)) == {0: 1, 2: 2}


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to train"):
        order_of([64, 64], repeats=0)


def test_epoch_of_a_step() -> None:
    assert epoch_of_step((3, 2), 1) == (1, 1)
    assert epoch_of_step((3, 2), 3) == (1, 3)
    assert epoch_of_step((3, 2), 4) == (2, 1)
    with pytest.raises(ValueError):
        epoch_of_step((3, 2), 6)
