"""Trouble in the monitor at 80x24: it stands where one looks, says where the run is, and goes away."""

import json
import queue
import signal
import threading
import time

import pytest

from engine.events import Ended, RolledBack, Saved, Started, Waiting, Warned, to_dict
from engine.runs import Lock, RunFolder
from lyctui.app import LyctuiApp
from lyctui.monitor import WatchedRun
from lyctui.plain_monitor import exit_code
from lyctui.screens.problem import ProblemScreen
from lyctui.signals import Signals
from lyctui.widgets.lines import Lines

SIZE = (80, 24)
FULL = Waiting("The disk is full: 19 MB are needed, 3 MB are free.", "Free some space.")
BACK = RolledBack(3, 2, "The loss is not a number.", ("03.png",), 0.5, 1, 3)


@pytest.fixture
def watched(tmp_path, toy):
    """A watched run at step 3 that warned before; `tell(event)` is its next line."""
    folder = RunFolder(tmp_path / "vexilo_v1")
    folder.path.mkdir()
    lock = Lock(folder)
    lock.acquire()

    def tell(*events):
        with folder.events.open("a") as file:
            file.writelines(json.dumps(to_dict(event)) + "\n" for event in events)

    tell(Started("vexilo_v1", 240, (240,), 2, 240), Warned("old news"), toy.toy_step(3, 0.1))
    yield folder, tell, lock
    lock.release()


async def until(pilot, condition):
    deadline = time.monotonic() + 60
    while not (pilot.app.screen.is_mounted and condition()):
        assert time.monotonic() < deadline, "waited too long"
        await pilot.pause(0.02)


def shown(app, selector):
    return app.screen.query_one(selector, Lines).plain


def told(app):
    return [notification.message for notification in app._notifications]


async def test_waiting_and_roll_backs_are_seen_and_end(watched):
    folder, tell, _ = watched
    app = LyctuiApp(run=WatchedRun(folder.path), fps=20)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "elapsed" in shown(app, "#progress"))
        rows = app.screen.query_one("#progress").size.height
        tell(BACK)
        await until(
            pilot, lambda: any("Rolled back from step 3 to 2" in each for each in told(app))
        )
        assert "old news" not in told(app), "what was said before one looked is no news"
        assert "× 0.5" in shown(app, "#numbers")
        tell(FULL)
        await until(pilot, lambda: "Waiting: the disk is full" in shown(app, "#progress"))
        assert "Free some space." in " ".join(shown(app, "#progress").split())
        assert "waiting" in shown(app, "#title")
        assert app.screen.query_one("#chart").size.height > 0
        tell(Waiting(""))
        await until(pilot, lambda: "Waiting" not in shown(app, "#progress"))
        await until(pilot, lambda: app.screen.query_one("#progress").size.height == rows)
        assert len([each for each in told(app) if "Rolled back" in each]) == 1


async def test_a_run_on_another_host_is_read_only_and_says_where(watched):
    folder, _, lock = watched
    lock.release()
    owner = {"pid": 1, "host": "gpu7", "since": time.time()}
    folder.lock.write_text(json.dumps(owner))
    app = LyctuiApp(run=WatchedRun(folder.path), fps=20)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: any("gpu7" in each for each in told(app)))
        await until(pilot, lambda: "read-only" in shown(app, "#title"))
        await pilot.press("x")
        await until(pilot, lambda: len([each for each in told(app) if "gpu7" in each]) == 2)


async def test_a_signal_before_the_first_screen_stops_the_run(toy_run):
    signals = Signals()
    signals.stop_code = 143
    run = toy_run(steps=4000, seconds=0.01)
    app = LyctuiApp(run=run, signals=signals)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app._exit)
    assert run.wait(20)
    assert run.snapshot().state == "stopped"


def test_a_signal_before_the_first_line_stops_the_run(toy_run):
    signals, run = Signals(), toy_run(steps=4000, seconds=0.01, on_disconnect="stop")
    signals.hangup = True
    run.start()
    signals.began(run)
    assert run.wait(20)
    assert (run.snapshot().state, exit_code(run, signals)) == ("stopped", 129)


def test_an_event_that_fails_is_not_the_last_one_that_is_heard():
    class Unready:
        """A run in the instant between being known and being started."""

        @property
        def live(self):
            raise RuntimeError("cannot join thread before it is started")

    signals, heard = Signals(), queue.SimpleQueue()
    signals.run, signals.listener = Unready(), heard.put
    threading.Thread(target=signals._serve, daemon=True).start()
    signals._save(signal.SIGUSR1, None)
    signals._stop(signal.SIGTERM, None)
    assert [heard.get(timeout=20), heard.get(timeout=20)] == ["save", "stop"]


async def test_a_failed_run_names_the_file_it_left(watched):
    folder, tell, lock = watched
    file = folder.path / "vexilo_v1-step00000002.safetensors"
    tell(Saved("network", 2, 1, str(file), 9, True))
    tell(Ended("failed", "r", (str(file),), 3, 1, message="The loss is not a number."))
    lock.release()
    app = LyctuiApp(run=WatchedRun(folder.path), fps=20)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        options = app.screen.query_one("#actions")
        words = " ".join(
            str(options.get_option_at_index(n).prompt) for n in range(options.option_count)
        )
        assert file.name in words
