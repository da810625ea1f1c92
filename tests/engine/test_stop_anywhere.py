"""A stop is heard in every long phase, and what is said afterwards is what is on the disk."""

import pytest

from engine.events import Ended, Phase, Saved, StepDone
from engine.runs import RunFolder, read_events, run_info, saved_step
from engine.session import Session, create_run, stored_recipe
from engine.snapshot import Reducer
from lyctui.outcome import result_line
from tests.small_run import small_recipe

PHASES = {
    "checking pictures": 0,
    "loading the base model": 0,
    "caching text": 0,
    "measuring": 1,
    "sampling": 1,
    "paused": 2,
    "saving": 4,
}
"""Where stop is asked for, and the most steps that are done by then or after it."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return small_recipe(
        tmp_path_factory.mktemp("stop"),
        train={"max_steps": 12},
        optim={"optimizer": "adamw", "lr": 1e-3, "te_lr": 0.0},
        data={"cache_text": True, "validation": 0.2},
        sample={"prompts": ["vexilo emblem --s 8"], "at_start": True, "every_epochs": 0},
        save={"precision": "fp32", "every_steps": 3},
    )


def ask_at(folder, phase, tmp_path, *, resume=False):
    """Run until `phase` begins, ask for a stop there, and give the events after that."""
    after, asked = [], False

    def watch(event):
        nonlocal asked
        if phase == "paused" and isinstance(event, StepDone) and event.step == 2:
            session.control.ask("pause")
        if asked:
            after.append(event)
        elif isinstance(event, Phase) and event.phase == phase:
            asked = True
            session.control.ask("stop")

    session = Session(
        stored_recipe(folder), folder, resume=resume, cache=tmp_path / "cache", on_event=watch
    )
    session.start()
    assert session.wait(120)
    assert session.error is None, session.error
    assert asked
    return session, after


@pytest.mark.parametrize("phase", PHASES)
def test_a_stop_is_heard_in(phase, recipe, tmp_path):
    folder = create_run(recipe)
    session, after = ask_at(folder, phase, tmp_path)
    end = after[-1]
    assert isinstance(end, Ended)
    assert (end.state, end.exit) == ("stopped", 130)
    assert end.steps <= PHASES[phase]
    assert len([event for event in after if isinstance(event, StepDone)]) <= 1
    words = result_line(session.snapshot())
    assert ("the state is saved" in words) == (saved_step(RunFolder(folder)) == end.steps > 0)
    assert ("nothing was trained yet" in words) == (end.steps == 0)


def test_a_run_that_waits_for_the_disk_is_left_without_claiming_its_state(
    recipe, tmp_path, monkeypatch
):
    folder = create_run(recipe)
    monkeypatch.setattr("engine.room.free_bytes", lambda path: 0)
    session, after = ask_at(folder, "waiting", tmp_path)
    end = after[-1]
    assert isinstance(end, Ended)
    assert end.state == "stopped"
    assert saved_step(RunFolder(folder)) < end.steps
    words = result_line(session.snapshot())
    assert "the state is saved" not in words
    assert end.message
    assert end.message in words
    assert run_info(folder).waiting == ""


def test_a_resume_that_is_stopped_while_it_loads_stands_where_its_state_stands(recipe, tmp_path):
    folder = create_run(recipe)
    session, after = ask_at(folder, "saving", tmp_path)
    step = session.snapshot().step
    assert step > 0
    assert any(isinstance(event, Saved) and event.what == "state" for event in after)
    again, _ = ask_at(folder, "loading the base model", tmp_path, resume=True)
    assert again.snapshot().end.steps == step
    assert "the state is saved" in result_line(again.snapshot())
    info = run_info(folder)
    assert (info.state, info.step, info.resumable) == ("stopped", step, True)
    watched = Reducer().apply_all(read_events(RunFolder(folder).events)[0])
    words = f"at step {step} of {watched.total_steps}; the state is saved"
    assert words in result_line(watched)
