"""The content-keyed store: atomic, checked, limited."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.data.store import Store, content_key

torch.set_num_threads(1)


def store_in(folder: Path, limit: int = 10**9) -> Store:
    return Store(folder, limit_bytes=limit)


def test_what_is_put_is_got_exactly(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    tensors = {"a": torch.randn(2, 3), "b": torch.randn(4).to(torch.bfloat16), "c": torch.tensor(1)}
    store.put("ab12", tensors)
    found = store.get("ab12")
    assert found is not None
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert found["b"].dtype == torch.bfloat16


def test_a_missing_key_is_none(tmp_path: Path) -> None:
    assert store_in(tmp_path / "nowhere").get("ab") is None


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_flipped_bit_gets_through(tmp_path: Path, place: int, bit: int) -> None:
    store = store_in(tmp_path)
    tensors = {"mean": torch.arange(12.0), "std": torch.ones(12)}
    store.put("key", tensors)
    path = store.path("key")
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    found = store.get("key")
    if found is None:
        assert not path.exists()  # So that it is made again.
    else:  # A bit of padding or spelling that changes no number.
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            name: tensor.tolist() for name, tensor in tensors.items()
        }


@pytest.mark.parametrize("length", [0, 4, 50, 200])
def test_cut_entries_are_made_again(tmp_path: Path, length: int) -> None:
    store = store_in(tmp_path)
    store.put("key", {"a": torch.ones(40)})
    store.path("key").write_bytes(store.path("key").read_bytes()[:length])
    assert store.get("key") is None


def test_an_entry_under_another_name_is_not_taken(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.put("aa1", {"a": torch.ones(4)})
    store.path("aa1").rename(store.path("aa2"))
    assert store.get("aa2") is None


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        store.put("key", {"a": torch.ones(4)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_entries_unused_for_longest_go_first(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for number, key in enumerate(("old", "used", "kept", "new")):
        store.put(key, {"a": torch.ones(1000)})
        os.utime(store.path(key), (number, number))
    assert store.get("used") is not None  # Use makes it young again.
    size = store.path("old").stat().st_size
    store.limit_bytes = int(2.5 * size)
    left = store.trim(frozenset({"kept"}))
    assert left <= store.limit_bytes
    present = {path.stem for path in tmp_path.glob("*/*.safetensors")}
    assert present == {"used", "kept"}


def test_a_limit_of_zero_keeps_only_what_is_in_use(tmp_path: Path) -> None:
    store = store_in(tmp_path, limit=0)
    for key in ("a", "b"):
        store.put(key, {"a": torch.ones(10)})
    assert store.trim(frozenset({"b"})) > 0
    assert store.get("a") is None and store.get("b") is not None


def test_temporary_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "ab"
    folder.mkdir()
    dead, alive = folder / ".tmp-dead", folder / ".tmp-alive"
    for path in (dead, alive):
        path.touch()
    os.utime(dead, (time.time() - 7200,) * 2)
    store_in(tmp_path).trim()
    assert alive.exists() and not dead.exists()


def test_keys_differ_by_every_part() -> None:
    keys = {
        content_key(image="a", flip=False),
        content_key(image="a", flip=True),
        content_key(image="b", flip=False),
        content_key(image="a", flip=False, extra=None),
    }
    assert len(keys) == 4
    assert content_key(a=1, b=2) == content_key(b=2, a=1)
