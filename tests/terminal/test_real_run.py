"""The real engine under the real screen: stop by signal, resume, watch from a second shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs import read_events, run_info

pytestmark = [pytest.mark.terminal, pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]
MAKE = """
import sys
from pathlib import Path
from engine.settings.toml import write_recipe
from tests.small_run import small_recipe
root = Path(sys.argv[1])
recipe = small_recipe(root, train={"epochs": int(sys.argv[2])})
(root / "run.toml").write_text(write_recipe(recipe))
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe file over a tiny model: `recipe(epochs)`."""

    def make(epochs: int) -> Path:
        environment = os.environ | {"PYTHONPATH": str(REPO)}
        command = [sys.executable, "-c", MAKE, str(tmp_path), str(epochs)]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        return tmp_path / "run.toml"

    return make


def lyctui(*words: object) -> str:
    return " ".join([sys.executable, "-m", "lyctui", *map(str, words)])


def steps_of(run: Path) -> list[int]:
    return [each.step for each in read_events(run / "events.jsonl")[0] if each.name == "step"]


def test_killed_session_watched_and_stopped_from_another_shell(tmux, tmp_path, recipe):
    run = tmp_path / "runs" / "small"
    tmux.start(f"{lyctui('train', recipe(200))}; sleep 60")
    tmux.until(lambda: steps_of(run), "the first step", seconds=90)
    tmux.shows("8")
    tmux.call("new-session", "-d", "-s", "w", f"{lyctui('watch', run)}; echo LEFT $?; sleep 60")
    tmux.call("kill-session", "-t", "s")
    seen = steps_of(run)[-1]
    tmux.until(lambda: steps_of(run)[-1] > seen + 2, "steps without the terminal")
    assert run_info(run).state == "running"

    def watched() -> str:
        return tmux.call("capture-pane", "-p", "-t", "w")

    tmux.until(lambda: "watching" in watched(), "the watcher")
    tmux.call("send-keys", "-t", "w", "s")
    tmux.until(lambda: "state saved at step" in watched(), "save now through the socket")
    tmux.call("send-keys", "-t", "w", "x")
    tmux.until(lambda: run_info(run).state == "stopped", "stop through the socket")
    tmux.until(lambda: "Go on" in watched(), "the results page of the watcher")


def test_stopped_run_goes_on_to_the_end(tmux, tmp_path, recipe):
    run = tmp_path / "runs" / "small"
    tmux.start(f"{lyctui('train', recipe(6))}; echo EXIT $?; sleep 60")
    tmux.until(lambda: len(steps_of(run)) > 2, "some steps", seconds=90)
    tmux.keys("q")
    tmux.shows("Leave the monitor?")
    tmux.keys("y")
    tmux.shows("EXIT 130")
    stopped = steps_of(run)[-1]
    tmux.call("kill-server")
    tmux.until(lambda: not tmux.screen, "the server to end")
    tmux.start(f"{lyctui('resume', run)}; echo EXIT $?; sleep 60")
    tmux.until(lambda: steps_of(run)[-1] == 36, "the last step", seconds=120)
    screen = tmux.shows("Copy to")
    assert "small.safetensors" in screen
    tmux.keys("q")
    tmux.shows("EXIT 0")
    assert sorted(set(steps_of(run))) == list(range(1, 37))
    assert stopped < 36
