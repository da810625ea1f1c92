"""Conditioning of captions: encoded once, by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.data.captions import CaptionRules
from engine.data.images import ImageFact
from engine.data.keeping import HostRoom
from engine.data.store import Store
from engine.data.survey import Item
from engine.data.text import EncodeText, LiveText, TextCache, all_captions
from engine.errors import DataError, OutOfMemory

torch.set_num_threads(1)


class Encoder:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        self.asked += captions
        return torch.stack([torch.full((2, 3), float(len(text))) for text in captions])


def cache_of(encoder: EncodeText, store: Store | None = None, **facts) -> TextCache:
    known = {"te_hash": "t", "clip_skip": 1, "length": 75, "precision": "fp32 cpu", **facts}
    return TextCache(
        encoder,
        **known,
        join=torch.cat,
        place=lambda entry: entry,
        rest=lambda entry: entry.cpu(),
        store=store,
        pack=lambda entry: {"text": entry},
        unpack=lambda tensors: tensors["text"],
    )


def test_each_caption_is_encoded_once_and_alone() -> None:
    encoder = Encoder()
    cache = cache_of(encoder)
    cache.fill(["a", "bb", "a"])
    assert encoder.asked == ["a", "bb", ""]
    joined = cache.encode(["bb", "a", "bb"])
    assert joined[:, 0, 0].tolist() == [2.0, 1.0, 2.0]
    assert encoder.asked == ["a", "bb", ""]
    assert cache.encode(["new one"]).shape == (1, 2, 3)
    assert encoder.asked[-1] == "new one"


def test_entries_survive_on_disk_and_edited_captions_miss(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=10**9)
    cache_of(Encoder(), store).fill(["a", "bb"])
    again = Encoder()
    cache = cache_of(again, store)
    cache.fill(["a", "bb", "bb edited"])
    assert again.asked == ["bb edited"]
    assert torch.equal(cache.encode(["a"]), Encoder()(["a"]))


@pytest.mark.parametrize(
    "change",
    [
        {"te_hash": "u"},
        {"clip_skip": 2},
        {"length": 150},
        {"weighted": True},
        {"precision": "bf16 cuda"},
    ],
)
def test_another_encoder_misses(tmp_path: Path, change: dict[str, object]) -> None:
    store = Store(tmp_path, limit_bytes=10**9)
    cache_of(Encoder(), store).fill(["a"])
    other = Encoder()
    cache_of(other, store, **change).fill(["a"])
    assert other.asked == ["a", ""]


def test_a_full_disk_costs_nothing_but_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "put", full)
    cache = cache_of(Encoder(), Store(tmp_path, limit_bytes=1))
    cache.fill(["a"])
    assert cache.encode(["a"]).shape == (1, 2, 3)


def test_live_text_asks_each_time() -> None:
    encoder = Encoder()
    live = LiveText(encoder)
    live.encode(["a"])
    live.encode(["a"])
    assert encoder.asked == ["a", "a"]


def test_all_captions_of_a_data_set() -> None:
    fact = ImageFact(Path("a.png"), 1, 1, 1)
    item = Item(0, fact, "x, y", True, "x", "c", 1, False, False)
    reg = replace(item, index=1, caption_raw="y", is_reg=True)
    rules = CaptionRules(prefix="p", dropout=0.1)
    assert all_captions([item, reg], rules) == ("p x, y", "", "y")
    crowded = replace(item, caption_raw=", ".join("abcdefgh"))
    assert all_captions([item, crowded], CaptionRules(shuffle=True)) is None


# Memory and numbers going wrong -------------------------------------------------------------------


class Failing(Encoder):
    """Runs out of memory the first `times`."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        made = super().__call__(captions)
        self.times -= 1
        if self.times >= 0:
            raise torch.OutOfMemoryError("out of memory")
        return made


def test_one_more_attempt_then_words() -> None:
    once = Failing(1)
    cache_of(once).fill(["a"])
    assert once.asked == ["a", "a", ""]
    with pytest.raises(OutOfMemory, match=r"a \\x1b\[31mfox: There is not enough memory"):
        cache_of(Failing(2)).fill(["a \x1b[31mfox"])


def test_captions_that_do_not_fit_into_memory_are_read_from_the_disk(tmp_path: Path) -> None:
    left = iter([9_000_000_000, 9_000_000_000])
    room = HostRoom(available=lambda: next(left, 500_000_000), margin=1_000_000_000)
    encoder = Encoder()
    cache = cache_of(encoder, Store(tmp_path, limit_bytes=10**9), room=room)
    cache.fill(["a", "bb", "ccc"])
    (notice,) = cache.notices
    assert "2 of 4 captions" in notice and "0.5 GB were free, 1.0 GB are left" in notice
    for _ in range(2):
        assert torch.equal(cache.encode(["a", "ccc", ""]), Encoder()(["a", "ccc", ""]))
    assert encoder.asked == ["a", "bb", "ccc", ""], "nothing is encoded twice"
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert torch.equal(cache.encode(["a", "ccc"]), Encoder()(["a", "ccc"]))


def test_what_is_on_a_disk_that_became_full_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = HostRoom(available=lambda: 0)
    encoder = Encoder()
    cache = cache_of(encoder, Store(tmp_path, limit_bytes=10**9), room=room)
    cache.fill(["a"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "put", full)
    for _ in range(2):
        assert torch.equal(cache.encode(["a", "bb"]), Encoder()(["a", "bb"]))
    assert encoder.asked == ["a", "", "bb"], "nothing is encoded twice"


def test_captions_stay_in_memory_where_there_is_no_disk_for_them() -> None:
    encoder = Encoder()
    cache = cache_of(encoder, room=HostRoom(available=lambda: 0))
    cache.fill(["a"])
    cache.encode(["a"])
    assert encoder.asked == ["a", ""] and cache.notices == []


def test_an_entry_that_is_no_number_is_made_again_and_never_written(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=10**9)
    first = cache_of(Encoder(), store)
    first.fill(["a"])
    store.put(first.key("a"), {"text": torch.full((1, 2, 3), float("nan"))})
    again = Encoder()
    assert torch.equal(cache_of(again, store).encode(["a"]), Encoder()(["a"]))
    assert again.asked == ["a"]

    def overflowing(captions: Sequence[str]) -> torch.Tensor:
        return Encoder()(captions) * float("inf")

    with pytest.raises(DataError, match="bb: The text encoder gives no finite numbers"):
        cache_of(overflowing, store).fill(["bb"])
    assert store.get(first.key("bb")) is None
