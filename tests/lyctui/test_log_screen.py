"""The log of a run: what is in the file, what comes to it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Log

import lyctui.app
from lyctui.app import LyctuiApp
from lyctui.screens.log import LogScreen, TextScreen
from tests.lyctui.wizard_parts import until


class App(LyctuiApp):
    CSS_PATH = Path(lyctui.app.__file__).parent / "styles" / "app.tcss"


async def test_a_log_is_shown_as_it_is_and_followed(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text("first\nsecond\x1b[31m\n")
    app = App(lambda: LogScreen(path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, LogScreen))
        await until(pilot, lambda: app.screen.query_one(Log).line_count > 1)
        log = app.screen.query_one(Log)
        assert log.lines[0] == "first"
        assert "nothing yet" not in log.lines and "\x1b" not in "".join(log.lines)
        assert log.has_focus
        with path.open("a") as file:
            file.write("third\n")
        await until(pilot, lambda: "third" in log.lines)


async def test_an_empty_text_says_so() -> None:
    app = App(lambda: TextScreen("samples", []))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, TextScreen))
        await until(pilot, lambda: "nothing yet" in app.screen.query_one(Log).lines)


@pytest.mark.parametrize("of_file", [False, True])
async def test_long_lines_are_seen_whole_at_every_width(tmp_path: Path, of_file: bool) -> None:
    words = [f"word{number}" for number in range(40)]
    path = tmp_path / "run.log"
    path.write_text(f"{' '.join(words)}\n    indented\n")
    app = App(
        lambda: LogScreen(path) if of_file else TextScreen("text", path.read_text().split("\n"))
    )
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, TextScreen))
        log = app.screen.query_one(Log)
        for width in (80, 120):
            await pilot.resize_terminal(width, 24)
            await until(pilot, lambda: 0 < log.virtual_size.width <= log.content_size.width)
            seen = [line for line in log.lines if line]
            assert max(map(len, seen)) > width - 20, "no narrower than it has to be"
            assert " ".join(seen).split() == [*words, "indented"]
            assert "    indented" in seen
