"""What is sent to a terminal: no colour where none is wanted, palette colours over a plain line."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.terminal

STYLE = re.compile(rb"\x1b\[([0-9;]*)m")


def codes(output: bytes) -> set[bytes]:
    """Every code of every colour or style sequence."""
    found: set[bytes] = set()
    for sequence in STYLE.findall(output):
        found |= set(sequence.split(b";"))
    return found


def test_no_color_sends_styles_only(terminal):
    toy = terminal("--steps", "20", extra={"NO_COLOR": "1"})
    toy.shows("finished")
    toy.press(b"q")
    assert toy.wait() == 0
    allowed = {b"", b"0", b"1", b"2", b"3", b"4", b"7", b"39", b"49"}
    assert codes(toy.output) <= allowed, codes(toy.output) - allowed


def test_accent_is_a_palette_colour_where_true_color_is_not_announced(terminal):
    toy = terminal("--steps", "20")
    toy.shows("finished")
    toy.press(b"q")
    assert toy.wait() == 0
    assert b"38;5;161" in toy.output
    assert b"38;2;" not in toy.output


def test_ansi_theme_keeps_to_sixteen_colours(terminal):
    toy = terminal("--steps", "20", extra={"LYCTUI_THEME": "ansi"})
    toy.shows("finished")
    toy.press(b"q")
    assert toy.wait() == 0
    assert b"38;5;" not in toy.output
    assert b"38;2;" not in toy.output


def test_ascii_terminal_gets_ascii_signs(terminal):
    toy = terminal("--steps", "30", extra={"LYCTUI_ASCII": "1"})
    toy.shows("##")
    toy.shows("finished")
    toy.press(b"q")
    assert toy.wait() == 0
    assert "\u2588" not in toy.text
    assert not re.search("[\u2801-\u28ff]", toy.text)
