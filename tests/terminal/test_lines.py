"""The line log and its pipes: signals as in the monitor, and no reader that can hold the run up."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal.conftest import TOY, environment, until

pytestmark = pytest.mark.terminal


class Lines:
    """The toy without a screen, its output where the test wants it."""

    def __init__(self, folder: Path, words: list[str], output: int, before: list[str]) -> None:
        self.run = folder / "vexilo_v1"
        command = [*before, sys.executable, str(TOY), str(self.run), *words]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment(folder),
        )

    @property
    def events(self) -> list[dict]:
        try:
            lines = (self.run / "events.jsonl").read_text().splitlines()
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def at_step(self, step: int) -> None:
        until(lambda: any(each.get("step", 0) >= step for each in self.events), f"step {step}")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(30)

    @property
    def saved(self) -> int:
        return len([each for each in self.events if each["event"] == "saved"])


@pytest.fixture
def lines(tmp_path):
    """Start the toy: `lines("--json", output=...)`; its output goes nowhere by itself."""
    started: list[Lines] = []

    def start(*words: str, output: int = subprocess.DEVNULL, before: tuple[str, ...] = ()) -> Lines:
        started.append(Lines(tmp_path, list(words), output, list(before)))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        if each.process.stdout is not None:
            each.process.stdout.close()


@pytest.mark.parametrize(
    ("way", "number", "code"), [("--json", signal.SIGINT, 130), ("--plain", signal.SIGTERM, 143)]
)
def test_a_signal_saves_and_leaves_without_a_terminal(lines, way, number, code):
    toy = lines(way, "--steps", "2000", output=subprocess.PIPE)
    toy.at_step(3)
    toy.send(signal.SIGUSR1)
    until(lambda: toy.saved, "save now")
    toy.send(number)
    out, _ = toy.process.communicate(timeout=30)
    assert toy.process.returncode == code
    assert toy.saved == 2
    last = out.decode().splitlines()
    if way == "--json":
        assert json.loads(last[-1])["event"] == "stopped"
    else:
        assert "the state is saved" in " ".join(last)


def test_a_second_interrupt_leaves_without_saving(lines):
    toy = lines("--plain", "--steps", "2000", "--save-seconds", "60")
    toy.at_step(3)
    toy.send(signal.SIGINT)
    until(lambda: toy.events[-1]["event"] == "acknowledged", "the first one to be heard")
    toy.send(signal.SIGINT)
    assert toy.wait() == 130
    assert toy.saved == 0


def test_a_reader_that_never_reads_holds_no_signal_up(lines):
    toy = lines("--json", "--steps", "100000", "--seconds", "0.0005", output=subprocess.PIPE)
    toy.at_step(600)  # a pipe takes about 300 such lines
    toy.send(signal.SIGTERM)
    assert toy.wait() == 143
    assert toy.saved == 1


def test_nohup_leaves_training_alone(lines, tmp_path):
    with (tmp_path / "nohup.out").open("wb") as output:
        toy = lines("--plain", "--steps", "60", output=output.fileno(), before=("nohup",))
        toy.at_step(3)
        toy.send(signal.SIGHUP)
        toy.send(signal.SIGHUP)
        assert toy.wait() == 0
    assert toy.events[-1]["event"] == "finished"
    assert "finished, 60 steps" in (tmp_path / "nohup.out").read_text()


@pytest.mark.parametrize(("policy", "code"), [("stop", 129), ("continue", 0)])
def test_a_terminal_lost_without_a_signal_is_seen_by_the_line_log(lines, policy, code):
    """A job that its shell has disowned: the terminal goes, and nobody says so."""
    master, slave = pty.openpty()
    toy = lines("--plain", "--steps", "80", "--on-disconnect", policy, output=slave)
    os.close(slave)
    toy.at_step(3)
    os.close(master)
    assert toy.wait() == code
    assert toy.events[-1]["event"] == ("stopped" if policy == "stop" else "finished")


def watcher(run: Path, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "lyctui", "watch", str(run), "--plain"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(folder))


def test_watchers_that_are_killed_suspended_or_hung_up_never_touch_the_run(lines, tmp_path):
    toy = lines("--plain", "--steps", "120")
    (toy.run / "run.toml").parent.mkdir(exist_ok=True)
    (toy.run / "run.toml").touch()
    toy.at_step(1)
    killed, left, hung = (watcher(toy.run, tmp_path) for _ in range(3))
    try:
        for each in (killed, left, hung):
            assert each.stdout is not None
            assert each.stdout.readline()
        left.send_signal(signal.SIGTSTP)
        pid, status = os.waitpid(left.pid, os.WUNTRACED)
        assert pid == left.pid
        assert os.WIFSTOPPED(status), "a watcher stops no GPU job by being suspended"
        left.send_signal(signal.SIGCONT)
        killed.kill()
        left.send_signal(signal.SIGINT)
        hung.send_signal(signal.SIGHUP)
        assert [each.wait(30) for each in (killed, left, hung)] == [-9, 130, 129]
        assert toy.process.poll() is None
    finally:
        for each in (killed, left, hung):
            each.kill()
            each.communicate()
    assert toy.wait() == 0
    assert [each["event"] for each in toy.events if each["event"] == "acknowledged"] == []
