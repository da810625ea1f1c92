"""Batches: keyed draws, the same with any number of workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.data.buckets import BucketRules
from engine.data.captions import CaptionRules
from engine.data.encoding import Encoder
from engine.data.holes import Holes
from engine.data.latents import encode_latents
from engine.data.loader import Batch, Loader
from engine.data.order import BatchPlan, Order
from engine.data.pictures import Draw, Pictures
from engine.data.placing import Place, place_all, place_everywhere, placements_of
from engine.data.survey import Item, SurveyRules, survey

torch.set_num_threads(1)

RULES = CaptionRules(prefix="p,", shuffle=True, keep=1, dropout=0.2, tag_dropout=0.2)


def vae(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean_BCHW = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
    return mean_BCHW, mean_BCHW.abs() * 0.1 + 0.01


@pytest.fixture
def pictures(tmp_path: Path, picture) -> Pictures:
    sizes = [(64, 64), (96, 64), (64, 100), (64, 64), (90, 64)]
    for number, size in enumerate(sizes):
        path = picture(tmp_path / "2_x y" / f"{number}.png", size, seed=number)
        path.with_suffix(".txt").write_text(f"p, a{number}, b, c")
    for number in range(3):
        picture(tmp_path / "reg" / "1_y" / f"{number}.png", (64, 70), seed=number + 9)
    rules = SurveyRules(tmp_path / "2_x y", tmp_path / "reg", flip=True)
    found = survey(rules)
    placements = place_all(found.items, BucketRules(64, 64, 32, 128, 32, no_upscale=False))
    return Pictures(found.items, placements)


def order_of(pictures: Pictures, accumulation: int = 2) -> Order:
    return Order(
        pictures.placements,
        [item.repeats for item in pictures.items],
        [item.is_reg for item in pictures.items],
        batch_size=2,
        accumulation=accumulation,
        seed=5,
        reg_ratio=0.5,
    )


def walk(order: Order, epochs: int) -> Iterator[tuple[BatchPlan, int, int, int]]:
    step = 0
    for epoch in range(1, epochs + 1):
        for plan in order.epoch(epoch):
            step += 1
            first = 0
            for batch in plan.batches:
                yield batch, epoch, step, first
                first += len(batch.items)


def load_all(
    pictures: Pictures, *, workers: int, ahead: bool = True, random_crop: bool = False
) -> list[Batch]:
    order = order_of(pictures)
    mode = "off" if random_crop else "ram"
    latents = encode_latents(pictures, Encoder(vae, "v", "fp32 cpu"), mode=mode)
    loader = Loader(
        pictures.items,
        pictures.placements,
        latents,
        RULES,
        seed=5,
        random_crop=random_crop,
        workers=workers,
        order=order if ahead else None,
    )
    try:
        return [
            loader.batch(plan, epoch=epoch, step=step, first_sample=first)
            for plan, epoch, step, first in walk(order, 3)
        ]
    finally:
        loader.close()


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.latents_BCHW, other.latents_BCHW)
        and torch.equal(one.is_reg_B, other.is_reg_B)
        and one.captions == other.captions
        and one.crops == other.crops
        and one.items == other.items
    )


@pytest.mark.parametrize("random_crop", [False, True])
def test_the_result_does_not_depend_on_workers(pictures: Pictures, random_crop: bool) -> None:
    alone = load_all(pictures, workers=0, random_crop=random_crop)
    assert len(alone) > 10
    for workers, ahead in ((1, True), (4, True), (4, False)):
        others = load_all(pictures, workers=workers, ahead=ahead, random_crop=random_crop)
        assert all(same(one, other) for one, other in zip(alone, others, strict=True))


def test_batches_are_read_ahead(pictures: Pictures) -> None:
    class Recording:
        """Tells which draws were prepared, and in which thread."""

        def __init__(self) -> None:
            self.asked: dict[tuple[int, int], str] = {}
            self.latents = encode_latents(pictures, Encoder(vae, "v", "c"), mode="ram")

        def prepare(self, draw: Draw):
            assert (draw.step, draw.sample) not in self.asked, "prepared twice"
            self.asked[draw.step, draw.sample] = threading.current_thread().name
            return self.latents.prepare(draw)

        def finish(self, draw: Draw, prepared):
            return self.latents.finish(draw, prepared)

    order, source = order_of(pictures), Recording()
    loader = Loader(
        pictures.items, pictures.placements, source, RULES, seed=5, workers=2, order=order
    )
    places = list(walk(order, 2))
    for plan, epoch, step, first in places:
        loader.batch(plan, epoch=epoch, step=step, first_sample=first)
    drawn = {(step, first + n) for plan, _, step, first in places for n in range(len(plan.items))}
    # The first batches of epoch 3 are begun by threads of their own: the test's limit ends the wait.
    while not drawn < source.asked.keys():
        time.sleep(0.01)
    loader.close()
    assert all(name.startswith("loader") for name in source.asked.values())


def test_what_a_batch_holds(pictures: Pictures) -> None:
    items: tuple[Item, ...] = tuple(pictures.items)
    for batch in load_all(pictures, workers=0):
        count = len(batch.items)
        width, height = batch.target_size
        assert batch.latents_BCHW.shape == (count, 3, height // 8, width // 8)
        assert batch.latents_BCHW.dtype == torch.float32
        for place, index in enumerate(batch.items):
            image = items[index].image
            assert batch.original_sizes[place] == (image.width, image.height)
            assert bool(batch.is_reg_B[place]) == items[index].is_reg
            if items[index].is_reg:
                assert batch.captions[place] in ("y", "")
            else:
                assert batch.captions[place].split(",")[0] in ("p", "")


def test_a_latent_is_drawn_from_mean_and_deviation_anew_each_time(pictures: Pictures) -> None:
    latents = encode_latents(pictures, Encoder(vae, "v", "c"), mode="ram")
    still = [replace(item, flip=False) for item in pictures.items]
    loader = Loader(still, pictures.placements, latents, CaptionRules(), seed=5)
    plan = BatchPlan(pictures.placements[0].bucket, (0, 0))
    one = loader.batch(plan, epoch=1, step=1, first_sample=0).latents_BCHW
    assert not torch.equal(one[0], one[1])
    again = loader.batch(plan, epoch=9, step=1, first_sample=0).latents_BCHW
    assert torch.equal(one, again)
    shifted = loader.batch(plan, epoch=1, step=1, first_sample=1).latents_BCHW
    assert torch.equal(shifted[0], one[1])  # Keyed by the sample index of the step.
    many = torch.stack(
        [
            loader.batch(
                BatchPlan(plan.bucket, (0,)), epoch=1, step=step, first_sample=0
            ).latents_BCHW[0]
            for step in range(400)
        ]
    )
    draw = Draw(0, False, (0, 0), 1, 0)
    mean, std, _ = latents.finish(draw, latents.prepare(draw))
    assert torch.allclose(many.mean(0), mean, atol=0.03)
    assert torch.allclose(many.std(0), std, rtol=0.25)


def test_half_of_the_draws_are_mirrored_where_mirroring_is_on(pictures: Pictures) -> None:
    from engine.data.pixels import draw_flip

    item = pictures.items[0]
    count = sum(draw_flip(item, seed=1, step=step, sample=0) for step in range(2000))
    assert 900 < count < 1100


def test_micro_batches_of_a_step_draw_what_the_whole_batch_draws(pictures: Pictures) -> None:
    latents = encode_latents(pictures, Encoder(vae, "v", "c"), mode="ram")
    loader = Loader(pictures.items, pictures.placements, latents, RULES, seed=5, workers=2)
    bucket = pictures.placements[0].bucket
    whole = loader.batch(BatchPlan(bucket, (0, 3, 0, 3)), epoch=1, step=4, first_sample=0)
    parts = [
        loader.batch(BatchPlan(bucket, (0, 3)), epoch=1, step=4, first_sample=first)
        for first in (0, 2)
    ]
    loader.close()
    assert torch.equal(whole.latents_BCHW, torch.cat([part.latents_BCHW for part in parts]))
    assert whole.captions == parts[0].captions + parts[1].captions


def test_random_crops_are_refused_with_cached_latents(pictures: Pictures) -> None:
    latents = encode_latents(pictures, Encoder(vae, "v", "c"), mode="ram")
    with pytest.raises(ValueError, match="random crops"):
        Loader(pictures.items, pictures.placements, latents, RULES, seed=1, random_crop=True)


# Masks, holes, colours, wildcards, several resolutions ---------------------------------------------


@pytest.fixture
def places(tmp_path: Path, picture) -> tuple[Place, ...]:
    """Two resolutions; every other picture has a mask."""
    for number in range(4):
        path = picture(tmp_path / "2_x" / f"{number}.png", (140, 130), seed=number)
        path.with_suffix(".txt").write_text("p, {a|b|c}\nother {d|e}")
        if number % 2:
            picture(tmp_path / "masks" / f"{number}.png", (140, 130), mode="L", seed=number)
    rules = SurveyRules(
        tmp_path / "2_x",
        flip=True,
        wildcards=True,
        masks="folder",
        mask_folder=tmp_path / "masks",
    )
    sizes = [BucketRules(side, side, 32, 256, 32) for side in (64, 96)]
    return place_everywhere(survey(rules, workers=1).items, sizes)


def load_places(places: tuple[Place, ...], *, workers: int, colour: bool = False) -> list[Batch]:
    pictures = Pictures([each.item for each in places], placements_of(places), seed=5)
    encoder = Encoder(vae, "v", "fp32 cpu")
    latents = encode_latents(pictures, encoder, mode="off" if colour else "ram")
    order = Order(
        pictures.placements,
        [2] * len(places),
        [False] * len(places),
        batch_size=2,
        accumulation=2,
        seed=5,
    )
    loader = Loader(
        pictures.items,
        pictures.placements,
        latents,
        CaptionRules(wildcards=True),
        seed=5,
        colour=colour,
        holes=Holes(pictures, latents, encoder),
        workers=workers,
        order=order,
    )
    try:
        return [
            loader.batch(plan, epoch=epoch, step=step, first_sample=first)
            for plan, epoch, step, first in walk(order, 2)
        ]
    finally:
        loader.close()


def all_tensors(batch: Batch) -> list[torch.Tensor]:
    found = (
        batch.latents_BCHW,
        batch.loss_mask_B1HW,
        batch.hole_mask_B1HW,
        batch.hole_latents_BCHW,
    )
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("colour", [False, True])
def test_masks_holes_colours_and_wildcards_do_not_depend_on_workers(places, colour: bool) -> None:
    alone = load_places(places, workers=0, colour=colour)
    others = load_places(places, workers=3, colour=colour)
    for one, other in zip(alone, others, strict=True):
        assert one.captions == other.captions and one.items == other.items
        tensors = all_tensors(one)
        assert len(tensors) == 4
        assert all(torch.equal(*pair) for pair in zip(tensors, all_tensors(other), strict=True))
    assert len({text for batch in alone for text in batch.captions}) == 5


def test_a_batch_has_masks_and_holes_of_the_size_of_its_latents(places) -> None:
    sizes = set()
    for batch in load_places(places, workers=0):
        count, channels, height, width = batch.latents_BCHW.shape
        sizes.add((height, width))
        assert batch.target_size == (width * 8, height * 8)
        assert batch.loss_mask_B1HW is not None and batch.hole_mask_B1HW is not None
        assert batch.loss_mask_B1HW.shape == batch.hole_mask_B1HW.shape
        assert batch.hole_mask_B1HW.shape == (count, 1, height, width)
        assert batch.hole_latents_BCHW is not None
        assert batch.hole_latents_BCHW.shape == (count, channels, height, width)
        for place, number in enumerate(batch.items):
            whole = bool((batch.loss_mask_B1HW[place] == 1).all())
            assert whole == (places[number].item.mask is None)
            # What SDXL is told: the picture's own size, whatever the resolution.
            assert batch.original_sizes[place] == (140, 130)
    assert sizes == {(8, 8), (12, 12)}


def test_without_masks_and_holes_a_batch_has_none(pictures: Pictures) -> None:
    for batch in load_all(pictures, workers=0):
        assert batch.loss_mask_B1HW is None
        assert batch.hole_mask_B1HW is None and batch.hole_latents_BCHW is None


def test_colours_are_shifted_in_some_draws_only(places) -> None:
    plain = load_places(places, workers=0)
    shifted = load_places(places, workers=0, colour=True)
    same = [
        torch.allclose(one, other, atol=1e-6)
        for first, second in zip(plain, shifted, strict=True)
        for one, other in zip(first.latents_BCHW, second.latents_BCHW, strict=True)
    ]
    assert 0.15 < same.count(False) / len(same) < 0.55


def test_shifted_colours_are_refused_with_cached_latents(pictures: Pictures) -> None:
    latents = encode_latents(pictures, Encoder(vae, "v", "c"), mode="ram")
    with pytest.raises(ValueError, match="shifted colours"):
        Loader(pictures.items, pictures.placements, latents, RULES, seed=1, colour=True)
