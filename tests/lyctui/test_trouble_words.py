"""What is said when numbers, memory or the disk went wrong, and how a run ended: no more than is true."""

from dataclasses import replace

import pytest

from engine.events import Ended, Proved, RolledBack, Saved, Started, Waiting, from_dict, to_dict
from engine.runs import Lock, RunFolder, run_info
from engine.snapshot import Reducer
from lyctui import outcome, report, text
from lyctui.plain_monitor import LineLog
from lyctui.screens.quit import loss_words
from lyctui.verbs.runs import run_object, run_row

SIGNS = text.UNICODE_SIGNS
FULL = Waiting("The disk is full: 19 MB are needed, 3 MB are free.", "Free some space.")
BACK = RolledBack(120, 100, "The loss is not a number.", ("03.png", "\x1b[2J07.png"), 0.5, 1, 3)


@pytest.fixture
def reducer(toy):
    """A run at step 120 of 240."""
    made = Reducer("vexilo_v1")
    made.apply(Started("vexilo_v1", 240, (120, 120), 2, 240))
    made.apply(replace(toy.toy_step(120, 1.0), seconds=60.0))
    return made


def line_of(event, folder):
    line = report.event_line(event, folder, SIGNS)
    assert line is not None
    return report.plain(line), line[0][1]


def test_a_roll_back_says_from_where_why_and_at_which_rate(reducer, tmp_path):
    words, role = line_of(BACK, tmp_path)
    assert words == (
        "! Rolled back from step 120 to 100: the loss is not a number (03.png, ␛[2J07.png)."
        " Rates × 0.5 of what is set, 1 of 3."
    )
    assert role == "warning"
    assert report.news(BACK) == words.removeprefix("! ")
    snapshot = reducer.apply(BACK)
    assert report.step_words(snapshot) == "step 100 / 240"
    rows = [" ".join(report.plain(row).split()) for row in report.number_lines(snapshot)]
    assert rows[0].endswith("LR 8.1e-05 unet 4.0e-05 te")
    assert rows[1].endswith("× 0.5 rolled back")


def test_a_roll_back_for_memory_claims_no_lower_rate(tmp_path):
    event = replace(BACK, reason="Memory ran short", pictures=(), rate_factor=1.0, count=0)
    words, _ = line_of(event, tmp_path)
    assert words == "! Rolled back from step 120 to 100: memory ran short."


def test_waiting_stands_at_the_top_with_its_time_frozen(reducer, tmp_path, toy_run):
    before = report.plain(report.time_line(reducer.snapshot))
    assert "2 h left" in before
    assert "done about" in before
    snapshot = reducer.apply(FULL)
    words = "Waiting: the disk is full: 19 MB are needed, 3 MB are free. Free some space."
    assert report.waiting_words(snapshot) == words
    assert line_of(FULL, tmp_path) == (f"! {words}", "warning")
    assert report.phase_words(snapshot) == "waiting"
    line = report.plain(report.time_line(snapshot))
    assert "2 h left" in line
    assert "done about" not in line
    assert words in loss_words(snapshot)
    assert "no state is saved yet" in loss_words(replace(snapshot, last_saved_step=0))
    (said, *_) = LineLog(toy_run(), SIGNS).lines([FULL], snapshot, now=1.0)
    assert said.endswith(words)
    snapshot = reducer.apply(Waiting(""))
    assert report.waiting_words(snapshot) == ""
    assert line_of(Waiting(""), tmp_path) == ("the wait is over", "")
    snapshot = reducer.apply_all([FULL, Ended("stopped", "r", (), 120, 130)])
    assert report.waiting_words(snapshot) == ""


def test_smaller_passes_and_skipped_updates_have_a_row_within_80_columns(reducer, toy, toy_run):
    event = replace(toy.toy_step(121, 1.0), rows=2, skipped=3, scaled_layers=12)
    reducer.apply(BACK)
    snapshot = reducer.apply(event)
    rows = [report.plain(row) for row in report.number_lines(snapshot)]
    assert len(rows) == 5
    assert all(text.cells(row) <= 78 for row in rows)
    words = " ".join(" ".join(rows).split())
    for part in ("Passes of 2 pictures", "fp16 3 updates skipped", "Limit 12 layers scaled back"):
        assert part in words
    reducer.apply(replace(event, step=122, rows=1, skipped=0, scaled_layers=None))
    words = " ".join(" ".join(map(report.plain, report.number_lines(reducer.snapshot))).split())
    assert "Passes of 1 picture" in words
    assert "fp16" not in words
    (line,) = LineLog(toy_run(), SIGNS).lines([event], snapshot, now=1.0)
    assert "rates × 0.5, passes of 2, fp16 skipped 3," in line


