"""Pictures encoded in groups: which, and that the group is part of the key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.data.buckets import BucketRules
from engine.data.encoding import Encoder, Moments
from engine.data.latents import LatentCache, encode_latents
from engine.data.pictures import Draw, Pictures
from engine.data.placing import place_all
from engine.data.store import Store
from engine.data.survey import SurveyRules, survey
from engine.errors import DataError

torch.set_num_threads(1)


class GroupVae:
    """Its last bits depend on the place in the group and its size, as those of a real VAE may."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.broken = False

    def __call__(self, pixels_BCHW: torch.Tensor) -> Moments:
        self.shapes.append(tuple(pixels_BCHW.shape))
        mean_BCHW = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
        count = len(mean_BCHW)
        mean_BCHW = mean_BCHW + 1e-6 * (torch.arange(count) + count).view(-1, 1, 1, 1)
        if self.broken and count > 1:
            mean_BCHW[1] = float("nan")
        return mean_BCHW, mean_BCHW.abs() * 0.1


@pytest.fixture
def pictures(tmp_path: Path, picture) -> Pictures:
    for number, size in enumerate(((64, 64), (128, 32), (64, 64), (64, 64), (128, 32))):
        picture(tmp_path / "data" / f"{number}.png", size, seed=number)
    found = survey(SurveyRules(tmp_path / "data", text="x", flip=True), workers=1)
    rules = BucketRules(64, 64, 32, 128, 32, no_upscale=False)
    return Pictures(found.items, place_all(found.items, rules))


def cache_of(
    pictures: Pictures, vae: GroupVae, batch: int, store: Store | None = None
) -> LatentCache:
    mode = "ram" if store is None else "disk"
    cache = encode_latents(pictures, Encoder(vae, "v", "p"), mode=mode, store=store, batch=batch)
    assert isinstance(cache, LatentCache)
    return cache


def mean(cache: LatentCache, index: int, flipped: bool = False) -> torch.Tensor:
    draw = Draw(index, flipped, (0, 0), 1, 0)
    return cache.finish(draw, cache.prepare(draw)).mean_CHW


def test_a_group_has_one_size_and_at_most_so_many(pictures: Pictures) -> None:
    vae = GroupVae()
    cache_of(pictures, vae, 4)
    # Three square pictures and two wide ones, both mirrored ways.
    counts = {shape[2:]: [] for shape in vae.shapes}
    for shape in vae.shapes:
        counts[shape[2:]].append(shape[0])
    assert sorted(map(sorted, counts.values())) == [[2, 4], [4]]
    alone = GroupVae()
    cache_of(pictures, alone, 1)
    assert {shape[0] for shape in alone.shapes} == {1} and len(alone.shapes) == 10


def test_each_entry_gets_its_own_latents(pictures: Pictures) -> None:
    together, alone = cache_of(pictures, GroupVae(), 3), cache_of(pictures, GroupVae(), 1)
    for index in range(5):
        for flipped in (False, True):
            one, other = mean(together, index, flipped), mean(alone, index, flipped)
            assert torch.allclose(one, other, atol=1e-4)


def test_an_entry_that_is_gone_comes_back_with_the_same_bits(
    pictures: Pictures, tmp_path: Path
) -> None:
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    cache = cache_of(pictures, GroupVae(), 3, store)
    before = mean(cache, 2)
    store.path(cache.key(2, False)).unlink()
    vae = GroupVae()
    again = cache_of(pictures, vae, 3, store)
    assert [shape[0] for shape in vae.shapes] == [3]  # Its whole group, and nothing else.
    assert torch.equal(mean(again, 2), before)
    store.path(cache.key(2, False)).unlink()  # In the middle of a run.
    assert torch.equal(mean(again, 2), before)


def test_another_batch_or_another_group_misses(pictures: Pictures, tmp_path: Path) -> None:
    keys = {batch: cache_of(pictures, GroupVae(), batch).key(0, False) for batch in (1, 2, 3)}
    assert len(set(keys.values())) == 3
    fewer = replace(pictures, items=pictures.items[:2], placements=pictures.placements[:2])
    assert cache_of(fewer, GroupVae(), 1).key(0, False) == keys[1]
    assert cache_of(fewer, GroupVae(), 3).key(0, False) != keys[3]


def test_a_picture_that_fails_in_the_group_is_tried_alone(pictures: Pictures) -> None:
    vae = GroupVae()
    vae.broken = True
    cache = cache_of(pictures, vae, 3)
    assert all(bool(torch.isfinite(mean(cache, index)).all()) for index in range(5))
    assert 1 in {shape[0] for shape in vae.shapes}

    def never(pixels_BCHW: torch.Tensor) -> Moments:
        nothing_BCHW = torch.full((len(pixels_BCHW), 4, 8, 8), float("nan"))
        return nothing_BCHW, nothing_BCHW

    with pytest.raises(DataError, match=r"0\.png"):
        encode_latents(pictures, Encoder(never, "v", "p"), mode="ram", batch=3)
