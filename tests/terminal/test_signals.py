"""Signals save the exact state and leave; the terminal is given back as it was."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = pytest.mark.terminal

RESTORED = (
    b"\x1b[?1049l",
    b"\x1b[?25h",
    b"\x1b[?1000l",
    b"\x1b[?1006l",
    b"\x1b[?2004l",
    b"\x1b[?1004l",
)


def saved_steps(toy) -> list[int]:
    return [each["step"] for each in toy.events if each["event"] == "saved"]


def assert_restored(toy) -> None:
    toy.pump()
    last_frame = toy.output.rfind(b"\x1b[?1049h")
    for sequence in RESTORED:
        assert toy.output.rfind(sequence) > last_frame, sequence


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stop_signal_saves_and_leaves(terminal, number, code):
    toy = terminal("--steps", "400", "--save-seconds", "0.3")
    toy.shows("step")
    toy.at_step(5)
    toy.kill(number)
    assert toy.wait() == code
    assert saved_steps(toy)
    assert toy.events[-1]["event"] == "stopped"
    assert_restored(toy)
    assert "stopped at step" in toy.text
    assert "lyctui resume" in toy.text


def test_second_interrupt_leaves_without_saving(terminal):
    toy = terminal("--steps", "400", "--save-seconds", "20")
    toy.shows("step")
    toy.kill(signal.SIGINT)
    time.sleep(0.5)
    began = time.monotonic()
    toy.kill(signal.SIGINT)
    assert toy.wait() == 130
    assert time.monotonic() - began < 5
    assert saved_steps(toy) == []
    assert_restored(toy)


def test_leaving_twice_by_keys_does_not_wait_for_the_state(terminal):
    toy = terminal("--steps", "400", "--save-seconds", "60")
    toy.shows("step")
    toy.press(b"q")
    toy.shows("Leave the monitor?")
    toy.press(b"y")
    toy.shows("as soon as it can")
    toy.press(b"q")
    toy.shows("Leave unsaved")
    toy.press(b"y")
    assert toy.wait() == 130
    assert saved_steps(toy) == []
    assert_restored(toy)


def test_third_interrupt_ends_at_once(terminal):
    toy = terminal("--steps", "400", "--save-seconds", "20")
    toy.shows("step")
    for _ in range(3):
        toy.kill(signal.SIGINT)
        time.sleep(0.02)
    assert toy.wait() == 130
    assert not (toy.run / "report.json").exists()
    assert_restored(toy)


def test_interrupt_while_the_terminal_stalls(terminal):
    toy = terminal("--steps", "2000")
    toy.shows("step")
    for _ in range(12):
        toy.press(b"\x1bOP")
        time.sleep(0.1)
    toy.kill(signal.SIGTERM)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and not saved_steps(toy):
        time.sleep(0.05)
    assert saved_steps(toy), "saved although nobody reads the terminal"
    assert toy.wait() == 143


def test_usr1_saves_and_goes_on(terminal):
    toy = terminal("--steps", "60")
    toy.shows("step")
    toy.kill(signal.SIGUSR1)
    toy.shows("finished")
    toy.press(b"q")
    assert toy.wait() == 0
    assert len([each for each in toy.events if each["event"] == "saved"]) == 2


def test_ctrl_z_is_noted_while_training(terminal):
    toy = terminal("--steps", "100")
    toy.shows("step")
    toy.press(b"\x1a")
    toy.shows("would stop the GPU job")
    toy.kill(signal.SIGTSTP)
    toy.shows("finished")
    toy.press(b"q")
    assert toy.wait() == 0
    assert toy.report["longest_gap"] < 0.6


def test_ctrl_z_suspends_the_wizard_and_fg_draws_it_again(terminal):
    toy = terminal("--wizard")
    toy.shows("trigger")
    toy.press(b"abc")
    toy.shows("abc")
    toy.press(b"\x1a")
    pid, status = os.waitpid(toy.pid, os.WUNTRACED)
    assert pid == toy.pid
    assert os.WIFSTOPPED(status)
    assert toy.cooked
    assert_restored(toy)
    toy.output = b""
    toy.kill(signal.SIGCONT)
    toy.shows("abc")
    toy.press(b"d")
    toy.shows("d")
    toy.kill(signal.SIGTERM)
    assert toy.wait() == 143
    assert (toy.run / "draft").read_text() == "abcd"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_wizard_saves_its_draft_on(terminal, number, code):
    toy = terminal("--wizard")
    toy.shows("trigger")
    toy.kill(signal.SIGUSR1)  # nothing: there is no run to save
    toy.press(b"vexilo")
    toy.shows("vexilo")
    toy.kill(number)
    assert toy.wait() == code
    assert (toy.run / "draft").read_text() == "vexilo"
    assert "The draft is saved" in toy.text


def test_output_of_libraries_lands_in_the_log_only(terminal):
    toy = terminal("--steps", "30", "--noise")
    toy.shows("finished")
    toy.press(b"q")
    assert toy.wait() == 0
    log = (toy.run / "run.log").read_text()
    for source in ("print", "warnings", "write 2", "a child", "C", "an early handler"):
        assert f"noise from {source}" in log
    assert "noise" not in toy.text


def test_line_log_stops_on_interrupt(terminal):
    toy = terminal("--steps", "400", "--plain")
    toy.shows("training")
    toy.at_step(5)
    toy.kill(signal.SIGINT)
    assert toy.wait() == 130
    assert saved_steps(toy)
    assert "Saving, then leaving" in toy.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_paused_run_saves_and_leaves(terminal, number, code):
    toy = terminal("--steps", "2000", "--on-disconnect", "stop")
    toy.shows("step")
    toy.press(b" ")
    toy.shows("paused")
    toy.kill(number)
    assert toy.wait() == code
    assert len(saved_steps(toy)) == 1
    assert toy.events[-1]["event"] == "stopped"


def test_a_hangup_within_a_long_save_waits_for_it(terminal):
    toy = terminal("--steps", "2000", "--save-seconds", "1.5", "--on-disconnect", "stop")
    toy.shows("step")
    toy.kill(signal.SIGUSR1)
    toy.kill(signal.SIGHUP)
    toy.close()
    assert toy.wait() == 129
    assert toy.events[-1]["event"] == "stopped"
    assert saved_steps(toy)