def test_the_check_of_the_file_is_one_closing_line(reducer, tmp_path):
    path = str(tmp_path / "a.safetensors")
    picture = "same picture as in training: largest difference 0 of 255"
    good = Proved(path, 240, True, ("192 tensors, all known to ComfyUI", picture))
    assert line_of(good, tmp_path) == (
        f"✓ a.safetensors checked: 192 tensors, all known to ComfyUI; {picture}",
        "done",
    )
    lines = outcome.closing_lines(reducer.apply(good), tmp_path)
    assert "check:  loads in a clean base, same picture as in training" in lines
    bad = Proved(path, 240, False, (), ("every change is zero \x1b[2J",))
    words, role = line_of(bad, tmp_path)
    assert (words, role) == ("! a.safetensors checked: every change is zero ␛[2J", "warning")
    lines = outcome.closing_lines(reducer.apply(bad), tmp_path)
    assert "check:  it did not pass: every change is zero ␛[2J" in lines


def stopped(*events, total=240, at=0):
    reducer = Reducer("vexilo_v1")
    if total:
        reducer.apply(Started("vexilo_v1", total, (total,), 2, total, step=at))
    reducer.apply_all(events)
    return outcome.result_line(reducer.snapshot).partition(" in ")[0]


def test_a_stopped_run_claims_a_state_only_where_one_was_saved():
    end = Ended("stopped", "r", (), 120, 130)
    state = Saved("state", 120, 1, "state/step-00000120", checked=True)
    head = "vexilo_v1: stopped at step 120 of 240"
    assert stopped(state, end) == f"{head}; the state is saved."
    assert stopped(end, at=100) == f"{head}; the last saved state is of step 100."
    assert stopped(end) == f"{head}; no state is saved."
    said = replace(end, message="Step 120 could not be saved: the disk is full.")
    assert stopped(said) == f"{head}. Step 120 could not be saved: the disk is full."
    early = Ended("stopped", "r", (), 0, 130)
    assert stopped(early) == "vexilo_v1: stopped at step 0 of 240; nothing was trained yet."
    words = "vexilo_v1: stopped before its first step; nothing was trained yet."
    assert stopped(early, total=0) == words
    # A resume that was stopped while it loaded: it stands where its state stands.
    assert stopped(end, total=0) == "vexilo_v1: stopped at step 120; the state is saved."


def test_a_failed_run_says_where_its_file_is(reducer, tmp_path):
    reducer.apply(Saved("network", 100, 1, str(tmp_path / "a-step00000100.safetensors"), 9, True))
    reducer.apply(Ended("failed", "r", (), 120, 1, message="The loss is not a number."))
    lines = outcome.closing_lines(reducer.snapshot, tmp_path)
    assert "failed at step 120 of 240. The loss is not a number." in lines[0]
    assert lines[1] == f"file:   {tmp_path / 'a-step00000100.safetensors'}"


def test_the_list_of_runs_knows_waiting_and_roll_backs(tmp_path, toy):
    import json

    folder = RunFolder(tmp_path / "a")
    folder.path.mkdir()
    events = [Started("a", 240, (240,), 2, 240), toy.toy_step(120, 1.0), BACK, FULL]
    folder.events.write_text("".join(json.dumps(to_dict(each)) + "\n" for each in events))
    lock = Lock(folder)
    lock.acquire()
    info = run_info(folder.path)
    assert (info.state, info.step) == ("running", 100)
    assert run_row(info)[1:3] == ("waiting", "100 of 240")
    assert run_object(info)["waiting"] == FULL.reason
    lock.release()
    assert run_row(run_info(folder.path))[1] == "ended unexpectedly"


@pytest.mark.parametrize("event", [BACK, FULL, Proved("a", 1, True, ("x",), ())])
def test_the_machine_interface_has_them_whole(event):
    assert from_dict(json_copy(to_dict(event))) == event


def json_copy(value):
    import json

    return json.loads(json.dumps(value))
