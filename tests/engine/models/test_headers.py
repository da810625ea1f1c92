"""Headers are written by strangers: each lie is named, none is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError
from engine.models.headers import main_dtype, read_header


def write(path: Path, entries: Any, data: bytes = b"", length: int | None = None) -> Path:
    body = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    length = len(body) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + body + data)
    return path


def tensor(shape: list[Any], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_good_header_is_read(tmp_path: Path) -> None:
    entries = {
        "__metadata__": {"format": "pt"},
        "a": tensor([2, 3], 0, 24),
        "b": tensor([4], 24, 32, "F16"),
        "empty": tensor([0], 32, 32),
    }
    header = read_header(write(tmp_path / "m.safetensors", entries, bytes(32)))
    assert header.metadata == {"format": "pt"}
    assert header.tensors["a"].shape == (2, 3)
    assert header.tensors["b"].count == 4
    assert main_dtype(header.tensors.values()) == "fp32"


@pytest.mark.parametrize(
    ("entries", "data"),
    [
        ({"a": tensor([2], 0, 4)}, 4),
        ({"a": tensor([2], 0, 8)}, 4),
        ({"a": tensor([2], 0, 8)}, 12),
        ({"a": tensor([-2], 0, 8)}, 8),
        ({"a": tensor([True, 2], 0, 8)}, 8),
        ({"a": tensor([2.0], 0, 8)}, 8),
        ({"a": tensor([1 << 62, 1 << 62], 0, 8)}, 8),
        ({"a": tensor([1] * 99, 0, 4)}, 4),
        ({"a": tensor([2], 8, 0)}, 8),
        ({"a": tensor([2], -8, 0)}, 8),
        ({"a": tensor([2], 0, 8, "Q8")}, 8),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8),
        ({"a": tensor([2], 0, 8), "b": tensor([1], 4, 8)}, 8),
        ({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12), "c": tensor([1], 0, 4)}, 12),
        ({"a": tensor([1], 4, 8)}, 8),
        (b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"shape":[0]}}', 0),
        ({"a": tensor([0, 1 << 63], 0, 0)}, 0),
        ({"a": 7}, 0),
        ([1, 2], 0),
        (b"{not json", 0),
        (b"[" * 100_000, 0),
    ],
)
def test_a_lie_is_refused(tmp_path: Path, entries: Any, data: int) -> None:
    path = write(tmp_path / "m.safetensors", entries, bytes(data))
    with pytest.raises(ModelError) as error:
        read_header(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_length_that_cannot_be_allocates_nothing(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelError, match="not a whole"):
        read_header(write(tmp_path / "m.safetensors", {}, length=length))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "not a whole"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"version https://git-lfs", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
)
def test_what_is_no_safetensors_is_called_by_its_name(
    tmp_path: Path, start: bytes, words: str
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(start)
    with pytest.raises(ModelError, match=words):
        read_header(path)


def test_metadata_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    entries = {"__metadata__": {"a": 1, "b": "x"}}
    assert read_header(write(tmp_path / "m.safetensors", entries)).metadata == {"b": "x"}


def test_a_tensor_of_nothing_may_stand_anywhere(tmp_path: Path) -> None:
    entries = {"v": tensor([0], 4, 4), "a": tensor([1], 0, 4), "b": tensor([1], 4, 8)}
    assert set(read_header(write(tmp_path / "m.safetensors", entries, bytes(8))).tensors) == set(
        "vab"
    )


def test_an_unknown_number_format_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": tensor([2], 0, 1, "F4")}, bytes(1))
    with pytest.raises(ModelError, match="F4"):
        read_header(path)
