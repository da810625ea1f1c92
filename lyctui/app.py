"""The Textual app: screens, keys, themes, leaving; and `run_app`, which outlives the screens.

What happens after the screens are gone (a lost terminal, "keep training", the closing lines) is in
`run_app`, since training goes on in the same process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.events import Resize
from textual.filter import Monochrome, NoColor
from textual.notifications import SeverityLevel
from textual.screen import Screen

from engine.errors import EngineError, Problem
from lyctui import pictures, plain_monitor, terminal, text
from lyctui.afterwards import after_screens
from lyctui.capture import Capture
from lyctui.commands import commands
from lyctui.config import Config, read_config
from lyctui.inert_filter import InertFilter
from lyctui.keys import shown_key
from lyctui.monitor import LiveRun, RunView, WatchedRun, open_run, reopen_run
from lyctui.paths import add_to_log, paths
from lyctui.screens.help import HelpScreen
from lyctui.screens.problem import ProblemScreen
from lyctui.screens.quit import QuitChoice, QuitScreen
from lyctui.screens.run import RunScreen
from lyctui.screens.small import TooSmallScreen
from lyctui.signals import EXIT_HANGUP, Signalled, Signals
from lyctui.theme import DARK, OWN_VARIABLES, THEMES

if TYPE_CHECKING:
    from engine.settings import Recipe
    from lyctui.tool_work import ToolWork

POLL_HERTZ = 4.0
"""The screen looks at the numbers at most this often."""
SLOW_POLL_HERTZ = 1.0
"""On a line that cannot take the frames."""


class LyctuiApp(App[int]):
    """Screens, keys, themes. One run of this process at a time."""

    TITLE = "lyctui"
    CSS_PATH = "styles/app.tcss"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012  # as declared upstream
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "leave", "Leave", id="leave", show=False, priority=True),
        Binding("ctrl+c", "leave", "Leave", id="interrupt", show=False, priority=True),
        Binding("f1", "help", "Help", id="help", show=False),
        Binding("question_mark", "help", "Help", id="help-sign", show=False),
        Binding("ctrl+z", "suspend_or_note", "Suspend", id="suspend", show=False),
    ]

    def __init__(
        self,
        first: Callable[[], Screen[Any]] | None = None,
        *,
        theme: str | None = None,
        ascii_only: bool | None = None,
        fps: float | None = None,
        run: RunView | None = None,
        signals: Signals | None = None,
        config: Config | None = None,
    ) -> None:
        # The driver asks for these while the base class builds it.
        self.capture = Capture()
        self.signals = signals or Signals()
        self.shown_run: RunView | None = run
        self.run_here: LiveRun | None = run if isinstance(run, LiveRun) else None
        super().__init__()
        self.ascii_only = terminal.wants_ascii() if ascii_only is None else ascii_only
        self.signs = text.signs(self.ascii_only)
        self.config = config or Config()
        wanted = pictures.wanted_mode(self.config.pictures)
        self.pictures = pictures.usual(wanted, ascii_only=self.ascii_only)
        self.fps = min(20.0, max(0.1, fps or self.config.fps or 1.0))
        self.exit_status = 0
        self.keep_training = False
        self.crash = ""
        """What broke the screens, in words."""
        self.tool: ToolWork | None = None
        """The file tool that was started last."""
        self.parting: list[str] = []
        """Lines to print after the screens are gone."""
        self.before_leave: Callable[[], str | None] | None = None
        """Saves what is being edited, on every way out; gives a line to print."""
        self._first = first
        self._slow = False
        self._leaving = False
        for each in THEMES.values():
            self.register_theme(each)
        self.theme = THEMES[terminal.choose_theme(theme, default=self.config.theme)].name
        if terminal.over_ssh():
            self.animation_level = "none"
        if self.no_color:
            # Textual would send greys; NO_COLOR means none.
            self._filters = [each for each in self._filters if not isinstance(each, Monochrome)]
            if not any(isinstance(each, NoColor) for each in self._filters):
                self._filters.append(NoColor())
        self._filters.append(InertFilter())

    # --- set-up ---

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our own variables, for themes of Textual's list that do not know them."""
        return {name: DARK.variables[name] for name in OWN_VARIABLES}

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Say something for a while; never with markup, since it may name what others have named."""
        words = text.inert(message, lines=True)
        super().notify(words, title=title, severity=severity, timeout=timeout, markup=False)

    def get_driver_class(self) -> type[Driver]:
        """The driver that survives its terminal, where it is promised."""
        if sys.platform != "linux" or os.environ.get("TEXTUAL_DRIVER"):
            return super().get_driver_class()
        from lyctui.driver import SafeDriver

        return SafeDriver

    def _build_driver(
        self, headless: bool, inline: bool, mouse: bool, size: tuple[int, int] | None
    ) -> Driver:
        driver = super()._build_driver(headless, inline, mouse, size)
        restore = getattr(driver, "restore_now", None)
        if restore is not None:
            self.signals.last_resort = restore
            self.signals.reclaim()
        return driver

    @property
    def log_path(self) -> Path:
        """Where captured output goes: the run's log, or the program's before there is a run."""
        if self.run_here is not None:
            return self.run_here.folder / "run.log"
        return paths().log

    @property
    def poll_seconds(self) -> float:
        """How often the monitor looks at the numbers."""
        hertz = SLOW_POLL_HERTZ if self._slow else min(POLL_HERTZ, 4 * self.fps)
        return 1 / hertz

    def on_mount(self) -> None:
        """Show the first screen and listen to signals."""
        self.signals.listener = self._hear
        self.app_resume_signal.subscribe(self, lambda _: self.screen.refresh(layout=True))
        self.set_keymap(self.config.keys)
        for problem in self.config.problems:
            self.notify(text.inert(problem), severity="warning", timeout=10, markup=False)
        if self.shown_run is not None:
            self.show_run(self.shown_run)
        elif self._first is not None:
            self.push_screen(self._first())
        if self.signals.stop_code:
            self._signalled("stop")

    def settle_pictures(self) -> None:
        """Ask the terminal whether it draws pictures, where that is wanted; before the screens run."""
        if not self.pictures.shown:
            return

        def write(words: str) -> None:
            if self._driver is not None:
                self._driver.write(words)

        found, why_not = pictures.settle(pictures.wanted_mode(self.config.pictures), write)
        self.pictures = found
        if why_not:
            self.config = replace(self.config, problems=(*self.config.problems, why_not))

    def _print(self, text: str, stderr: bool = False) -> None:
        """Python's own prints while screens are up: into the log, as all other output."""
        if self.capture.active:
            with contextlib.suppress(OSError):
                os.write(2 if stderr else 1, text.encode("utf-8", "replace"))

    # --- runs ---

    def start_run(self, recipe: Recipe, origins: Mapping[str, Any] | None = None) -> bool:
        """Make a run of a filled recipe, start it and show its monitor. False when it cannot."""
        return self._open(lambda: open_run(recipe, origins))

    def start_demo(self) -> None:
        """Start the embedded demo; its base is unpacked and its pictures looked at meanwhile."""
        self.notify("Preparing the demo.", timeout=3)
        self.run_worker(self._open_demo(), exclusive=True, group="demo")

    async def _open_demo(self) -> None:
        from lyctui.demo.run import open_demo

        try:
            run = await asyncio.to_thread(open_demo)
        except Exception as error:
            self._cannot_open(error)
        else:
            self._open(lambda: run)

    def resume_run(self, folder: Path, from_step: int | None = None) -> bool:
        """Go on with a stopped run."""
        return self._open(lambda: reopen_run(folder, from_step=from_step))

    def watch_run(self, folder: Path) -> None:
        """Show a run of another process."""
        self.show_run(WatchedRun(folder))

    def _open(self, make: Callable[[], LiveRun]) -> bool:
        if self.run_here is not None and self.run_here.live:
            name = text.inert(self.run_here.folder.name)
            self.show_problems((Problem(f"{name} is training in this window already."),))
            return False
        try:
            run = make()
        except Exception as error:
            self._cannot_open(error)
            return False
        self.before_leave = None
        self.show_run(run)
        return True

    def _cannot_open(self, error: Exception) -> None:
        """Nothing has begun yet, so nothing is lost: say why, and stay."""
        if isinstance(error, EngineError):
            self.show_problems(error.problems)
            return
        report = self._write_report("".join(traceback.format_exception(error)))
        what = f"Something unforeseen went wrong: {type(error).__name__}: {error}"
        self.show_problems((Problem(what),), report=report)

    def show_run(self, run: RunView) -> None:
        """Start a run if it is ours, and show its monitor."""
        self.shown_run = run
        if isinstance(run, LiveRun):
            self.run_here = run
            self.capture.switch(self.log_path)
            run.start()
            self.signals.began(run)
        self.push_screen(RunScreen(run))

    def show_problems(
        self, problems: Sequence[Problem], *, title: str = "", report: Path | None = None
    ) -> None:
        """What went wrong, the likely cause, and what to do."""
        self.push_screen(ProblemScreen(problems, title=title, report=report))

    # --- leaving ---

    @property
    def training(self) -> bool:
        """Whether a run of this process still goes on."""
        return self.run_here is not None and self.run_here.live

    def action_leave(self) -> None:
        """Leave, with a question while a run of this process goes on."""
        from lyctui.screens.tools_run import LeaveToolScreen

        if isinstance(self.screen, QuitScreen | LeaveToolScreen):
            return
        if self.run_here is not None and self.training:
            self.push_screen(QuitScreen(self.run_here, asked=self._leaving), self._quit_chosen)
        elif self.tool is not None and self.tool.live:
            self.push_screen(LeaveToolScreen(self.tool), self._leave_tool)
        else:
            self.leave()

    def _leave_tool(self, choice: str | None) -> None:
        """A tool that works is stopped, or finishes after the screens are gone."""
        if choice == "stop" and self.tool is not None:
            self.tool.cancel()
        if choice:
            self.leave()

    def _quit_chosen(self, choice: QuitChoice | None) -> None:
        if choice == "stop" and self._leaving:
            self.signals.abandon = True
            self.leave()
        elif choice == "stop" and self.run_here is not None:
            self.run_here.ask("stop")
            self.leave_when_ended()
        elif choice == "keep":
            self.keep_training = True
            self.leave()

    def leave_when_ended(self) -> None:
        """Leave as soon as the run has saved its state."""
        self._leaving = True
        self.notify("The run saves its state as soon as it can; then the screen closes.")

    def run_ended(self, run: RunView) -> bool:
        """Told by the monitor; True when the screen closes instead of showing results."""
        if self._leaving:
            self.leave()
        return self._leaving

    def leave(self, code: int = 0) -> None:
        """Close the screens; saves what is being edited first."""
        if self.before_leave is not None:
            save, self.before_leave = self.before_leave, None
            try:
                line = save()
            except Exception:
                line = "The draft could not be saved."
                self._write_report(traceback.format_exc())
            if line:
                self.parting.append(line)
        self.exit_status = code
        self.exit(code)

    def terminal_lost(self) -> None:
        """The driver saw the hang-up: the policy of the run decides, the screen closes."""
        self.signals.lost()
        self.call_later(self._signalled, "hangup")

    def terminal_was_slow(self) -> None:
        """Frames were left out: poll less from now on, and draw the whole screen again."""
        self._slow = True
        self.call_later(self.screen.refresh, layout=True)

    def _hear(self, event: Signalled) -> None:
        """In the signal thread: `call_later` only leaves a message."""
        self.call_later(self._signalled, event)

    def _signalled(self, event: Signalled) -> None:
        """A signal, now in the app's own loop."""
        if self.tool is not None and event in ("stop", "abandon"):
            self.tool.cancel()
        if event == "suspend":
            self.action_suspend_or_note()
        elif event == "hangup":
            self.leave(EXIT_HANGUP)
        elif event == "abandon" or (event == "stop" and not self.training):
            self.leave(self.signals.stop_code)
        elif event == "stop":
            self.leave_when_ended()

    def action_suspend_or_note(self) -> None:
        """Ctrl+Z: suspend in the wizard; while training only say why not."""
        if self.training:
            self.notify(plain_monitor.SUSPEND_NOTE, severity="warning", timeout=6)
            return
        suspend = getattr(self._driver, "suspend_process", None)
        if suspend is not None:
            self._suspend_signal()
            suspend()

    # --- failures of the screens themselves ---

    def failed(self, error: Exception) -> None:
        """An exception in a thread of the driver."""
        self._handle_exception(error)

    def _handle_exception(self, error: Exception) -> None:
        if self._exit:
            # A page that was still being built while the app closes: nobody is left to see it.
            self._write_report("".join(traceback.format_exception(error)))
            return
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        """Leave in words: Textual's own page prints local variables, tokens and paths with them."""
        error = self._exception
        path = self._write_report(traceback.format_exc())
        self.crash = f"The screen failed: {type(error).__name__}. The report is in {path}."
        self._close_messages_no_wait()

    def _write_report(self, report: str) -> Path:
        return add_to_log(f"screen\n{report}", self.log_path)

    # --- help, palette, size ---

    def get_key_display(self, binding: Binding) -> str:
        """Keys as the footer writes them: F1, Esc, ^N."""
        key = binding.key_display or shown_key(binding.key.split(",")[0])
        return key.replace("Ctrl+", "^")

    def action_help(self) -> None:
        """Help for this screen and what is focused."""
        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
        else:
            self.push_screen(HelpScreen(self.screen, log=self.log_path))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action, also those not in the footer."""
        yield from commands(self, screen)
        for name, each in THEMES.items():
            yield SystemCommand(
                f"Theme {name}", "Change the colours", partial(setattr, self, "theme", each.name)
            )

    def on_resize(self, event: Resize) -> None:
        """Below the least size say so, and nothing else; training goes on."""
        size = event.size
        small = size.width < terminal.MIN_WIDTH or size.height < terminal.MIN_HEIGHT
        if small and not isinstance(self.screen, TooSmallScreen):
            self.push_screen(TooSmallScreen())
        elif not small and isinstance(self.screen, TooSmallScreen):
            self.pop_screen()

    # --- the window ---

    def window_title(self, words: str) -> None:
        """Name the terminal's window or tab."""
        # The Linux console has no window, and would print this.
        if self._driver is not None and not self.is_headless and os.environ.get("TERM") != "linux":
            self._driver.write(f"\x1b]0;{text.inert(words)}\x07")

    def tell_end(self, words: str) -> None:
        """Draw attention to the end: bell, osc9 or none, as the config or LYCTUI_NOTIFY says."""
        way = os.environ.get("LYCTUI_NOTIFY") or self.config.notify or "bell"
        if way == "osc9" and self._driver is not None and not self.is_headless:
            self._driver.write(f"\x1b]9;{text.inert(words)}\x07")
        elif way != "none":
            self.bell()


def run_app(
    first: Callable[[], Screen[Any]] | None = None,
    *,
    theme: str | None = None,
    ascii_only: bool | None = None,
    fps: float | None = None,
    mouse: bool | None = None,
    run: RunView | None = None,
) -> int:
    """Show screens, beginning with `first` or with the monitor of `run`; gives the exit code.

    It returns when the run of this process has ended, also when the terminal is long gone.
    """
    signals = Signals().install()
    config = read_config()
    app = LyctuiApp(
        first,
        theme=theme,
        ascii_only=ascii_only,
        fps=fps,
        run=run,
        signals=signals,
        config=config,
    )
    signals.run = app.run_here
    app.settle_pictures()
    if mouse is None:
        mouse = True if config.mouse is None else config.mouse
    app.run(mouse=mouse)
    signals.listener = None
    signals.last_resort = None
    return after_screens(app, signals)
