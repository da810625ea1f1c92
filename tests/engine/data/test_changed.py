"""What changes in the folders of a data set while a run goes on: told once, in a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.data.changed import NOTE, DataWatch, FileWatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcde":
        (tmp_path / f"{name}.png").write_bytes(b"picture")
        (tmp_path / f"{name}.txt").write_text("caption")
    return tmp_path


def watch(folder: Path, *masks: Path) -> DataWatch:
    return DataWatch([folder], masks, (".txt",))


def test_nothing_is_told_of_nothing(folder: Path) -> None:
    assert watch(folder).news() == ""


def test_each_change_is_told_once(folder: Path) -> None:
    watched = watch(folder)
    (folder / "a.txt").write_text("another caption")
    (folder / "b.txt").write_text("another caption")
    (folder / "c.png").unlink()
    assert watched.news() == (
        f"Captions a.txt, b.txt were edited and picture c.png was removed {NOTE}"
    )
    assert watched.news() == ""
    (folder / "a.txt").write_text("a third caption")
    (folder / "d.png").write_bytes(b"another picture")
    (folder / "f.png").write_bytes(b"picture")
    assert watched.news() == f"Picture d.png was replaced and picture f.png was added {NOTE}"


def test_many_are_counted(folder: Path) -> None:
    watched = watch(folder)
    for caption in folder.glob("*.txt"):
        caption.write_text("another caption")
    assert watched.news() == f"5 captions were edited {NOTE}"


def test_the_same_size_at_another_time_is_a_change(folder: Path) -> None:
    watched = watch(folder)
    os.utime(folder / "a.png", ns=(1, 1))
    assert watched.news() == f"Picture a.png was replaced {NOTE}"


def test_what_a_run_never_reads_is_nothing_to_it(folder: Path) -> None:
    watched = watch(folder)
    (folder / ".hidden.png").write_bytes(b"picture")
    (folder / "notes.md").write_text("notes")
    (folder / "a.npz").write_bytes(b"cache")
    assert watched.news() == ""


def test_masks_are_called_so(folder: Path) -> None:
    masks = folder / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes(b"mask")
    watched = watch(folder, masks)
    (masks / "a.png").unlink()
    assert watched.news() == f"Mask a.png was removed {NOTE}"


def test_a_folder_that_is_gone_as_a_whole(folder: Path) -> None:
    inside = folder / "inside"
    inside.mkdir()
    (inside / "a.png").write_bytes(b"picture")
    watched = watch(inside)
    (inside / "a.png").unlink()
    inside.rmdir()
    assert watched.news() == f"Picture a.png was removed {NOTE}"


def test_single_files_are_given_once(tmp_path: Path) -> None:
    base, missing = tmp_path / "base.safetensors", tmp_path / "vae.safetensors"
    base.write_bytes(b"base")
    watched = FileWatch([base, missing])
    assert watched.changed() == []
    base.write_bytes(b"another base")
    assert watched.news() == [base]
    assert watched.news() == []
    assert watched.changed() == [base]
