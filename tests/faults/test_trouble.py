"""Numbers that go wrong, memory that runs short, data and clocks that change while a run goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.events import Event, StepDone
from engine.runs import RunFolder, run_info
from tests import going_wrong
from tests.faults import points
from tests.faults.golden import Golden, lines_of, steps_of
from tests.faults.recipes import brief
from tests.faults.table import Ledger
from tests.faults.victim import CRASHED

pytestmark = pytest.mark.slow

Plant = Callable[[], None]


def events_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """All events of a kind."""
    lines = lines_of(RunFolder(folder).events)
    return [line for line in lines if isinstance(line, dict) and line["event"] == name]


# Numbers ----------------------------------------------------------------------------------


def nan_in_latents(step: int) -> Plant:
    """The latents of one picture of a step are not numbers, the first time."""

    def plant() -> None:
        from dataclasses import replace

        from engine.data.loader import Loader

        whole, times = Loader.batch, [0]

        def batch(self: Loader, *args: Any, **named: Any) -> Any:
            made = whole(self, *args, **named)
            if named["step"] != step or times[0]:
                return made
            times[0] += 1
            return replace(made, latents_BCHW=made.latents_BCHW * float("nan"))

        Loader.batch = batch  # type: ignore[method-assign]

    return plant


def once(kind: Callable[[pytest.MonkeyPatch, going_wrong.Fault], None], *steps: int) -> Plant:
    """A fault of tests/going_wrong.py in these steps, the first time."""
    return lambda: kind(pytest.MonkeyPatch(), going_wrong.Fault(steps))


NUMBERS: dict[str, Callable[[int], Plant]] = {
    "not a number in latents": nan_in_latents,
    "not a number in gradients": lambda step: once(going_wrong.nan_in_gradient, step),
    "not a number in the loss": lambda step: once(going_wrong.nan_in_loss, step),
    "spike": lambda step: once(going_wrong.spike, step, step + 1, step + 2),
}


def rolls_back(golden: Golden, ledger: Ledger, fault: str, plant: Plant) -> None:
    """The run goes back, names the pictures, and ends; killed after that and resumed, it ends the same."""
    whole, folder = golden.new_run(), golden.new_run()
    with ledger.fault(fault) as lost:
        end = golden.job(whole, plant).run()
        assert end.code == 0, end.said()
        lost += golden.differences(whole, deaths=0, same=False)
        told = events_of(whole, "rolled back")
        assert [len(told), bool(told and told[0]["pictures"])] == [1, True], told
        steps = steps_of(RunFolder(whole).events)
        if steps.keys() != steps_of(RunFolder(golden.folder).events).keys():
            lost.append(f"steps {sorted(steps)}")

        def watch(event: Event, control: Any) -> None:
            last = max(steps)
            if isinstance(event, StepDone) and event.step == last:
                points.die()

        killed = golden.job(folder, plant, watch=watch).run()
        assert killed.killed, killed.said()
        golden.resumed(folder)
        again = steps_of(RunFolder(folder).events)
        lost += [
            f"step {step} was {again[step][-1]}, not {each[-1]}"
            for step, each in steps.items()
            if again[step][-1] != each[-1]
        ]


@pytest.mark.parametrize("fault", ["not a number in latents", "not a number in gradients"])
def test_a_step_whose_numbers_go_wrong(quick: Golden, ledger: Ledger, fault: str) -> None:
    rolls_back(quick, ledger, fault, NUMBERS[fault](3))


@pytest.mark.faults_long
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("fault", NUMBERS)
def test_any_step_whose_numbers_go_wrong(
    golden: Golden, ledger: Ledger, fault: str, step: int
) -> None:
    rolls_back(golden, ledger, fault, NUMBERS[fault](step))


# Memory -----------------------------------------------------------------------------------


def refused(where: str, *, times: int) -> Plant:
    """The first calls of `module:Class.method` find no memory."""

    def plant() -> None:
        import torch

        owner, name = points.owner_of(where)
        whole, calls = getattr(owner, name), [0]

        def called(*args: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] <= times:
                raise torch.OutOfMemoryError("out of memory by a test")
            return whole(*args, **named)

        setattr(owner, name, called)

    return plant


VAE = "diffusers.models.autoencoders.autoencoder_kl:AutoencoderKL"
MEMORY: dict[str, tuple[str, int]] = {
    "memory short in caching": (f"{VAE}.encode", 1),
    "memory short in a picture": (f"{VAE}.decode", 1),
    "memory short in a save": ("engine.networks.network:Network.tensors", 1),
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=[] if "picture" in name else pytest.mark.faults_long)
        for name in MEMORY
    ],
)
def test_memory_that_is_short_for_a_moment(quick: Golden, ledger: Ledger, fault: str) -> None:
    folder = quick.new_run()
    where, times = MEMORY[fault]
    with ledger.fault(fault) as lost:
        cache = quick.root / f"short-{folder.name}"
        end = quick.job(folder, refused(where, times=times), cache=cache).run()
        assert end.code == 0, end.said()
        lost += quick.differences(folder, deaths=0)


@pytest.mark.faults_long
def test_memory_that_is_short_in_a_step(tmp_path: Path, ledger: Ledger) -> None:
    golden = Golden(brief(tmp_path, train={"batch_size": 2, "accumulation": 1}), tmp_path, True)
    folder = golden.new_run()
    with ledger.fault("memory short in a step") as lost:
        plant = lambda: going_wrong.no_memory_beyond(pytest.MonkeyPatch(), 1, steps=(2,))  # noqa: E731
        end = golden.job(folder, lambda: plant() and None).run()
        assert end.code == 0, end.said()
        lost += golden.differences(folder, deaths=0, same=False)
        whole, split = steps_of(RunFolder(golden.folder).events), steps_of(RunFolder(folder).events)
        for step, each in whole.items():
            mine, theirs = float(split[step][-1][1]), float(each[-1][1])
            assert mine == pytest.approx(theirs, rel=1e-3), (step, mine, theirs)


# Data -------------------------------------------------------------------------------------


def removed(file: Path) -> None:
    file.unlink()


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def replaced(file: Path) -> None:
    from PIL import Image

    Image.new("RGB", (128, 128), "teal").save(file)


def edited(file: Path) -> None:
    file.write_text("something else")


def another_base(file: Path) -> None:
    from tests.tiny import write_tiny_sd1

    file.unlink()
    write_tiny_sd1(file, seed=5)


DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "picture removed": (removed, "01.png"),
    "picture replaced": (replaced, "01.png"),
    "picture unreadable": (cut_off, "01.png"),
    "caption edited": (edited, "00.txt"),
    "base replaced": (another_base, "tiny.safetensors"),
}


def put_back(kept: Path, file: Path) -> None:
    """The file as it was, its times included."""
    file.unlink(missing_ok=True)
    shutil.copy2(kept, file)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=[] if name == "picture removed" else pytest.mark.faults_long)
        for name in DATA
    ],
)
def test_what_a_run_has_read_changes_under_it(
    quick: Golden, tmp_path: Path, ledger: Ledger, fault: str
) -> None:
    """It ends as if nothing had happened. Killed, it says what is wrong, and goes on once that is mended."""
    change, name = DATA[fault]
    file = next(quick.root.rglob(name))
    kept = Path(shutil.copy2(file, tmp_path / name))

    def watch(event: Event, control: Any) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            change(file)

    def watch_and_die(event: Event, control: Any) -> None:
        watch(event, control)
        if isinstance(event, StepDone) and event.step == 3:
            points.die()

    whole, folder = quick.new_run(), quick.new_run()
    with ledger.fault(fault) as lost:
        try:
            end = quick.job(whole, watch=watch).run()
            assert end.code == 0, end.said()
            lost += quick.differences(whole, deaths=0)
            put_back(kept, file)
            assert quick.job(folder, watch=watch_and_die).run().killed
            refused_end = quick.job(folder, resume=True, base=None).run()
            assert refused_end.code not in (0, CRASHED), refused_end.said()
            word = "base model" if "base" in fault else file.stem
            if word not in refused_end.said():
                lost.append(f"the resume does not name {word}: {refused_end.said()}")
        finally:
            put_back(kept, file)
        quick.resumed(folder)
        lost += quick.differences(folder)


# Clocks and other processes ---------------------------------------------------------------


def set_clock(seconds: float) -> None:
    """Set this process's clock forward: what it asks for, and the times that its events have."""
    import engine.journal

    real, told = time.time, engine.journal.to_dict
    time.time = lambda: real() + seconds
    # Events have bound the clock of the moment at which their class was made.
    engine.journal.to_dict = lambda event: (body := told(event)) | {"time": body["time"] + seconds}


