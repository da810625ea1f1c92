"""Latents where memory goes short: groups, single pictures, the host's memory, and what is no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.data.buckets import BucketRules
from engine.data.encoding import Encoded, Encoder, Moments
from engine.data.keeping import HostRoom
from engine.data.latents import LatentCache, LiveLatents, encode_latents
from engine.data.pictures import Draw, Pictures
from engine.data.placing import place_all
from engine.data.store import Store
from engine.data.survey import SurveyRules, survey
from engine.errors import OutOfMemory
from tests.faults.allocator import AllocatorLimit

torch.set_num_threads(1)

ONE = 80_000
"""Bytes that one picture of 64 x 64 needs in the VAE below, and a little more; three need 147456."""
GB = 1_000_000_000


class Vae:
    """Its last bits depend on the size of the group. Each picture takes 49152 bytes on the way."""

    def __init__(self, limit: AllocatorLimit | None = None) -> None:
        self.counts: list[int] = []
        self.limit = limit or AllocatorLimit()

    def __call__(self, pixels_BCHW: torch.Tensor) -> Moments:
        with self.limit:
            self.counts.append(len(pixels_BCHW))
            on_the_way_BCHW = pixels_BCHW + 1e-6 * len(pixels_BCHW)
            mean_BCHW = torch.nn.functional.avg_pool2d(on_the_way_BCHW, 8)
            return mean_BCHW, mean_BCHW.abs() * 0.1


@pytest.fixture
def pictures(tmp_path: Path, picture) -> Pictures:
    for number in range(5):
        picture(tmp_path / "data" / f"{number}.png", seed=number)
    found = survey(SurveyRules(tmp_path / "data", text="x"), workers=1)
    placements = place_all(found.items, BucketRules(64, 64, 32, 128, 32, no_upscale=False))
    return Pictures(found.items, placements)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", limit_bytes=GB)


def cache_of(pictures: Pictures, vae: Callable[..., Moments], **how) -> LatentCache:
    cache = encode_latents(pictures, Encoder(vae, "v", "p"), **{"mode": "ram", **how})
    assert isinstance(cache, LatentCache)
    return cache


def entry(cache: LatentCache | LiveLatents, index: int) -> Encoded:
    draw = Draw(index, False, (0, 0), 1, 0)
    return cache.finish(draw, cache.prepare(draw))


def equal(one: LatentCache, other: LatentCache) -> bool:
    pairs = [(entry(one, index), entry(other, index)) for index in range(5)]
    return all(
        torch.equal(*both)
        for pair in pairs
        for both in zip(*pair, strict=True)
        if both[0] is not None
    )


# Groups -------------------------------------------------------------------------------------------


def test_memory_in_pieces_costs_one_more_attempt_and_no_bit(pictures: Pictures) -> None:
    vae = Vae(AllocatorLimit(ONE, only_first=1))
    cache = cache_of(pictures, vae, batch=3)
    assert vae.counts == [3, 3, 2] and cache.notices == []
    assert equal(cache, cache_of(pictures, Vae(), batch=3))


@pytest.mark.parametrize("mode", ["disk", "ram"])
def test_groups_that_do_not_fit_are_taken_apart_throughout(
    pictures: Pictures, store: Store, mode: str
) -> None:
    vae, told = Vae(), []
    seen: list[int] = []

    def shrink(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:  # The first group fitted; before the second another program came.
            vae.limit.limit_bytes = ONE

    cache = cache_of(
        pictures,
        vae,
        mode=mode,
        store=store,
        batch=3,
        progress=shrink,
        on_alone=lambda: told.append(list(vae.counts)),
    )
    assert vae.counts == [3, 2, 2, 1, 1, 1, 1, 1], "also those of the first group, anew"
    assert told == [[3, 2, 2]], "who has to note it hears of it before anything is encoded alone"
    (notice,) = cache.notices
    assert "3 pictures at once do not fit" in notice and "encoded alone" in notice
    alone = cache_of(pictures, Vae(), batch=1)
    assert equal(cache, alone)
    assert not equal(cache_of(pictures, Vae(), batch=3), alone), "or nothing is shown here"
    assert cache.key(0, False) == alone.key(0, False)
    assert equal(
        cache_of(pictures, Vae(), mode="disk", store=store, batch=3),
        cache_of(pictures, Vae(), batch=3),
    ), "a run with groups takes nothing of it"


def test_a_stop_is_no_want_of_memory(pictures: Pictures) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        cache_of(pictures, Vae(), batch=3, progress=stop)


def test_a_group_lost_in_the_run_is_never_made_in_another_way(
    pictures: Pictures, store: Store
) -> None:
    vae = Vae()
    cache = cache_of(pictures, vae, mode="disk", store=store, batch=3)
    good = entry(cache, 1)
    store.path(cache.key(1, False)).unlink()
    vae.limit.limit_bytes = ONE
    with pytest.raises(OutOfMemory, match=r"3 pictures at once again.*Resume the run"):
        entry(cache, 1)
    vae.limit.limit_bytes = None
    assert torch.equal(entry(cache, 1).mean_CHW, good.mean_CHW)


# Single pictures ----------------------------------------------------------------------------------


def test_a_picture_that_does_not_fit_is_named_with_its_size(pictures: Pictures) -> None:
    vae = Vae(AllocatorLimit(1000))
    for batch in (1, 3):
        with pytest.raises(OutOfMemory, match=r"0\.png.*at 64 x 64.*data\.resolution"):
            cache_of(pictures, vae, batch=batch)
    assert vae.counts == [1, 1, 3, 3, 1, 1]
    assert vae.limit.live == 0


@pytest.mark.parametrize("mode", ["ram", "off"])
def test_one_more_attempt_for_a_single_picture(pictures: Pictures, mode: str) -> None:
    vae = Vae(AllocatorLimit(1000, only_first=1))
    source = encode_latents(pictures, Encoder(vae, "v", "p"), mode=mode)  # type: ignore[arg-type]
    expected = entry(cache_of(pictures, Vae()), 0)
    assert torch.equal(entry(source, 0).mean_CHW, expected.mean_CHW)
    assert vae.limit.refused == 1


def test_a_picture_that_is_encoded_in_a_step_is_named_too(pictures: Pictures) -> None:
    vae = Vae(AllocatorLimit(1000))
    live = encode_latents(pictures, Encoder(vae, "v", "p"), mode="off")
    with pytest.raises(OutOfMemory, match=r"2\.png"):
        entry(live, 2)


# The host's memory --------------------------------------------------------------------------------


def room_for(entries: int) -> HostRoom:
    """So many entries are kept in memory, then less than the margin is left."""
    left = iter([9 * GB] * entries)
    return HostRoom(available=lambda: next(left, GB), margin=2 * GB)


@pytest.mark.parametrize("batch", [1, 3])
def test_what_does_not_fit_into_memory_is_read_from_the_disk_bit_by_bit(
    pictures: Pictures, store: Store, batch: int
) -> None:
    vae = Vae()
    cache = cache_of(pictures, vae, store=store, room=room_for(2), batch=batch)
    assert len(list(store.folder.rglob("*.safetensors"))) == 3
    (notice,) = cache.notices
    assert "3 of 5 latents" in notice and "1.0 GB were free, 2.0 GB are left" in notice
    made = len(vae.counts)
    assert equal(cache, cache_of(pictures, Vae(), batch=batch))
    assert len(vae.counts) == made, "nothing is encoded twice"


def test_an_entry_that_went_to_the_disk_and_is_gone_is_made_again(
    pictures: Pictures, store: Store
) -> None:
    cache = cache_of(pictures, Vae(), store=store, room=room_for(0))
    for path in store.folder.rglob("*.safetensors"):
        path.unlink()
    assert equal(cache, cache_of(pictures, Vae()))


def test_with_memory_enough_nothing_is_written(pictures: Pictures, store: Store) -> None:
    cache = cache_of(pictures, Vae(), store=store, room=room_for(5))
    assert not store.folder.exists() and cache.notices == []


def test_where_memory_and_disk_are_short_memory_is_used(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "put", full)
    cache = cache_of(pictures, Vae(), store=store, room=room_for(2))
    assert equal(cache, cache_of(pictures, Vae()))
    (notice,) = cache.notices
    assert "No space left" in notice


# What is no number --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["mean", "std"])
def test_an_entry_whose_checksum_is_right_but_not_its_numbers_is_made_again(
    pictures: Pictures, store: Store, part: str, wrong: float
) -> None:
    cache = cache_of(pictures, Vae(), mode="disk", store=store)
    good = entry(cache, 3)
    key = cache.key(3, False)
    tensors = {"mean": good.mean_CHW.clone(), "std": good.std_CHW.clone()}
    tensors[part][0, 0, 0] = wrong
    store.put(key, tensors)
    vae = Vae()
    again = cache_of(pictures, vae, mode="disk", store=store)
    assert vae.counts == [1]
    store.put(key, tensors)  # And in the middle of a run.
    assert torch.equal(entry(again, 3).mean_CHW, good.mean_CHW)
    assert torch.equal(entry(again, 3).std_CHW, good.std_CHW)
