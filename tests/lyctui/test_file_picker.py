"""Paths: completion, listing, picking with keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList, Static

from lyctui.app import LyctuiApp
from lyctui.widgets.file_picker import FilePicker, list_folder, starting_folder
from lyctui.widgets.path_input import complete
from tests.lyctui.wizard_parts import until


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("models/sd15", "models/sdxl", "pictures", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models/base.safetensors").write_bytes(b"x" * 2000)
    (tmp_path / "models/notes.txt").write_text("x")
    (tmp_path / "pictures/a.PNG").write_bytes(b"x")
    return tmp_path


def test_completion_adds_what_all_candidates_share(tree: Path) -> None:
    assert complete(f"{tree}/mod", "file") == f"{tree}/models/"
    assert complete(f"{tree}/models/sd", "folder") == f"{tree}/models/sd", "two go on differently"
    assert complete(f"{tree}/models/sdx", "folder") == f"{tree}/models/sdxl/"
    assert complete(f"{tree}/models/b", "file") == f"{tree}/models/base.safetensors"
    assert complete(f"{tree}/models/b", "folder") == f"{tree}/models/b", "a file is no folder"
    assert complete(f"{tree}/none/x", "file") == f"{tree}/none/x"


def test_completion_of_names_that_are_not_utf8(tree: Path) -> None:
    (tree / os.fsdecode(b"caf\xe9")).mkdir()
    assert complete(f"{tree}/ca", "folder") == f"{tree}/caf\\xe9/"


def test_a_file_list_has_folders_and_fitting_files_only(tree: Path) -> None:
    names = [entry.name for entry in list_folder(tree / "models", "file").entries]
    assert names == ["../", "sd15/", "sdxl/", "base.safetensors"]


def test_a_folder_list_offers_itself_and_counts_pictures(tree: Path) -> None:
    entries = list_folder(tree / "pictures", "folder").entries
    assert entries[0].use and entries[0].note == "1 pictures here"
    listing = list_folder(tree, "folder")
    assert "1 hidden" in listing.problem


def test_a_folder_that_cannot_be_read_still_leads_up(tree: Path) -> None:
    listing = list_folder(tree / "gone", "file")
    assert "cannot be read" in listing.problem and listing.entries[0].path == tree
    assert starting_folder(tree / "models" / "gone" / "deeper") == tree / "models"


async def test_picking_with_keys(tree: Path) -> None:
    app = LyctuiApp()
    picked: list[Path | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(FilePicker(tree, "file"), picked.append)
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count == 3)
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count == 4)
        await pilot.press("backspace")
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count == 3)
        assert app.screen.query_one(OptionList).highlighted == 1, "where one came from"
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count == 4)
        await pilot.press("enter")
        await until(pilot, lambda: picked)
    assert picked == [tree / "models" / "base.safetensors"]


async def test_a_typed_path_is_taken_or_told_why_not(tree: Path) -> None:
    app = LyctuiApp()
    picked: list[Path | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(FilePicker(tree, "folder"), picked.append)
        await pilot.pause()
        typed = app.screen.query_one(Input)
        typed.focus()
        hint = app.screen.query_one(".hint", Static)
        for wrong, words in (("/none", "nothing of that name"), ("/models/notes.txt", "is a file")):
            typed.value = f"{tree}{wrong}"
            await pilot.press("enter")
            await until(pilot, lambda words=words: words in str(hint.render()))
        typed.value = f"{tree}/pictures"
        await pilot.press("ctrl+n")
        await until(pilot, lambda: picked)
    assert picked == [tree / "pictures"]


async def test_escape_changes_nothing(tree: Path) -> None:
    app = LyctuiApp()
    picked: list[Path | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(FilePicker(tree, "folder"), picked.append)
        await pilot.press("escape")
        await until(pilot, lambda: picked)
    assert picked == [None]
