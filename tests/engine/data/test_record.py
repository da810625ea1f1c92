"""What the data of a run was: written down, read again, and compared by kind and name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine.data.record import (
    Records,
    differences,
    from_text,
    missing_or_replaced,
    read_records,
    records_of,
    to_text,
)
from engine.data.survey import SurveyRules, survey


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures with captions but for the last, and a mask for the first."""
    pictures = tmp_path / "pictures" / "2_emblem"
    pictures.mkdir(parents=True)
    (tmp_path / "masks").mkdir()
    for number, name in enumerate("abcd"):
        Image.new("RGB", (64, 64), (40 * number, 0, 0)).save(pictures / f"{name}.png")
        if name != "d":
            (pictures / f"{name}.txt").write_text(f"emblem {name}")
    Image.new("L", (64, 64), 255).save(tmp_path / "masks" / "a.png")
    return pictures


def read(folder: Path) -> Records:
    rules = SurveyRules(folder.parent, masks="folder", mask_folder=folder.parent.parent / "masks")
    return records_of(survey(rules).items, folder.parent, None)


def said(before: Records, folder: Path) -> list[str]:
    found = differences(before, read(folder), folder.parent, None)
    assert all(problem.remedy for problem in found)
    return [problem.what for problem in found]


def test_nothing_differs_from_what_was_just_read(folder: Path) -> None:
    records = read(folder)
    assert from_text(to_text(records)) == records
    assert said(records, folder) == []
    assert [key for _, key in records] == [f"2_emblem/{name}.png" for name in "abcd"]


def test_everything_that_differs_is_named(folder: Path) -> None:
    before = read(folder)
    Image.new("RGB", (64, 64), "white").save(folder / "new.png")
    (folder / "a.png").unlink()
    (folder / "a.txt").unlink()
    Image.new("RGB", (64, 64), "white").save(folder / "b.png")
    (folder / "b.txt").write_text("emblem, edited")
    (folder / "c.txt").unlink()
    (folder / "d.txt").write_text("emblem d")
    Image.new("L", (64, 64), 128).save(folder.parent.parent / "masks" / "c.png")
    assert said(before, folder) == [
        "1 picture was added since this run began: 2_emblem/new.png.",
        "1 picture was removed since this run began: 2_emblem/a.png.",
        "1 picture was replaced since this run began: 2_emblem/b.png.",
        "1 caption was edited since this run began: of 2_emblem/b.png.",
        "1 caption was added since this run began: of 2_emblem/d.png.",
        "1 caption was removed since this run began: of 2_emblem/c.png.",
        "1 mask was changed since this run began: of 2_emblem/c.png.",
    ]


def test_a_picture_that_is_there_and_cannot_be_read(folder: Path) -> None:
    before = read(folder)
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:40])
    assert said(before, folder) == [
        "1 picture was made unreadable since this run began: 2_emblem/c.png."
    ]


def test_many_names_are_counted(folder: Path) -> None:
    before = read(folder)
    for number in range(11):
        Image.new("RGB", (64, 64), (0, number, 0)).save(folder / f"n{number:02d}.png")
    (line,) = said(before, folder)
    assert line.startswith("11 pictures were added since this run began: 2_emblem/n00.png, ")
    assert line.endswith("2_emblem/n07.png and 3 more.")


def test_a_data_set_that_moved_is_the_same(folder: Path) -> None:
    before = read(folder)
    moved = folder.parent.rename(folder.parent.with_name("moved")) / folder.name
    rules = SurveyRules(moved.parent, masks="folder", mask_folder=moved.parent.parent / "masks")
    now = records_of(survey(rules).items, moved.parent, None)
    assert differences(before, now, moved.parent, None) == []


def test_files_alone_tell_what_is_missing_or_replaced(folder: Path) -> None:
    before = read(folder)
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"no picture")
    found = [one.what for one in missing_or_replaced(before, folder.parent, None)]
    assert found == [
        "1 picture was removed since this run began: 2_emblem/a.png.",
        "1 picture was replaced since this run began: 2_emblem/b.png.",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"version": 2, "pictures": []}', '{"version": 1, "pictures": [{"a": 1}]}'],
)
def test_what_is_no_record_is_none(text: str, tmp_path: Path) -> None:
    assert from_text(text) is None
    (tmp_path / "data.json").write_text(text)
    assert read_records(tmp_path) is None


def test_names_are_shown_without_control_characters(folder: Path) -> None:
    before = read(folder)
    Image.new("RGB", (64, 64), "white").save(folder / "evil\x1b[31m.png")
    (line,) = said(before, folder)
    assert "\x1b" not in line
    assert "evil\\x1b[31m.png" in line
