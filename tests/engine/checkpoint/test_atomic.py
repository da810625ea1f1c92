"""Files are whole or not there, never replaced by a copy, and open to those whom they concern."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.checkpoint import atomic
from engine.checkpoint.atomic import copy_new, new_folder, write_text
from engine.networks.files import write_network
from engine.writing import remove_left_behind, temporary_beside


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022], ids=["umask 0", "umask 022"])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield int(request.param)
    os.umask(before)


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_tells_of_its_owner_is_for_the_owner_alone(tmp_path: Path, mask: int) -> None:
    write_text(tmp_path / "run.toml", "", private=True)
    write_text(tmp_path / "export.toml", "")
    assert mode(tmp_path / "run.toml") == 0o600
    assert mode(tmp_path / "export.toml") == 0o666 & ~mask
    assert mode(copy_new(tmp_path / "export.toml", tmp_path, "kept", private=True)) == 0o600


def test_a_replaced_file_that_was_open_to_all_is_private_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.touch(0o644)
    write_text(path, "new", private=True)
    assert mode(path) == 0o600


def test_a_network_file_is_as_open_as_the_umask_has_it(tmp_path: Path, mask: int) -> None:
    write_network(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})
    assert mode(tmp_path / "a.safetensors") == 0o666 & ~mask


def fails(number: int):
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    tensors = {"a": torch.ones(2)}
    write_text(tmp_path / "list.json", "old")
    write_network(tmp_path / "a.safetensors", tensors, {"told": "old"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        if call == "rename":
            patched.setattr(Path, "replace", fails(errno.EIO))
        else:
            patched.setattr(os, call, fails(errno.ENOSPC))
        with pytest.raises(OSError):
            write_text(tmp_path / "list.json", "new")
        with pytest.raises(OSError):
            write_network(tmp_path / "a.safetensors", tensors, {"told": "new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_that_takes_half_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda to, data: write(to, data[: max(1, len(data) // 2)]))
    write_text(tmp_path / "a", "0123456789")
    assert (tmp_path / "a").read_text() == "0123456789"


def test_a_disk_that_keeps_other_bytes_is_found_before_the_old_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"a": torch.ones(2)}
    path = tmp_path / "a.safetensors"
    write_network(path, tensors, {"told": "old"})
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda to, data: write(to, b"\0" * len(data)))
    with pytest.raises(OSError, match="not what was written"):
        write_network(path, tensors, {"told": "new"})
    with pytest.raises(OSError, match="not what was written"):
        copy_new(path, tmp_path / "loras")
    assert path.read_bytes() == before
    assert list((tmp_path / "loras").iterdir()) == []


def test_two_writers_of_one_file_never_share_a_temporary(tmp_path: Path) -> None:
    names = {temporary_beside(tmp_path / ("x" * 250)).name for _ in range(50)}
    assert len(names) == 50
    assert max(map(len, names)) < 64


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    temporary_beside(tmp_path / "a.safetensors").write_text("half")
    theirs = [".lyctui-mine.tmp", ".a.tmp", "a.tmp", ".lyctui-" + "0" * 32 + ".tmp.txt"]
    for name in theirs:
        (tmp_path / name).touch()
    (tmp_path / f".lyctui-{'0' * 32}.tmp").symlink_to(tmp_path / ".a.tmp")
    assert remove_left_behind(tmp_path) == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*theirs, f".lyctui-{'0' * 32}.tmp"}
    assert remove_left_behind(tmp_path / "gone") == 0


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without links"])
def test_copies_never_replace_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", fails(errno.EPERM))
    source = tmp_path / "a.safetensors"
    source.write_text("new")
    folder = tmp_path / "loras"
    assert copy_new(source, folder).name == "a.safetensors"
    (folder / "a.safetensors").write_text("theirs")
    assert copy_new(source, folder).name == "a_2.safetensors"
    assert (folder / "a.safetensors").read_text() == "theirs"
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "a_2.safetensors"]


def test_a_folder_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "step-1") as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_new_one_gets_no_name_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "step-1"
    with new_folder(target) as temporary:
        (temporary / "a").write_text("old")
    replace = Path.replace

    def second_fails(self: Path, other: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "no")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(OSError), new_folder(target) as temporary:
        (temporary / "a").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert (target / "a").read_text() == "old"


def test_the_old_folder_goes_only_when_the_new_name_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "step-1"
    target.mkdir()
    seen: list[list[str]] = []
    sync = atomic.sync_folder

    def looked(path: Path) -> None:
        sync(path)
        if path == tmp_path:
            seen.append(sorted(each.name for each in tmp_path.iterdir()))

    monkeypatch.setattr(atomic, "sync_folder", looked)
    with new_folder(target):
        pass
    assert seen == [[".step-1.old", "step-1"]]
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
