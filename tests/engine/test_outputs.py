"""A run whose disk is full, read-only or away waits and loses nothing; a stop leaves it in words."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine import patience, saving, step
from engine.assemble import Training
from engine.checkpoint.state import Place, list_states, read_newest
from engine.events import Ended, Event, Phase, Saved, StepDone, Waiting, Warned
from engine.room import GaveUp, Trouble
from engine.runs import RunFolder, read_events
from engine.saving import Saver
from engine.session import Session, create_run, stored_recipe
from engine.settings import Recipe
from engine.writing import temporary_beside
from tests.small_run import small_recipe, tensor_bytes

LAST = 6
"""Steps of the run, three in each of two epochs."""
Watch = Callable[[Event, "Run"], None]


@dataclass
class Run:
    """A run that was made, and what it told."""

    folder: Path
    events: list[Event] = field(default_factory=list)
    session: Session | None = None
    modes: dict[str, int] = field(default_factory=dict)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def end(self) -> Ended:
        return self.of(Ended)[-1]

    @property
    def waits(self) -> list[str]:
        return [event.reason for event in self.of(Waiting)]

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.of(Warned)]

    def go(self, watch: Watch = lambda event, run: None, *, resume: bool = False) -> Run:
        """Train to the end; `watch` sees each event in the training thread, before what comes next."""

        def seen(event: Event) -> None:
            self.events.append(event)
            try:
                watch(event, self)
            except BaseException as error:
                self.events.append(Warned(f"the test itself failed: {error!r}"))

        self.session = Session(
            stored_recipe(self.folder),
            self.folder,
            resume=resume,
            cache=self.folder.parents[1] / "cache",
            on_event=seen,
        )
        self.session.start()
        if not self.session.wait(60):
            self.session.control.ask("stop")  # lest its thread outlives the test
            raise AssertionError(f"it still waits: {self.events[-3:]}")
        return self

    def tensors(self) -> str:
        return tensor_bytes(self.folder / f"{self.folder.name}.safetensors")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


def recipe(root: Path, **sections: dict[str, Any]) -> Recipe:
    return small_recipe(root, train={"batch_size": 6, "epochs": 2}, **sections)


@pytest.fixture(scope="module")
def golden(root: Path) -> Run:
    """The run that nothing happened to, of a user who lets everybody read."""
    before = os.umask(0)
    try:
        run = Run(create_run(recipe(root))).go(look)
    finally:
        os.umask(before)
    assert run.end.steps == LAST and run.waits == []
    return run


def look(event: Event, run: Run) -> None:
    """Note the modes of all files while the run trains."""
    if isinstance(event, StepDone) and event.step == 4:
        for path in run.folder.rglob("*"):
            run.modes[str(path.relative_to(run.folder))] = stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "POLL_SECONDS", 0.01)


@dataclass
class Disk:
    """The disk below a folder: `full` for names that hold a word, or `readonly`."""

    folder: Path
    full: str | None = None
    readonly: bool = False
    torn: bool = False

    def plant(self, patched: pytest.MonkeyPatch) -> Disk:
        opened, write = os.open, os.write

        def open_(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if self.readonly and flags & os.O_CREAT and self._here(os.fspath(path)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return opened(path, flags, *more, **named)

        def write_(descriptor: int, data: Any) -> int:
            if self.full is not None:
                path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
                if self._here(path) and self.full in path:
                    # As the system does it: what has room is taken, the next call fails.
                    self.torn = not self.torn
                    if self.torn and len(data) > 1:
                        return write(descriptor, data[: len(data) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)

        patched.setattr(os, "open", open_)
        patched.setattr(os, "write", write_)
        return self

    def _here(self, path: Any) -> bool:
        return str(path).startswith(str(self.folder))


@pytest.fixture
def new(root: Path, golden: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Disk]:
    """A run like the golden one, and its disk."""
    run = Run(create_run(recipe(root)))
    return run, Disk(run.folder).plant(monkeypatch)


def test_what_tells_of_its_owner_is_for_the_owner_alone(golden: Run) -> None:
    modes = golden.modes
    for name in ("run.toml", "events.jsonl", "control.sock", "state/step-00000003/state.json"):
        assert modes[name] == 0o600, name
    for name in ("control", "state"):
        assert modes[name] == 0o700, name
    assert (golden.folder / "run.log").stat().st_mode & 0o777 == 0o600
    for name in ("small-000001.safetensors", "manifest.json"):
        assert modes[name] == 0o666, "made to be given away"


def temporaries(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*") if path.suffix in (".tmp", ".old")]


def same_as_golden(run: Run, golden: Run) -> None:
    assert run.end.state == "finished", run.end.message
    assert not [one for one in run.warnings if "the test itself" in one]
    assert run.tensors() == golden.tensors()
    here, there = (read_newest(RunFolder(one.folder).states)[0] for one in (run, golden))
    assert here.place == there.place
    assert all(torch.equal(here.network[name], there.network[name]) for name in there.network)
    names = [
        {path.name for path in list_states(RunFolder(one.folder).states)} for one in (run, golden)
    ]
    assert names[0] == names[1]
    assert temporaries(run.folder) == []


def test_a_full_then_read_only_then_vanished_disk_is_waited_for_and_nothing_is_lost(
    new: tuple[Run, Disk], golden: Run
) -> None:
    run, disk = new
    away = run.folder.with_name("away")

    def watch(event: Event, run: Run) -> None:
        match event:
            case StepDone(step=2):
                disk.full = ""
            case Waiting(reason=reason) if "full" in reason and disk.full == "":
                disk.full, disk.readonly = None, True
            case Waiting(reason=reason) if "only be read" in reason:
                disk.readonly = False
                run.folder.rename(away)
            case Waiting(reason=reason) if "not there" in reason:
                run.folder.mkdir()  # what lies at the place of a disk that was unmounted
            case Phase(phase="waiting") if away.exists() and run.folder.exists():
                # The next try finds the empty folder; then the disk is mounted again.
                run.folder.rmdir()
                away.rename(run.folder)
            case Saved(what="network", step=6):
                disk.full = "state"
        if disk.full == "state" and isinstance(event, Waiting) and event.reason:
            disk.full = None

    run.go(watch)
    same_as_golden(run, golden)
    kinds = ["is full", "only be read", "is not there", "", "is full", ""]
    assert len(run.waits) == len(kinds)
    assert all(
        kind in said if kind else said == "" for kind, said in zip(kinds, run.waits, strict=True)
    )
    assert read_events(RunFolder(run.folder).events)[0] == run.events, "none of them is lost"
    told = [event.step for event in run.of(StepDone)]
    assert told == list(range(1, LAST + 1)), "no step was made twice"
    after = run.events[
        [at for at, event in enumerate(run.events) if isinstance(event, Waiting)][-1] :
    ]
    assert any(isinstance(event, Saved) for event in after)


def test_a_stop_while_waiting_leaves_in_words_and_the_run_is_resumed(
    new: tuple[Run, Disk], golden: Run
) -> None:
    run, disk = new

    def watch(event: Event, run: Run) -> None:
        assert run.session is not None
        if isinstance(event, StepDone) and event.step == 4:
            disk.full = ""
        if isinstance(event, StepDone) and event.step == 5:
            run.session.control.ask("stop")
        if isinstance(event, Waiting) and event.reason:
            run.session.control.ask("pause")
            run.session.control.ask("stop")

    run.go(watch)
    assert (run.end.state, run.end.exit) == ("stopped", 130)
    assert "without its state" in run.end.message
    assert "The disk is full" in run.end.message
    assert "The last state is that of step 3: `lyctui resume " in run.end.message
    assert temporaries(run.folder) == []
    disk.full = None
    again = Run(run.folder).go(resume=True)
    assert again.of(StepDone)[0].step == 4
    same_as_golden(again, golden)


def test_a_finished_file_that_was_left_out_is_written_by_a_resume(
    new: tuple[Run, Disk], golden: Run
) -> None:
    run, disk = new

    def watch(event: Event, run: Run) -> None:
        assert run.session is not None
        if isinstance(event, StepDone) and event.step == LAST:
            disk.full = ".lyctui-"
        if isinstance(event, Waiting) and event.reason:
            run.session.control.ask("save")
            run.session.control.ask("stop")

    run.go(watch)
    assert "without its network file" in run.end.message
    assert "Its state is saved" in run.end.message
    assert not RunFolder(run.folder).final.exists()
    disk.full = None
    again = Run(run.folder).go(resume=True)
    assert again.of(StepDone) == []
    same_as_golden(again, golden)


def test_a_state_of_another_optimizer_is_refused_in_words(golden: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "small")
    shutil.copytree(golden.folder, run.folder)
    RunFolder(run.folder).final.unlink()
    text = (run.folder / "run.toml").read_text()
    assert 'optimizer = "adamw"' in text
    (run.folder / "run.toml").write_text(text.replace('"adamw"', '"adafactor"'))
    run.go(resume=True)
    assert run.end.exit == 2
    assert (
        "does not belong to this run: its optimizer is AdamW, the recipe's is AdaFactor"
        in run.end.message
    )
    assert len(list_states(RunFolder(run.folder).states)) == 2


class Short:
    """Stands before a writer: memory runs out in the calls of these numbers."""

    def __init__(self, real: Callable[..., Any], *numbers: int) -> None:
        self._real, self._numbers, self._calls = real, numbers, 0

    def __call__(self, *given: Any, **named: Any) -> Any:
        self._calls += 1
        if self._calls in self._numbers:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._real(*given, **named)


def test_memory_running_short_while_saving_costs_no_run(
    root: Path, golden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call: helped by a second. Two: made up for at the next step. The finished file: after a state."""
    made = recipe(root, save={"copy_to": str(root / "tiny.safetensors" / "loras")})
    run = Run(create_run(made))
    (run.folder / "samples").write_text("no folder")
    monkeypatch.setattr(saving, "write_state", Short(saving.write_state, 1, 2))
    monkeypatch.setattr(saving, "write_network", Short(saving.write_network, 1, 3, 4))
    run.go()
    assert run.end.exit == 5
    assert "finished file" in run.end.message and "state of step 6 is saved" in run.end.message
    assert [event.step for event in run.of(Saved) if event.what == "state"] == [4, 6]
    assert [event.step for event in run.of(Saved) if event.what == "network"] == [3]
    assert any("save the state of step 3" in one for one in run.warnings)
    again = Run(run.folder).go(resume=True)
    assert again.end.state == "finished"
    assert again.tensors() == golden.tensors()
    assert any("could not be copied" in one for one in again.warnings)


