"""A recipe trained, stopped, gone on with and trained further by commands alone, without a terminal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.small_run import draw_pictures, tensor_bytes
from tests.tiny import write_tiny_sd1

pytestmark = pytest.mark.slow

RECIPE = """
[model]
path = "base.safetensors"
[data]
folder = "pictures"
trigger = "vexilo"
class_word = "emblem"
resolution = [128, 128]
[network]
rank = 4
[train]
epochs = {epochs}
batch_size = 2
threads = 1
[sample]
prompts = []
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny base and pictures."""
    root = tmp_path_factory.mktemp("train")
    write_tiny_sd1(root / "base.safetensors")
    draw_pictures(root / "pictures" / "1_vexilo emblem", count=4)
    return root


def environment(root: Path) -> dict[str, str]:
    keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    ours = {f"LYCTUI_{name.upper()}": str(root / name) for name in ("runs", "cache", "state")}
    return keep | ours | {"HOME": str(root), "CI": "true", "CUDA_VISIBLE_DEVICES": ""}


def start(root: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lyctui", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(root),
        cwd=root,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[dict], str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def test_a_recipe_gives_as_many_steps_as_planned_and_a_file(place):
    recipe = place / "short.toml"
    recipe.write_text(RECIPE.format(epochs=1))
    _, (plan,), _ = finish(start(place, "plan", recipe, "--json"))
    code, events, err = finish(start(place, "train", recipe, "--name", "first", "--json"))

    assert code == 0 and err == ""
    steps = [each["step"] for each in events if each["event"] == "step"]
    assert steps == list(range(1, plan["steps"] + 1))
    assert events[-1]["event"] == "finished" and events[-1]["exit"] == 0
    folder = place / "runs" / "first"
    file = folder / "first.safetensors"
    assert abs(file.stat().st_size - plan["file_bytes"]) < 8000
    origins = json.loads((folder / "origins.json").read_text())
    assert origins["train.epochs"]["source"] == "you"
    assert origins["train.seed"]["source"] == "drawn"

    # A finished file is where a new run begins; the old one stays.
    before = file.read_bytes()
    code, events, err = finish(
        start(place, "resume", file, "--model", "base.safetensors", "--data", "pictures", "--json")
    )
    assert (code, err) == (0, "")
    assert events[-1]["run"] != str(folder)
    assert file.read_bytes() == before
    with safe_open(events[-1]["files"][-1], "pt") as opened:
        assert len(list(opened.keys())) > 0


def test_a_run_is_watched_stopped_and_gone_on_with_by_the_same_line(place):
    recipe = place / "long.toml"
    recipe.write_text(RECIPE.format(epochs=400))
    first = start(place, "train", recipe, "--continue", "--name", "second", "--json")
    events = place / "runs" / "second" / "events.jsonl"
    deadline = time.monotonic() + 200
    while not (events.exists() and '"step"' in events.read_text()):
        assert first.poll() is None and time.monotonic() < deadline, first.stderr
        time.sleep(0.2)
    code, (told,), _ = finish(start(place, "stop", "second", "--json"))

    assert (code, told["state"], told["resumable"]) == (0, "stopped", True)
    code, _, _ = finish(first)
    assert code == 130
    second = start(
        place, "resume", "second", "--set", f"train.max_steps={told['step'] + 1}", "--json"
    )
    code, events_again, err = finish(second)
    assert (code, err) == (0, "")
    assert [each["step"] for each in events_again if each["event"] == "step"] == [told["step"] + 1]
    # Finished or not: from an earlier state the same comes out.
    file = place / "runs" / "second" / "second.safetensors"
    before = tensor_bytes(file)
    file.unlink()
    code, events_again, err = finish(
        start(place, "resume", "second", "--from-step", told["step"], "--json")
    )
    assert (code, err) == (0, "")
    assert [each["step"] for each in events_again if each["event"] == "step"] == [told["step"] + 1]
    assert any("goes on from step" in each.get("message", "") for each in events_again)
    assert tensor_bytes(file) == before
    # Finished now: the line of a service starts anew rather than train a finished run again.
    code, _, err = finish(start(place, "resume", "second", "--json"))
    assert code == 2