@pytest.mark.parametrize("days", [-1, pytest.param(1, marks=pytest.mark.faults_long)])
def test_the_clock_is_set(quick: Golden, ledger: Ledger, days: int) -> None:
    folder = quick.new_run()

    def watch(event: Event, control: Any) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            set_clock(days * 86400.0)

    with ledger.fault("clock set", f"{days} days") as lost:
        end = quick.job(folder, watch=watch).run()
        assert end.code == 0, end.said()
        lost += quick.differences(folder, deaths=0)
        state = run_info(folder).state
        lost += [] if state == "finished" else [f"the run is told to be {state}"]


def test_a_second_process_is_refused_and_the_first_goes_on(quick: Golden, ledger: Ledger) -> None:
    folder = quick.new_run()
    with ledger.fault("two processes on one folder") as lost:
        first = quick.job(folder).begin()
        deadline = time.monotonic() + 60
        while not steps_of_or_none(folder):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second = quick.job(folder, resume=True).run()
        assert second.code not in (0, CRASHED), second.said()
        assert "in use" in second.said(), second.said()
        end = first.wait()
        assert end.code == 0, end.said()
        lost += quick.differences(folder, deaths=0)


def steps_of_or_none(folder: Path) -> bool:
    """Whether a step was told."""
    events = RunFolder(folder).events
    return events.exists() and bool(steps_of(events))