def test_numbers_beyond_the_files_precision_are_in_no_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite as they are trained, infinite in fp16: told on the way, refused at the end, never written."""
    whole = step._limit_and_average

    def enlarged(training: Training, number: int) -> Any:
        if number == 3:
            training.weights.pairs[0].live.flat.detach()[0] = 1e5
        return whole(training, number)

    monkeypatch.setattr(step, "_limit_and_average", enlarged)
    run = Run(create_run(recipe(root, save={"precision": "fp16", "every_steps": 2}))).go()
    assert run.end.exit == 1 and run.end.problems[0]["path"] == "save.precision"
    assert "Its state is saved" in run.end.message
    assert [words for words in run.warnings if "too large for fp16" in words] == [
        f"The network file of step {at} was not written: it has numbers that are too large for fp16."
        for at in (3, 4)
    ]
    assert sorted(path.name for path in run.folder.glob("*.safetensors")) == [
        f"{run.folder.name}-step00000002.safetensors"
    ]
    text = (run.folder / "run.toml").read_text()
    (run.folder / "run.toml").write_text(text.replace('precision = "fp16"', 'precision = "fp32"'))
    again = Run(run.folder).go(resume=True)
    assert again.end.state == "finished" and again.of(StepDone) == []


def test_left_while_a_state_is_written_once_more_it_says_which_is_kept(tmp_path: Path) -> None:
    """As after a rollback, which writes the state that it went back to again."""
    given: Any = SimpleNamespace(saved_states={3}, _folder=RunFolder(tmp_path / "small"))
    trouble = Trouble("The disk is full.", "", errno.ENOSPC)
    said = Saver._unsaved(given, Place(3, 1, 3), "state", GaveUp(trouble)).message
    assert "without its state" in said and "The one from before is whole" in said
    said = Saver._unsaved(given, Place(3, 1, 3), "network file", GaveUp(trouble)).message
    assert "without its network file" in said and "Its state is saved" in said


def test_what_a_kill_left_half_written_is_removed(root: Path) -> None:
    """Beside network files, and beside pictures and their strips."""
    run = Run(create_run(recipe(root)))
    for folder in ("", "samples", "samples/000003"):
        (run.folder / folder).mkdir(exist_ok=True)
        temporary_beside(run.folder / folder / "a.png").write_text("half")
    mine = run.folder / "samples" / ".mine.tmp"
    mine.write_text("of the user")

    def watch(event: Event, run: Run) -> None:
        if isinstance(event, StepDone) and run.session is not None:
            run.session.control.ask("stop")

    run.go(watch)
    assert temporaries(run.folder) == [str(mine)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of twelve megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_truly_full(root: Path, golden: Run, small_disk: Path) -> None:
    run = Run(create_run(recipe(root, run={"folder": str(small_disk / "runs")})))
    filler = small_disk / "filler"

    def watch(event: Event, run: Run) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        if isinstance(event, Phase) and event.phase == "waiting":
            filler.unlink(missing_ok=True)

    run.go(watch)
    assert "are needed, 0.0 MB are free" in run.waits[0]
    assert run.waits[1:] == [""]
    assert run.end.state == "finished" and run.tensors() == golden.tensors()
    assert read_events(RunFolder(run.folder).events)[0] == run.events
    assert temporaries(run.folder) == []
