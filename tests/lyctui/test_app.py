"""The screens at 80x24 through Pilot: monitor, leaving, results, problems, help, size, palette."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.color import Color
from textual.app import ComposeResult
from textual.filter import NoColor
from textual.screen import Screen
from textual.widgets import Button, Footer, Input, Log, OptionList

from engine.errors import Problem, RecipeError
from engine.events import Validated
from lyctui.app import LyctuiApp
from lyctui.monitor import WatchedRun
from lyctui.screens.help import HelpScreen
from lyctui.screens.log import TextScreen
from lyctui.screens.problem import ProblemScreen
from lyctui.screens.quit import QuitScreen
from lyctui.screens.results import ResultsScreen
from lyctui.screens.run import RunScreen
from lyctui.screens.small import TooSmallScreen
from lyctui.widgets.chart import LossChart
from lyctui.widgets.lines import Lines

SIZE = (80, 24)
DEFAULT = Color.default()


class Page(Screen[None]):
    """A page of a wizard."""

    def compose(self) -> ComposeResult:
        yield Input(id="name")
        yield Footer()


async def until(pilot: Any, condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    # A screen may be on top before its widgets are there.
    while not (pilot.app.screen.is_mounted and condition()):
        assert time.monotonic() < deadline, "waited too long"
        await pilot.pause(0.02)


def shown(app: LyctuiApp, selector: str) -> str:
    return app.screen.query_one(selector, Lines).plain


def statics(app: LyctuiApp) -> str:
    return " ".join(str(each.render()) for each in app.screen.query("Static"))


async def test_monitor_shows_the_run(toy_run) -> None:
    app = LyctuiApp(run=toy_run(steps=400, seconds=0.2), fps=20)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await until(pilot, lambda: "elapsed" in shown(app, "#progress"))
        await until(pilot, lambda: "8.1e-05 unet" in shown(app, "#numbers"))
        await until(pilot, lambda: "┤" in shown(app, "#chart"))
        assert "vexilo_v1" in shown(app, "#title")
        assert "/ 400" in shown(app, "#title")
        for lines in app.screen.query(Lines):
            assert all(len(row) <= 80 for row in lines.plain.splitlines())
        assert not app.screen.query_one("#beside").display
        await pilot.press("g")
        assert app.screen.query_one(LossChart).log_scale


async def test_measured_losses_have_a_row_of_their_own(toy_run) -> None:
    run = toy_run(steps=400, seconds=0.2)
    run.session.emit(Validated(0, 0, 0.2011, 0.2101))
    app = LyctuiApp(run=run, fps=20)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await until(pilot, lambda: "0.2011 held out" in shown(app, "#numbers"))
        await until(pilot, lambda: app.screen.query_one("#numbers").size.height == 4)
        assert app.screen.query_one("#middle").size.height >= 5


async def test_requests_are_acknowledged_by_events(toy_run) -> None:
    run = toy_run(steps=100_000, seconds=0.01)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: run.snapshot().step > 1)
        await pilot.press("s")
        await until(pilot, lambda: run.snapshot().last_saved_step > 0)
        await pilot.press("p")
        await until(pilot, lambda: run.snapshot().samples)
        await pilot.press("space")
        await until(pilot, lambda: run.snapshot().state == "paused")
        await until(pilot, lambda: "paused" in shown(app, "#title"))
        await pilot.press("h")
        await until(pilot, lambda: run.snapshot().state == "running")
        await until(pilot, lambda: "asked to pause" in shown(app, "#events"))
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
        assert run.snapshot().state == "stopped"


async def test_leaving_asks_with_cancel_focused(toy_run) -> None:
    run = toy_run(steps=100_000, seconds=0.01)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: run.snapshot().step > 1)
        for key in ("q", "ctrl+q", "ctrl+c"):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, QuitScreen))
            assert isinstance(app.focused, Button)
            assert app.focused.id == "cancel"
            await pilot.press("ctrl+q")
            await pilot.press("n")
            await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert run.live
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        await pilot.press("y")
        await until(pilot, lambda: not run.live)
        await until(pilot, lambda: app._exit)
    assert run.snapshot().state == "stopped"


async def test_keeping_training_closes_the_screen_only(toy_run) -> None:
    run = toy_run(steps=100_000, seconds=0.01)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: run.snapshot().step > 1)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        await pilot.press("k")
        await until(pilot, lambda: app._exit)
    assert app.keep_training
    assert run.live


async def test_results_name_files_prompt_and_command(toy_run, monkeypatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.2 51000 10.0.0.9 22")
    monkeypatch.setenv("USER", "ada")
    run = toy_run(steps=6, seconds=0.0)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
        await until(pilot, lambda: app.screen.query("#onward") and shown(app, "#onward"))
        page = shown(app, "#results") + shown(app, "#onward")
        assert "✓ vexilo_v1.safetensors" in page
        assert "read back and checked" in page
        assert "vexilo emblem" in page
        assert "models/loras" in page
        assert "scp" in page
        assert all(len(row) <= 78 for row in page.splitlines())
        await pilot.press("q")
        await until(pilot, lambda: app._exit)


async def test_missing_file_is_an_error_on_the_results_page(toy_run) -> None:
    run = toy_run(steps=6, seconds=0.0)
    run.start()
    assert run.wait(10)
    (run.folder / "vexilo_v1.safetensors").unlink()
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
        await until(pilot, lambda: "✗ vexilo_v1.safetensors" in shown(app, "#results"))


async def test_out_of_memory_is_a_screen_with_actions(toy_run) -> None:
    run = toy_run(steps=20, seconds=0.01, fail_at=5)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        await until(pilot, lambda: "The GPU ran out of memory." in statics(app))
        words = statics(app)
        assert "Set train.batch_size to 1." in words
        assert "run.log" in words.replace("\n", "")
        await until(pilot, lambda: "out of memory" in shown(app, "TitleLine"))
        assert app.screen.query_one(OptionList).option_count == 2
        await pilot.press("1")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))


async def test_engine_errors_become_a_screen_not_a_crash(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RecipeError(Problem("[b]no[/b] \x1b[2J", "run.toml", "Set it.", "optim.lr"))

    monkeypatch.setattr("lyctui.app.open_run", refuse)
    app = LyctuiApp(Page)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Page))
        assert not app.start_run(None)  # type: ignore[arg-type]
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        await until(pilot, lambda: "[b]no[/b] ␛[2J" in statics(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Page))


async def test_unforeseen_error_at_the_start_becomes_a_screen_with_a_report(monkeypatch) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr("lyctui.app.open_run", break_down)
    app = LyctuiApp(Page)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Page))
        app.start_run(None)  # type: ignore[arg-type]
        await until(pilot, lambda: "ValueError: on purpose" in statics(app))
        assert "ValueError" in app.log_path.read_text()


async def test_watcher_leaves_without_a_question(toy_run) -> None:
    run = toy_run(steps=100_000, seconds=0.01)
    run.start()
    while not run.snapshot().total_steps:
        time.sleep(0.01)
    app = LyctuiApp(run=WatchedRun(run.folder))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await until(pilot, lambda: "watching" in shown(app, "#title"))
        await pilot.press("q")
        await until(pilot, lambda: app._exit)
    assert run.live


async def test_tiny_terminal_says_so_and_loses_no_input() -> None:
    app = LyctuiApp(Page)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Page))
        await pilot.press(*"vexilo")
        await pilot.resize_terminal(50, 10)
        await until(pilot, lambda: isinstance(app.screen, TooSmallScreen))
        await pilot.resize_terminal(*SIZE)
        await until(pilot, lambda: isinstance(app.screen, Page))
        assert app.screen.query_one(Input).value == "vexilo"


async def test_draft_is_saved_once_on_leaving() -> None:
    saved: list[str] = []
    app = LyctuiApp(Page)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Page))
        app.before_leave = lambda: (saved.append("draft"), "The draft is saved.")[1]
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app._exit)
    assert saved == ["draft"]
    assert app.parting == ["The draft is saved."]


async def test_help_and_log_open_over_the_monitor(toy_run) -> None:
    run = toy_run(steps=100_000, seconds=0.01)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: run.snapshot().step > 1)
        run.ask("sample")
        await until(pilot, lambda: run.snapshot().samples)
        with (run.folder / "run.log").open("a") as log:
            log.write("a line of the log\n")
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await until(pilot, lambda: "guide 001" in statics(app))
        await until(pilot, lambda: "Save a state now" in statics(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        for key, where, line in (
            ("l", "run.log", "a line of the log"),
            ("v", "samples", "vexilo emblem"),
            ("e", "events.jsonl", "asked to sample now: taken at step"),
        ):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, TextScreen))
            assert where in statics(app), "the path is shown"
            assert line in "\n".join(app.screen.query_one(Log).lines)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert run.live, "looking changes nothing"


async def test_end_waits_behind_help_and_closes_the_question(toy_run) -> None:
    run = toy_run(steps=100_000, seconds=0.01)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: run.snapshot().step > 1)
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        run.ask("stop")
        await until(pilot, lambda: not run.live)
        await pilot.pause(0.6)
        assert isinstance(app.screen, HelpScreen), "nothing is torn away while it is read"
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
    other = toy_run("other", steps=2000, seconds=0.01)
    app = LyctuiApp(run=other)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: other.snapshot().step > 1)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        other.ask("stop")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))


async def test_palette_holds_every_action_of_the_monitor(toy_run) -> None:
    run = toy_run(steps=100_000, seconds=0.01)
    app = LyctuiApp(run=run)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {
            "save",
            "sample",
            "pause",
            "stop",
            "log",
            "chart",
            "leave",
            "samples",
            "events",
        } <= titles
        assert {"Theme dark", "Theme light", "Theme ansi"} <= titles
        await until(pilot, lambda: run.snapshot().step > 1)
        command = next(c for c in app.get_system_commands(app.screen) if c.title == "save")
        command.callback()
        await until(pilot, lambda: run.snapshot().last_saved_step > 0)


@pytest.mark.parametrize("theme", ["dark", "light", "ansi"])
async def test_each_theme_draws_every_screen(toy_run, theme) -> None:
    # Long enough for the dialog to be there before the results are.
    run = toy_run(steps=10, seconds=0.3)
    app = LyctuiApp(run=run, theme=theme, ascii_only=theme == "ansi")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        app.push_screen(QuitScreen(run))
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        assert app.export_screenshot()
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
        assert app.export_screenshot()


async def test_no_color_sends_no_colour(monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = LyctuiApp(Page)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Page))
        assert any(isinstance(each, NoColor) for each in app._filters)
        strips = app.screen._compositor.render_strips()
        app.screen.query_one(Input).focus()
        for strip in strips:
            for segment in NoColor().apply(list(strip), app.screen.styles.background):
                assert segment.style is None or segment.style.color in (None, DEFAULT)


def test_no_binding_takes_a_key_that_belongs_to_others() -> None:
    """tmux, screen and flow control own these keys."""
    screens = (
        LyctuiApp,
        RunScreen,
        ResultsScreen,
        QuitScreen,
        ProblemScreen,
        TextScreen,
        HelpScreen,
    )
    for screen in screens:
        for binding in screen.BINDINGS:
            keys = set(binding.key.split(","))  # type: ignore[union-attr]
            assert not keys & {"ctrl+b", "ctrl+a", "ctrl+s"}, screen
