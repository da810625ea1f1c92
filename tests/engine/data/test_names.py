"""Folder names, by the table of the data set rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.names import class_text, folder_name, parse_folder_name


@pytest.mark.parametrize(
    ("name", "repeats", "text"),
    [
        ("10_sks dog", 10, "sks dog"),
        ("10", 10, ""),
        ("10_", 10, ""),
        ("010_dog", 10, "dog"),
        ("10__dog", 10, "_dog"),
        ("1_000_dog", 1, "000_dog"),
        ("0_dog", 0, "dog"),
        ("10_Zöe 柴犬", 10, "Zöe 柴犬"),
    ],
)
def test_names_with_repeats(name: str, repeats: int, text: str) -> None:
    said = parse_folder_name(name)
    assert (said.repeats, said.text, said.refused) == (repeats, text, "")


@pytest.mark.parametrize("name", ["10__dog", "1_000_dog"])
def test_names_that_get_a_notice(name: str) -> None:
    assert parse_folder_name(name).notice


@pytest.mark.parametrize("name", ["10_sks dog", "10", "010_dog", "0_dog"])
def test_names_without_a_notice(name: str) -> None:
    assert not parse_folder_name(name).notice


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("０１２_dog", "12_dog"),
        ("+5_dog", "5_dog"),
        (" 7_dog", "7_dog"),
        ("1.5_dog", "1_dog"),
        ("10-dog", "10_dog"),
        ("10 dog", "10_dog"),
        ("dog", ""),
        ("_dog", ""),
        ("3d render", ""),
    ],
)
def test_free_names_and_offers(name: str, rename: str) -> None:
    said = parse_folder_name(name)
    assert said.repeats is None
    assert said.text == name
    assert said.rename == rename
    assert not said.refused


@pytest.mark.parametrize("name", ["-3_dog", "20230512_holiday", "9" * 5000 + "_dog"])
def test_refused_names(name: str) -> None:
    said = parse_folder_name(name)
    assert said.refused
    assert said.rename


@given(st.text(max_size=40))
def test_no_name_breaks_the_parser(name: str) -> None:
    said = parse_folder_name(name)
    assert said.repeats is None or 0 <= said.repeats <= 10_000


def test_the_name_that_trigger_class_and_repeats_make() -> None:
    assert folder_name("vexilo", "emblem", 10) == "10_vexilo emblem"
    assert folder_name(" vexilo ", "", 3) == "3_vexilo"
    assert "/" not in folder_name("a/b", "c", 1)
    assert class_text("vexilo", "emblem") == "vexilo emblem"


@given(
    st.text(alphabet="abcdé ", max_size=8), st.text(alphabet="xyz ", max_size=8), st.integers(0, 99)
)
def test_a_made_name_reads_back(trigger: str, class_word: str, repeats: int) -> None:
    said = parse_folder_name(folder_name(trigger, class_word, repeats))
    assert (said.repeats, said.text) == (repeats, class_text(trigger, class_word))
