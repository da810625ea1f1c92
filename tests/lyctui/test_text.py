"""Foreign text is harmless, numbers read as the rules say, widths count in cells."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lyctui import terminal, text


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b]0;owned\x07",
        "a\x00b\x7f",
        "\x9b31m",
        "name\u202egnp.exe",
        "line\nline\r\x85\u2028",
        os.fsdecode(b"caf\xe9.png"),
    ],
)
def test_inert_leaves_nothing_to_obey(hostile: str) -> None:
    shown = text.inert(hostile)
    shown.encode()  # no lone surrogates
    assert not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 for each in shown)
    assert not {"\u202e", "\u2028"} & set(shown)


def test_inert_keeps_what_is_harmless() -> None:
    assert text.inert("10_初音ミク [b]é[/b] 🙂") == "10_初音ミク [b]é[/b] 🙂"
    assert text.inert("a\tb") == "a b"
    assert text.inert("a\r\nb\x1b", lines=True) == "a\nb␛"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.grouped(1920), "1 920"),
        (text.grouped(1234567), "1 234 567"),
        (text.significant(0.09312), "0.0931"),
        (text.significant(0.5), "0.500"),
        (text.significant(1920.4), "1 920"),
        (text.significant(float("nan")), "not a number"),
        (text.rate(8.1e-5), "8.1e-05"),
        (text.rate(0), "0"),
        (text.memory(int(8.7 * 2**30)), "8.7 GiB"),
        (text.memory(300 * 2**20), "300 MiB"),
        (text.filesize(37_700_000), "37.7 MB"),
        (text.duration(861), "14:21"),
        (text.duration(3723), "1:02:03"),
        (text.about(45), "45 s"),
        (text.about(7800), "2 h 10 min"),
        (text.span(19 * 60, 21 * 60), "19 to 21 min"),
        (text.span(1200, 1210), "20 min"),
        (text.span(3000, 4200), "50 min to 1 h 10 min"),
        (text.age(time.time() - 7200), "2 h ago"),
        (text.counted(1, "picture"), "1 picture"),
        (text.counted(1920, "step"), "1 920 steps"),
        (text.listed(["a", "b", "c", "d", "e"]), "a, b, c and 2 more"),
        (text.home(Path.home() / "x"), "~/x"),
    ],
)
def test_numbers_have_units_and_groups(shown: str, expected: str) -> None:
    assert shown == expected


def test_widths_are_counted_in_cells() -> None:
    assert text.cells("初音") == 4
    assert text.cells(text.fit("10_初音ミク emblem", 9)) <= 9
    assert text.fit_middle("/a/very/long/path/to/file.safetensors", 20).endswith("safetensors")
    assert text.cells(text.fit_middle("初音ミク" * 9, 20)) <= 20
    assert text.cells(text.pad("初音", 7)) == 7
    for line in text.wrap("初音ミク " * 5 + "x" * 50, 12):
        assert text.cells(line) <= 12


def test_ascii_only_covers_our_signs() -> None:
    assert text.ascii_only("✓ 3 × 4 · “x” → 初") == '+ 3 x 4 - "x" -> ?'
    for sign in (getattr(text.ASCII_SIGNS, name) for name in text.Signs.__slots__):
        assert sign.isascii()


def test_terminal_decisions() -> None:
    assert terminal.is_dumb({"TERM": "dumb"})
    assert terminal.is_dumb({})
    assert not terminal.is_dumb({"TERM": "xterm"})
    assert terminal.choose_theme(None, {"TERM": "xterm-256color"}) == "dark"
    assert terminal.choose_theme(None, {"TERM": "linux"}) == "ansi"
    assert terminal.choose_theme(None, {"TERM": "xterm", "NO_COLOR": "1"}) == "ansi"
    assert terminal.choose_theme("light", {"LYCTUI_THEME": "dark"}) == "light"
    assert terminal.choose_theme(None, {"LYCTUI_THEME": "light"}) == "light"
    assert terminal.choose_theme("no such", {"TERM": "xterm"}) == "dark"
    assert terminal.in_multiplexer({"TMUX": "x"})


def test_fetch_line_is_a_guess_from_the_session() -> None:
    session = {"SSH_CONNECTION": "10.0.0.2 51000 10.0.0.9 2222", "USER": "ada"}
    line = terminal.fetch_line("/home/ada/a b.safetensors", session)
    assert line == "scp -P 2222 'ada@10.0.0.9:/home/ada/a b.safetensors' ."
    assert terminal.fetch_line("/x", {}) is None
    six = {"SSH_CONNECTION": "::1 5 fd00::9 22", "USER": "ada"}
    assert terminal.fetch_line("/x", six) == "scp 'ada@[fd00::9]:/x' ."
