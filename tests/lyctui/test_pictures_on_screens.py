"""Pictures beside the chart, samples as pictures, prompts changed from the monitor, and the opt-in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from textual.widgets import Static, TextArea

from engine.events import Sampled
from lyctui import pictures, terminal
from lyctui.app import LyctuiApp
from lyctui.config import Config, read_config
from lyctui.pictures import Pictures
from lyctui.screens.log import TextScreen
from lyctui.screens.pictures import SamplesScreen
from lyctui.screens.prompts import PromptsScreen
from lyctui.screens.run import RunScreen
from lyctui.widgets.lines import Lines
from lyctui.widgets.picture_row import PictureRow


async def until(pilot: Any, ready: Any) -> None:
    while not ready():
        await pilot.pause(0.02)


def sampled(run: Any, step: int, colour: str) -> None:
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(3):
        path = folder / f"step-{step}_{number}.png"
        Image.new("RGB", (64, 64), colour).save(path)
        paths.append(str(path))
    run.session.emit(Sampled(step, 1, tuple(paths), ("a cat", "a dog", "a bird")))


@pytest.fixture
def app(toy_run: Any) -> LyctuiApp:
    run = toy_run(steps=100_000, seconds=0.01)
    made = LyctuiApp(run=run, fps=20, ascii_only=False)
    made.pictures = Pictures()
    return made


async def test_the_monitor_shows_the_newest_pictures(app: LyctuiApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        await until(
            pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.query("#newest")
        )
        row = app.screen.query_one("#newest", PictureRow)
        for step, colour in ((1, "#ff0000"), (2, "#00ff00")):
            sampled(app.shown_run, step, colour)
            await until(pilot, lambda wanted=colour: _colours(row) == {wanted})
            assert len(row.query(Static)) == 2
        assert "step-2_0.png" in app.screen.query_one("#samples", Lines).plain


def _colours(row: PictureRow) -> set[str]:
    """Colours of the pictures that are drawn."""
    found = set()
    for view in row.query(Static):
        for strip in view.render_lines(view.size.region):
            for segment in strip:
                if segment.text.strip() and segment.style is not None and segment.style.color:
                    triplet = segment.style.color.get_truecolor()
                    found.add(triplet.hex)
    return found


async def test_samples_are_pictures_or_paths(app: LyctuiApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        sampled(app.shown_run, 1, "#ff0000")
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, SamplesScreen))
        await until(pilot, lambda: len(app.screen.query("#body > Static")) == 3)
        assert "a dog" in " ".join(one.plain for one in app.screen.query(Lines))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        app.pictures.mode = "off"
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, TextScreen))


async def test_prompts_are_not_asked_before_the_run_has_written_its_own(app: LyctuiApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await pilot.press("t")
        await until(pilot, lambda: any("has loaded" in one.message for one in app._notifications))
        assert isinstance(app.screen, RunScreen)


async def test_prompts_are_changed_from_the_monitor(app: LyctuiApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert app.shown_run is not None
        file = app.shown_run.folder / "samples" / "prompts.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("# mine\na cat\n")
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, PromptsScreen))
        area = app.screen.query_one(TextArea)
        assert area.text == "# mine\na cat\n"
        area.text = "a [dog] --q 1"
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "column 9" in app.screen.query_one("#wrong", Lines).plain)
        assert file.read_text() == "# mine\na cat\n"
        area.text = "a [dog] --d 1"
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert file.read_text() == "a [dog] --d 1\n"


def test_the_way_is_chosen_by_variable_then_config(tmp_path: Path) -> None:
    assert pictures.wanted_mode(None, {}) == "cells"
    assert pictures.wanted_mode("auto", {}) == "auto"
    assert pictures.wanted_mode("auto", {"LYCTUI_PICTURES": "off"}) == "off"
    assert pictures.wanted_mode("auto", {"LYCTUI_PICTURES": "nonsense"}) == "auto"
    file = tmp_path / "config.toml"
    file.write_text('pictures = "sixel"')
    assert read_config(file) == Config(pictures="sixel")
    file.write_text('pictures = "best"')
    assert "cells, auto, sixel, kitty, off" in read_config(file).problems[0]


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TMUX", "STY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(terminal, "is_terminal", lambda *_: True)
    yield


def test_without_the_package_it_stays_at_half_cells(
    at_a_terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PACKAGE", "no_such_package_at_all")
    found, why = pictures.settle("auto", print)
    assert (found.mode, found.widget) == ("cells", None) and "pip install lyctui[preview]" in why
    monkeypatch.setenv("TMUX", "1")
    assert "tmux" in pictures.settle("auto", print)[1]
    assert pictures.settle("cells", print)[1] == ""


def test_what_the_kitty_protocol_sends_goes_to_the_terminal(
    at_a_terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of the same shape stands for it: the real one asks the terminal while it is imported."""
    names = ("stand_in", "stand_in.widget", "stand_in.renderable", "stand_in.renderable.tgp")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    widgets: Any = sys.modules["stand_in.widget"]
    widgets.TGPImage, widgets.HalfcellImage, widgets.UnicodeImage = object(), object(), object()
    widgets.Image = widgets.UnicodeImage
    monkeypatch.setattr(pictures, "PACKAGE", "stand_in")
    sent: list[str] = []
    found, why = pictures.settle("kitty", sent.append)
    assert found.widget is widgets.TGPImage and why == ""
    stream: Any = sys.modules["stand_in.renderable.tgp"].sys.__stdout__
    stream.write("\x1b_G")
    stream.flush()
    assert sent == ["\x1b_G"]
    assert pictures.settle("auto", sent.append)[0].mode == "cells", (
        "the terminal draws nothing better"
    )
