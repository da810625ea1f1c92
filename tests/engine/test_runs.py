"""Run folders: one owner, states read from events, requests refused in words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import RunError
from engine.events import Ended, Event, Phase, Started, StepDone, Waiting, to_dict
from engine.runs import (
    Lock,
    RunFolder,
    ask_run,
    find_run,
    list_runs,
    owner_of,
    read_events,
    run_info,
)


def make_run(root: Path, name: str, *events: Event) -> RunFolder:
    folder = RunFolder(root / name)
    folder.path.mkdir()
    folder.recipe.write_text("")
    folder.events.write_text("".join(json.dumps(to_dict(event)) + "\n" for event in events))
    return folder


def started(step: int = 0) -> Started:
    return Started("r", 100, (50, 50), 2, 100, step=step)


def step(number: int) -> StepDone:
    return StepDone(number, 1, 0.1, {"unet": 1e-4}, 1.0, 0.5, 2)


def test_a_run_has_one_owner(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a")
    lock = Lock(folder)
    lock.acquire()
    owner = owner_of(folder)
    assert owner is not None
    assert owner.pid == os.getpid()
    with pytest.raises(RunError, match="in use by process"):
        Lock(folder).acquire()
    lock.release()
    assert owner_of(folder) is None
    Lock(folder).acquire()


def test_a_dead_owner_s_lock_is_free(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", started(), step(3))
    code = (
        "import os, sys; from pathlib import Path; from engine.runs import Lock, RunFolder\n"
        "Lock(RunFolder(Path(sys.argv[1]))).acquire(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder.path)], check=False)
    assert folder.lock.read_text() != ""
    info = run_info(folder.path)
    assert (info.state, info.step, info.total_steps) == ("ended unexpectedly", 3, 100)
    assert info.resumable
    Lock(folder).acquire()


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((), "new"),
        ((started(), step(1)), "ended unexpectedly"),
        ((started(), step(1), Ended("finished", "r", (), 100, 0)), "finished"),
        ((started(), Ended("stopped", "r", (), 5, 0), started(5)), "ended unexpectedly"),
    ],
)
def test_state_is_read_from_the_events(
    tmp_path: Path, events: tuple[Event, ...], state: str
) -> None:
    folder = make_run(tmp_path, "a", *events)
    assert run_info(folder.path).state == state


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((started(), Waiting("The disk is full.")), "The disk is full."),
        ((started(), Waiting("The disk is full."), Phase("waiting")), "The disk is full."),
        ((started(), Waiting("The disk is full."), Waiting("")), ""),
        ((started(), Waiting("The disk is full."), Phase("loading")), ""),
        ((started(), Waiting("The disk is full."), started(5)), ""),
    ],
)
def test_a_run_waits_for_what_its_own_process_waits_for(
    tmp_path: Path, events: tuple[Event, ...], reason: str
) -> None:
    folder = make_run(tmp_path, "a", *events)
    assert run_info(folder.path).waiting == "", "nobody is there to wait"
    lock = Lock(folder)
    lock.acquire()
    assert run_info(folder.path).waiting == reason
    lock.release()


def test_events_come_back_and_half_a_line_waits(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", started(), step(1))
    with folder.events.open("a") as file:
        file.write('{"event": "step", "st')
    events, offset = read_events(folder.events)
    assert [type(event) for event in events] == [Started, StepDone]
    assert to_dict(events[1]) == {**to_dict(step(1)), "time": events[1].time}
    with folder.events.open("a") as file:
        file.write('ep": 2}\nnot json\n' + json.dumps(to_dict(step(3))) + "\n")
    more, _ = read_events(folder.events, offset)
    assert [event.step for event in more if isinstance(event, StepDone)] == [3]


def test_runs_are_listed_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "vexilo_v1", started())
    (tmp_path / "no run").mkdir()
    assert [info.name for info in list_runs(tmp_path)] == ["vexilo_v1"]
    assert find_run("vexilo_v1", tmp_path) == tmp_path / "vexilo_v1"
    monkeypatch.chdir(tmp_path)
    assert find_run("vexilo_v1", tmp_path / "missing") == tmp_path / "vexilo_v1", "absolute"
    with pytest.raises(RunError, match="vexilo_v1"):
        find_run("vexilo_v2", tmp_path)
    assert list_runs(tmp_path / "missing") == ()


def test_asking_a_dead_run_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "a", started())
    with pytest.raises(RunError, match=f"lyctui resume {folder.path}`"):
        ask_run(folder.path, "stop")
    monkeypatch.setenv("LYCTUI_RUNS", str(tmp_path))
    with pytest.raises(RunError, match="lyctui resume a`"):
        ask_run(folder.path, "stop")
    with pytest.raises(RunError, match="is not one of"):
        ask_run(folder.path, "rm -rf")
