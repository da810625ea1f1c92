"""Training never stops or stalls because its terminal does."""

from __future__ import annotations

import signal
import time

import pytest

pytestmark = pytest.mark.terminal

LONGEST_GAP = 0.6
"""Seconds between two steps of 0.05 s, on a busy machine."""
CPU_AFTER = 6.0
"""Seconds of one core for the whole process, start-up included: an orphan that spins takes more."""


def assert_finished(terminal, steps: int) -> None:
    assert terminal.wait() == 0
    assert terminal.report["steps"] == steps
    assert terminal.report["longest_gap"] < LONGEST_GAP
    assert terminal.report["cpu"] < CPU_AFTER
    assert terminal.events[-1]["event"] == "finished"


def test_closed_terminal_leaves_training_alone(terminal):
    toy = terminal("--steps", "120")
    toy.shows("step")
    toy.at_step(10)
    closed = time.time()
    toy.close()
    assert_finished(toy, 120)
    assert float((toy.run / "closed").read_text()) - closed < 1.0, "the screen closes at once"


def test_stalled_then_closed_terminal_leaves_training_alone(terminal):
    toy = terminal("--steps", "160")
    toy.shows("step")
    toy.at_step(5)
    # Nobody reads: the pty fills. F1 and Esc make whole screens to draw.
    for _ in range(20):
        toy.press(b"\x1bOP")
        time.sleep(0.15)
    toy.close()
    assert_finished(toy, 160)


def test_hangup_ignored_by_the_parent(terminal):
    toy = terminal("--steps", "100", ignore_hangup=True)
    toy.shows("step")
    toy.close()
    assert_finished(toy, 100)


def test_two_hangups_a_second_apart(terminal):
    toy = terminal("--steps", "120")
    toy.shows("step")
    toy.kill(signal.SIGHUP)
    time.sleep(1.0)
    toy.kill(signal.SIGHUP)
    toy.close()
    assert_finished(toy, 120)


def test_policy_stop_saves_and_ends_with_129(terminal):
    toy = terminal("--steps", "400", "--on-disconnect", "stop")
    toy.shows("step")
    toy.close()
    assert toy.wait() == 129
    assert toy.events[-1]["event"] == "stopped"
    assert any(each["event"] == "saved" for each in toy.events)


def test_lost_line_log_leaves_training_alone(terminal):
    toy = terminal("--steps", "120", "--plain", "--noise")
    toy.shows("training")
    toy.at_step(20)
    toy.close()
    assert_finished(toy, 120)
    assert "noise from a child" in (toy.run / "run.log").read_text()


def test_wizard_saves_its_draft_on_hangup(terminal):
    toy = terminal("--wizard")
    toy.shows("trigger")
    toy.press(b"vexilo")
    toy.shows("vexilo")
    toy.close()
    assert toy.wait() == 129
    assert (toy.run / "draft").read_text() == "vexilo"
