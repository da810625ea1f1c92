"""A run as an object: events, requests from outside, one owner, errors in words."""

from __future__ import annotations

import gc
import json
import stat
import threading
import weakref
from pathlib import Path

import pytest

from engine.control import Control
from engine.errors import OutOfMemory, RunError
from engine.events import Acknowledged, Ended, Event, Sampled, Saved, StepDone
from engine.runs import RunFolder, ask_run, read_events, run_info
from engine.session import Listener, Session, create_run
from tests.small_run import small_recipe


@pytest.fixture
def listening(tmp_path: Path) -> object:
    """A run folder whose owner listens."""
    from engine.runs import Lock

    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    lock, control = Lock(folder), Control()
    lock.acquire()
    listener = Listener(folder, control, lock.beat)
    listener.start()
    yield folder, control
    listener.stop()
    lock.release()
    assert not folder.socket.exists()
    assert not folder.requests.exists()


def test_requests_arrive_through_the_socket(listening: tuple[RunFolder, Control]) -> None:
    folder, control = listening
    assert stat.S_IMODE(folder.socket.stat().st_mode) == 0o600
    assert ask_run(folder.path, "save") == "asked to save"
    assert ask_run(folder.path, "save") == "asked to save"
    assert ask_run(folder.path, "stop") == "asked to stop"
    assert control.take() == ("save", "stop")
    assert control.take() == ()


def test_requests_arrive_through_files_where_sockets_do_not_work(
    listening: tuple[RunFolder, Control],
) -> None:
    folder, control = listening
    folder.socket.unlink()
    assert "left pause" in ask_run(folder.path, "pause")
    assert control.wait(5)
    assert control.take() == ("pause",)
    assert list(folder.requests.iterdir()) == []


def test_unknown_words_are_refused(listening: tuple[RunFolder, Control]) -> None:
    import socket

    folder, control = listening
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder.socket))
        client.sendall(b"import os\n")
        assert client.recv(100) == b"refused: not a request\n"
    assert control.take() == ()


def test_a_long_path_still_has_a_socket(tmp_path: Path) -> None:
    from engine.runs import Lock

    folder = RunFolder(tmp_path / ("long" * 30) / "run")
    folder.path.mkdir(parents=True)
    lock, control = Lock(folder), Control()
    lock.acquire()
    listener = Listener(folder, control, lock.beat)
    listener.start()
    try:
        assert ask_run(folder.path, "sample") == "asked to sample"
        assert control.take() == ("sample",)
    finally:
        listener.stop()
        lock.release()


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        train={"epochs": 2},
        sample={"prompts": ["vexilo emblem --s 2"], "at_start": True, "every_epochs": 1},
    )
    folder = create_run(recipe)
    seen: list[Event] = []
    session = Session(recipe, folder, on_event=seen.append)
    session.start()
    assert session.wait(240)
    assert session.error is None, session.error
    assert session.exit_code == 0
    snapshot = session.snapshot()
    assert snapshot.state == "finished"
    assert snapshot.step == snapshot.total_steps == 12
    assert [event.step for event in seen if isinstance(event, StepDone)] == list(range(1, 13))
    written, _ = read_events(RunFolder(folder).events)
    assert written == seen
    assert (folder / f"{folder.name}.safetensors").is_file()
    assert (folder / f"{folder.name}-000001.safetensors").is_file()
    assert [event.step for event in seen if isinstance(event, Sampled)] == [0, 6, 12]
    assert all(event.checked for event in seen if isinstance(event, Saved))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["final"] for entry in manifest] == [False, True]
    assert run_info(folder).state == "finished"
    assert not (folder / "control.sock").exists()


def test_requests_are_answered_at_step_boundaries(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, sample={"prompts": ["a circle --s 1"], "at_start": False})
    folder = create_run(recipe)
    seen: list[Event] = []
    paused, session = threading.Event(), None

    def watch(event: Event) -> None:
        assert session is not None
        seen.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            session.control.ask("pause")
            session.control.ask("sample")
            session.control.ask("save")
        if isinstance(event, Saved) and event.what == "network" and event.step == 2:
            paused.set()

    session = Session(recipe, folder, on_event=watch)
    session.start()
    assert paused.wait(120)
    assert session.snapshot().state == "paused"
    with pytest.raises(RunError, match=r"in use by process"):
        second = Session(recipe, folder)
        second.start()
        second.wait(30)
        assert second.error is not None
        raise second.error
    session.control.ask("continue")
    session.control.ask("stop")
    assert session.wait(120)
    asked = [event.request for event in seen if isinstance(event, Acknowledged)]
    assert asked == ["pause", "sample", "save", "continue", "stop"]
    end = seen[-1]
    assert isinstance(end, Ended)
    assert (end.state, end.steps, end.exit) == ("stopped", 2, 130)
    assert run_info(folder).resumable


def test_wrong_data_ends_with_its_exit_code_before_the_model_loads(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    (tmp_path / "pictures" / "2_vexilo emblem" / "00.png").write_bytes(b"no picture")
    broken = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"path": tmp_path / "missing"})}
    )
    folder = create_run(broken)
    session = Session(broken, folder)
    session.start()
    assert session.wait(120)
    assert session.exit_code == 4
    assert "00.png" in str(session.error)
    assert session.snapshot().state == "failed"
    assert run_info(folder).state == "failed"


def test_a_stop_while_loading_is_heard_and_the_run_goes_on_from_its_start(tmp_path: Path) -> None:
    from engine.events import Phase
    from engine.session import stored_recipe

    recipe = small_recipe(tmp_path, train={"epochs": 1})
    folder = create_run(recipe)

    def watch(event: Event) -> None:
        if isinstance(event, Phase) and event.phase == "caching latents":
            session.control.ask("stop")

    session = Session(recipe, folder, cache=tmp_path / "cache", on_event=watch)
    session.start()
    assert session.wait(120)
    assert (session.snapshot().state, session.snapshot().step) == ("stopped", 0)
    assert run_info(folder).resumable
    again = Session(stored_recipe(folder), folder, resume=True)
    again.start()
    assert again.wait(120)
    assert again.error is None, again.error
    assert again.snapshot().state == "finished"
    assert "begins at its first step" in again.snapshot().notes[0]


def test_a_run_that_failed_holds_nothing_of_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        pass

    made: list[weakref.ref[Model]] = []

    def broken(self: Session) -> Ended:
        model = Model()
        made.append(weakref.ref(model))
        try:
            raise MemoryError
        except MemoryError as error:
            raise OutOfMemory("The GPU ran out of memory.") from error

    monkeypatch.setattr(Session, "_train", broken)
    (tmp_path / "tiny.safetensors").touch()  # Nothing is trained.
    recipe = small_recipe(tmp_path)
    session = Session(recipe, create_run(recipe), cache=tmp_path / "cache")
    session.start()
    assert session.wait(60) and session.exit_code == 5
    assert str(session.error) == "The GPU ran out of memory."
    gc.collect()
    assert made[0]() is None, "another run in this process needs the room"
