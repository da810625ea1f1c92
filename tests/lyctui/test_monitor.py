"""Runs as screens and line logs see them: live ones, watched ones, and what is said about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.events import Ended, Saved, Scored, Started, Validated, Warned, to_dict
from engine.runs import Lock, RunFolder
from engine.snapshot import Reducer, Snapshot
from lyctui import outcome, report, text
from lyctui.capture import Output, write_all
from lyctui.monitor import EventFeed, WatchedRun
from lyctui.plain_monitor import LineLog, exit_code
from lyctui.signals import Signals

SIGNS = text.UNICODE_SIGNS


def snapshot_at(toy, step: int, total: int = 1920, **more: object) -> Snapshot:
    reducer = Reducer("vexilo_v1")
    steps = (total // 10,) * 10
    reducer.apply(
        Started("vexilo_v1", total, steps, 4, 192, device="cuda:0", time=time.time() - 861)
    )
    for number in range(1, step + 1):
        reducer.apply(toy.toy_step(number, 1.06, 5))
    return reducer.snapshot


def test_monitor_lines_read_as_the_wireframe(toy):
    snapshot = snapshot_at(toy, 812)
    assert report.step_words(snapshot) == "step 812 / 1 920"
    gauge = report.plain(report.gauge(snapshot, 78))
    assert gauge.endswith("42 %")
    assert text.cells(gauge) <= 78
    line = report.plain(report.time_line(snapshot))
    assert line.startswith("epoch 5 of 10 · 14:21 elapsed · 20 min left · done about ")
    numbers = [report.plain(each) for each in report.number_lines(snapshot)]
    assert "8.1e-05 unet" in numbers[0]
    assert "1.06 s" in numbers[1]
    assert "1.0 GiB" in numbers[1]
    assert all(text.cells(each) <= 78 for each in numbers)


def test_layers_that_were_scaled_back_stand_in_the_panel_and_the_lines(toy, toy_run):
    snapshot = snapshot_at(toy, 812)
    assert len(report.number_lines(snapshot)) == 3
    limited = replace(snapshot, scaled_layers=1)
    row = report.plain(report.number_lines(limited)[3])
    assert " ".join(row.split()) == "Limit 1 layer scaled back"
    log, event = LineLog(toy_run(), SIGNS), replace(toy.toy_step(813, 1.0), scaled_layers=12)
    reducer = Reducer("r")
    reducer.apply(Started("r", 1000, (1000,), 1, 1000))
    (line,) = log.lines([event], reducer.apply(event), now=1.0)
    assert ", 12 layers scaled back," in line
    (line,) = log.lines([event], snapshot, now=9.0)
    assert "scaled back" not in line


def test_measured_losses_stand_in_the_panel_and_the_log(toy, tmp_path):
    reducer = Reducer("vexilo_v1")
    reducer.apply(Started("vexilo_v1", 1920, (192,) * 10, 4, 192))
    assert len(report.number_lines(reducer.snapshot)) == 3
    values = [(0, 0.2011, 0.2101), (192, 0.18402, 0.17), (1920, 0.19112, 0.11)]
    events = [Validated(step, step // 192, held_out, own) for step, held_out, own in values]
    reducer.apply_all(events)
    numbers = [report.plain(each) for each in report.number_lines(reducer.snapshot)]
    row = "Fixed 0.1911 held out 0.1100 trained Lowest 0.1840 held out step 192"
    assert " ".join(numbers[3].split()) == row
    assert text.cells(numbers[3]) <= 78
    lines = [report.plain(report.event_line(event, tmp_path, SIGNS)) for event in events]
    assert lines[0] == "measured before training: loss 0.2011 held out, 0.2101 trained"
    assert lines[2] == "measured after step 1 920: loss 0.1911 held out, 0.1100 trained"


def test_gauge_is_full_only_at_the_end(toy):
    assert "100 %" not in report.plain(report.gauge(snapshot_at(toy, 1919), 78))
    assert "100 %" in report.plain(report.gauge(snapshot_at(toy, 1920), 78))


def test_hostile_text_of_events_is_inert(tmp_path):
    evil = "\x1b[2Jevil"
    events = [
        Warned(evil),
        Saved("network", 1, 1, evil),
        Ended("failed", evil, (), 1, 1, message=evil),
        Started(evil, 10, (10,), 1, 10, device=evil),
    ]
    for event in events:
        line = report.event_line(event, tmp_path, SIGNS)
        assert line is not None
        assert "\x1b" not in report.plain(line)
    snapshot = Reducer(evil).apply_all(events)
    assert "\x1b" not in "".join(outcome.closing_lines(snapshot, tmp_path))


def test_live_run_stops_and_says_so(toy_run):
    run = toy_run(steps=400, seconds=0.01)
    assert not run.live
    run.start()
    assert run.live
    assert run.ask("stop") is None
    assert run.wait(10)
    assert run.snapshot().state == "stopped"
    assert run.ask("save") == "The run has ended."
    lines = outcome.closing_lines(run.snapshot(), run.folder)
    assert 3 <= len(lines) <= 8
    assert any(line.startswith("resume: lyctui resume") for line in lines)


def test_failed_run_carries_its_problems(toy_run):
    run = toy_run(steps=10, seconds=0.0, fail_at=3)
    run.start()
    assert run.wait(10)
    assert run.exit_code == 5
    assert run.problems[0].remedy == "Set train.batch_size to 1."
    watched = WatchedRun(run.folder)
    assert watched.problems[0].what == "The GPU ran out of memory."


def test_watched_run_gives_the_same_snapshot(toy_run):
    run = toy_run(steps=20, seconds=0.0)
    run.start()
    assert run.wait(10)
    watched, live = WatchedRun(run.folder).snapshot(), run.snapshot()
    assert (watched.step, watched.loss_mean, watched.files) == (
        live.step,
        live.loss_mean,
        live.files,
    )
    assert list(watched.points) == list(live.points)


def test_watcher_follows_and_survives_a_run_that_dies(tmp_path, toy):
    folder = RunFolder(tmp_path / "r")
    folder.path.mkdir()
    lock = Lock(folder)
    lock.acquire()
    with folder.events.open("a") as file:
        started = Started("r", 10, (10,), 1, 10)
        file.write(json.dumps(to_dict(started)) + "\n")
        file.write(json.dumps(to_dict(toy.toy_step(1, 0.1))) + "\n")
        file.flush()
        watched = WatchedRun(folder.path)
        assert watched.live
        assert watched.snapshot().step == 1
        file.write(json.dumps(to_dict(toy.toy_step(2, 0.1)))[:20])
        file.flush()
        assert watched.snapshot().step == 1, "half a line waits"
    lock.release()
    watched._looked = 0.0
    assert not watched.live
    end = watched.snapshot()
    assert end.state == "failed"
    assert "ended unexpectedly" in watched.snapshot().end.message
    assert "Resume it" in watched.problems[0].remedy
    assert watched.ask("stop"), "a refusal in words"


def test_closed_feed_keeps_nothing():
    feed = EventFeed()
    feed(Warned("one"))
    assert feed.take() == []
    feed.open = True
    feed(Warned("two"))
    assert [event.message for event in feed.take()] == ["two"]


def test_line_log_is_at_most_one_line_a_second(toy, toy_run):
    run = toy_run()
    log = LineLog(run, SIGNS)
    reducer = Reducer("r")
    reducer.apply(Started("r", 1000, (1000,), 1, 1000))
    lines = 0
    for step in range(1, 401):
        event = toy.toy_step(step, 0.01)
        lines += len(list(log.lines([event], reducer.apply(event), now=step * 0.01)))
    assert 3 <= lines <= 5, "400 steps in four seconds"


def test_exit_codes_tell_the_signal(toy_run):
    run = toy_run(steps=400, seconds=0.01)
    run.start()
    run.ask("stop")
    assert run.wait(10)
    signals = Signals()
    assert exit_code(run, signals) == 130
    signals.stop_code = 143
    assert exit_code(run, signals) == 143
    finished = toy_run("other", steps=4, seconds=0.0)
    finished.start()
    assert finished.wait(10)
    assert exit_code(finished, signals) == 0, "a run that finished is done, whatever arrived late"


def test_scores_are_shown_before_and_after():
    scores = (Scored("before", 0.1, 0.9, 0.9, 0.9), Scored("after", 0.8, 0.9, 0.9, 0.9))
    lines = outcome.score_lines(scores)
    assert "0.10 before, 0.80 after" in lines[0]
    assert outcome.score_lines(scores[:1]) == []


def test_long_lines_are_folded_whole():
    path = "/" + "x" * 150 + " y"
    rows = report.folded([(("Fetch  ", "dim"), (path, ""))], 60)
    assert all(text.cells(report.plain(row)) <= 60 for row in rows)
    assert "".join(map(report.plain, rows)).replace(" ", "") == "Fetch" + path.replace(" ", "")


# --- output ---


def test_output_never_raises_when_the_reader_is_gone():
    read, write = os.pipe()
    output = Output(write)
    os.close(read)
    os.close(write)
    output.line("nobody reads this")
    assert output.dead
    output.line("nor this")


def test_write_all_gives_up_on_a_full_pipe():
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        # Nobody ever reads: without an end to its patience this would wait for the test's limit.
        assert not write_all(write, b"x" * 1_000_000, patience=0.2)
    finally:
        os.close(read)
        os.close(write)


def test_capture_survives_a_log_that_cannot_be_written(tmp_path):
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from lyctui.capture import Capture\n"
        "capture = Capture()\n"
        "capture.begin(Path('/proc/no/such/log'))\n"
        "print('lost', flush=True)\n"
        "os.write(2, b'lost too')\n"
        "capture.switch(Path(sys.argv[1]))\n"
        "print('kept')\n"
        "capture.end()\n"
        "print('back', bool(capture.problem))\n"
    )
    log = tmp_path / "a" / "log"
    done = subprocess.run(
        [sys.executable, "-c", program, str(log)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "back True\n"
    assert done.stderr == ""
    assert log.read_text() == "kept\n"


def test_json_follow_writes_events_and_gives_the_code(tmp_path):
    toy_path = Path(__file__).parents[1] / "terminal" / "toy.py"
    command = [
        sys.executable,
        str(toy_path),
        str(tmp_path / "r"),
        "--steps",
        "6",
        "--json",
        "--noise",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["v"] for each in objects] == [1] * len(objects)
    assert [each["step"] for each in objects if each["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert objects[-1]["event"] == "finished"
    assert objects[-1]["exit"] == 0
    assert "noise from print" in (tmp_path / "r" / "run.log").read_text()


def test_closed_pipe_never_reaches_the_engine(tmp_path):
    toy_path = Path(__file__).parents[1] / "terminal" / "toy.py"
    command = [sys.executable, str(toy_path), str(tmp_path / "r"), "--steps", "40", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    assert '"finished"' in (tmp_path / "r" / "events.jsonl").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    "module", ["monitor", "report", "text", "terminal", "signals", "plain_monitor"]
)
def test_light_modules_import_neither_torch_nor_textual(module):
    program = (
        f"import sys, lyctui.{module}; print([m for m in ('torch','textual') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"


def test_nothing_delivers_engine_events_from_the_training_thread():
    """`call_from_thread` would make a step wait for a stalled screen."""
    for path in (Path(__file__).parents[2] / "lyctui").rglob("*.py"):
        assert "call_from_thread" not in path.read_text(), path
    engine = Path(__file__).parents[2] / "engine"
    for path in engine.rglob("*.py"):
        source = path.read_text()
        assert "post_message" not in source, path
        assert "call_from_thread" not in source, path
