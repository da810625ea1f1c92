"""The monitor in tmux at 80x24, by keys alone; killing the session is the SSH line dropping."""

from __future__ import annotations

import json
import sys

import pytest

pytestmark = pytest.mark.terminal


def ended(run) -> dict:
    lines = (run / "events.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    return last if last["event"] in ("finished", "stopped", "failed") else {}


def test_monitor_fits_80x24_and_answers_keys(tmux):
    tmux.toy("--steps", "2000")
    tmux.shows("elapsed")
    rows = tmux.shows("F1 help").splitlines()
    assert rows[0].startswith(" lyctui · vexilo_v1")
    assert "F1 help" in rows[-1]
    assert "q leave" in rows[-1]
    tmux.keys("s")
    tmux.shows("state saved at step")
    tmux.keys("p")
    tmux.shows("samples, step")
    tmux.keys("Space")
    tmux.shows("paused")
    tmux.keys("Space")
    tmux.shows("· training")
    tmux.keys("F1")
    tmux.shows("Loss jumps by nature")
    tmux.keys("Escape")
    tmux.until(lambda: "Loss jumps" not in tmux.screen, "help to close")
    tmux.keys("q")
    tmux.shows("Leave the monitor?")
    tmux.keys("Enter")
    tmux.until(lambda: "Leave the monitor?" not in tmux.screen, "cancel has the focus")
    tmux.keys("C-c")
    tmux.shows("Leave the monitor?")
    tmux.keys("y")
    tmux.shows("EXIT 130")
    assert "resume: lyctui resume" in tmux.screen


def test_killed_session_leaves_the_run(tmux):
    run = tmux.toy("--steps", "120")
    tmux.shows("elapsed")
    tmux.call("kill-session", "-t", "s")
    end = tmux.until(lambda: ended(run), "the run to finish")
    assert (end["event"], end["steps"]) == ("finished", 120)


def test_keep_training_becomes_a_line_log(tmux):
    run = tmux.toy("--steps", "150")
    tmux.shows("elapsed")
    tmux.keys("q")
    tmux.shows("Leave the monitor?")
    tmux.keys("k")
    tmux.shows("as a line log")
    tmux.shows("s a step")
    screen = tmux.shows("EXIT 0")
    assert "finished" in screen
    assert ended(run)["steps"] == 150


def test_wide_terminal_shows_samples_beside_the_chart(tmux):
    tmux.toy("--steps", "2000", width=120, height=40)
    tmux.shows("└")
    tmux.keys("p")
    screen = tmux.shows("samples/step-")
    beside = [row for row in screen.splitlines() if "samples/step-" in row and "│" in row]
    assert beside, screen


def test_tiny_terminal_says_so_and_trains_on(tmux):
    tmux.toy("--steps", "400")
    tmux.shows("elapsed")
    tmux.call("resize-window", "-t", "s", "-x", "50", "-y", "10")
    assert "60x16" in tmux.shows("terminal too small")
    tmux.call("resize-window", "-t", "s", "-x", "80", "-y", "24")
    tmux.shows("elapsed")


def test_watcher_sees_and_asks_a_run_of_another_process(tmux, tmp_path):
    run = tmux.toy("--steps", "2000")
    tmux.shows("elapsed")
    program = (
        f"from pathlib import Path; from lyctui.app import run_app;"
        f"from lyctui.monitor import WatchedRun; run_app(run=WatchedRun(Path('{run}')))"
    )
    tmux.call("new-window", "-t", "s", f'{sys.executable} -c "{program}"; echo LEFT; sleep 60')
    tmux.shows("watching")
    tmux.keys("q")
    tmux.shows("LEFT")
    assert not ended(run), "closing a watcher never affects the run"


def test_crash_of_the_screen_leaves_the_run_and_shows_no_locals(tmux):
    run = tmux.toy("--steps", "150", "--crash")
    screen = tmux.shows("The screen failed: RuntimeError")
    assert "secret" not in screen
    tmux.shows("EXIT 0")
    assert ended(run)["steps"] == 150
    assert "RuntimeError: on purpose" in (run / "run.log").read_text()


def test_two_watchers_ask_and_both_see_the_answers(tmux, tmp_path):
    run = tmux.toy("--steps", "4000")
    tmux.shows("elapsed")
    (run / "run.toml").touch()
    watch = f"{sys.executable} -m lyctui watch {run}; echo LEFT; sleep 60"
    for name in ("one", "two"):
        tmux.call("new-session", "-d", "-s", name, "-x", "80", "-y", "24", watch)

    def sees(name, words):
        tmux.until(
            lambda: words in tmux.call("capture-pane", "-p", "-t", name), f"{words} in {name}"
        )

    for name in ("one", "two"):
        sees(name, "watching")
    for name, key, words in (
        ("one", "Space", "asked to pause"),
        ("two", "s", "state saved at step"),
        ("two", "Space", "asked to go on"),
        ("one", "p", "samples, step"),
    ):
        tmux.call("send-keys", "-t", name, key)
        for each in ("one", "two", "s"):
            sees(each, words)
    tmux.call("kill-session", "-t", "one")
    assert not ended(run)
    tmux.call("send-keys", "-t", "two", "x")
    tmux.shows("stopped at step")
    sees("two", "the state is saved")
    assert ended(run)["event"] == "stopped"
