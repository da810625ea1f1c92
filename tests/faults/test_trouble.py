"""Numbers that go wrong, memory that runs short, data and clocks that change while a run goes on."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.events import Event, StepDone
from engine.runs import RunFolder, run_info
from engine.session import create_run
from tests import going_wrong
from tests.faults import points
from tests.faults.allocator import AllocatorLimit
from tests.faults.golden import Golden, lines_of, steps_of
from tests.faults.recipes import brief
from tests.faults.table import Ledger, length_of
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
}


def spiky(root: Path) -> Golden:
    """Timesteps that lie in one bin, so that their usual loss is known after four of eight steps."""
    objective = {"min_timestep": 700, "max_timestep": 1000}
    train = {"epochs": 4, "batch_size": 1, "accumulation": 2}
    small: dict[str, Any] = {"data": {"resolution": [64, 64]}, "sample": {"prompts": []}}
    recipe = brief(root, objective=objective, train=train, **small)
    return Golden(recipe, root, keep_base=True, prove=False)


@pytest.mark.fault("spike")
@pytest.mark.parametrize("step", [5, pytest.param(6, marks=pytest.mark.faults_long)])
def test_a_loss_that_spikes(
    tmp_path: Path, ledger: Ledger, step: int, pytestconfig: pytest.Config
) -> None:
    plant = once(going_wrong.spike, step, step + 1, step + 2)
    dies = length_of(pytestconfig) != "short"
    rolls_back(spiky(tmp_path), ledger, "spike", plant, dies=dies)


def rolls_back(
    golden: Golden, ledger: Ledger, fault: str, plant: Plant, *, dies: bool = True
) -> None:
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
        if not dies:
            return

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


@pytest.mark.parametrize("fault", NUMBERS)
def test_a_step_whose_numbers_go_wrong(quick: Golden, ledger: Ledger, fault: str) -> None:
    rolls_back(quick, ledger, fault, NUMBERS[fault](3), dies="gradients" in fault)


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


@pytest.mark.fault(*MEMORY)
def test_memory_that_is_short_in_several_places_of_a_run(quick: Golden, ledger: Ledger) -> None:
    folder = quick.new_run()

    def plant() -> None:
        for where, times in MEMORY.values():
            refused(where, times=times)()

    with contextlib.ExitStack() as stack:
        losses = [stack.enter_context(ledger.fault(fault, "all in one run")) for fault in MEMORY]
        end = quick.job(folder, plant, cache=quick.root / f"short-{folder.name}").run()
        found = [end.said()] if end.code else quick.differences(folder, deaths=0)
        for lost in losses:
            lost += found


@pytest.mark.faults_long
@pytest.mark.parametrize("fault", MEMORY)
def test_memory_that_is_short_for_a_moment(quick: Golden, ledger: Ledger, fault: str) -> None:
    folder = quick.new_run()
    where, times = MEMORY[fault]
    with ledger.fault(fault) as lost:
        cache = quick.root / f"short-{folder.name}"
        end = quick.job(folder, refused(where, times=times), cache=cache).run()
        assert end.code == 0, end.said()
        lost += quick.differences(folder, deaths=0)


def limited_step(share: float | None, told: Path) -> Plant:
    """Gradients of a step get this share of what they need; without one it is measured and told."""

    def plant() -> None:
        import engine.step

        whole = engine.step.step_gradients
        limit = AllocatorLimit()

        def limited(*args: Any) -> Any:
            if share is not None:
                limit.limit_bytes = int(share * int(told.read_text()))
            with limit:
                found = whole(*args)
            if share is None:
                told.write_text(str(limit.peak))
            return found

        engine.step.step_gradients = limited

    return plant


@pytest.mark.fault("memory short in a step")
def test_memory_that_is_short_in_a_step(tmp_path: Path, ledger: Ledger) -> None:
    """An allocator with three quarters of what a step takes refuses it as a whole; it is done in parts."""
    settings = {
        "data": {"buckets": False},
        "train": {"epochs": 1, "batch_size": 4, "accumulation": 1},
    }
    golden = Golden(brief(tmp_path, **settings), tmp_path, True, prove=False)
    folder, told = golden.new_run(), tmp_path / "peak"
    with ledger.fault("memory short in a step") as lost:
        measured = golden.job(golden.new_run(), limited_step(None, told)).run()
        assert measured.code == 0, measured.said()
        end = golden.job(folder, limited_step(0.75, told)).run()
        assert end.code == 0, end.said()
        assert "Memory ran short in step 1" in end.said(), end.said()
        lost += golden.differences(folder, deaths=0, same=False)
        whole, split = steps_of(RunFolder(golden.folder).events), steps_of(RunFolder(folder).events)
        rows = [line["rows"] for line in events_of(folder, "step")]
        lost += [] if any(rows) else [f"no step was done in parts: {rows}"]
        for step, each in whole.items():
            mine, theirs = float(split[step][-1][1]), float(each[-1][1])
            assert mine == pytest.approx(theirs, rel=1e-3), (step, mine, theirs)


@pytest.mark.fault("memory short in caching")
@pytest.mark.faults_long
def test_pictures_that_do_not_fit_together_are_encoded_alone_in_the_resume_too(
    tmp_path: Path, ledger: Ledger
) -> None:
    """The resume has memory for the group, and takes what the killed run had: one after the other."""
    alone = {"data": {"vae_batch": 1}, "sample": {"prompts": []}}
    golden = Golden(brief(tmp_path, **alone), tmp_path, True, prove=False)
    together = brief(tmp_path, data={"vae_batch": 4}, sample={"prompts": []})
    folder, cache = create_run(together), tmp_path / "another-cache"

    def no_group() -> None:
        import torch
        from diffusers import AutoencoderKL

        whole = AutoencoderKL.encode

        def encode(self: Any, pixels: Any, *args: Any, **named: Any) -> Any:
            if len(pixels) > 1:
                raise torch.OutOfMemoryError("out of memory by a test")
            return whole(self, pixels, *args, **named)

        AutoencoderKL.encode = encode

    def no_group_and_death() -> None:
        no_group()
        points.forward(2).plant()

    with ledger.fault("memory short in caching", "a group, and killed") as lost:
        killed = golden.job(folder, no_group_and_death, cache=cache).run()
        assert killed.killed, killed.said()
        assert "encoded alone" in killed.said(), killed.said()
        # Nothing of the cache is left: all of it is made again.
        shutil.rmtree(cache)
        golden.resumed(folder, cache=cache)
        lost += golden.differences(folder)


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


@pytest.mark.fault(*DATA)
def test_everything_that_a_run_has_read_changes_under_it(
    quick: Golden, tmp_path: Path, ledger: Ledger
) -> None:
    files = {"picture removed": "01.png", "picture replaced": "02.png",
             "picture unreadable": "03.png", "caption edited": "00.txt",
             "base replaced": "tiny.safetensors"}  # fmt: skip
    found = {fault: next(quick.root.rglob(name)) for fault, name in files.items()}
    kept = {file: Path(shutil.copy2(file, tmp_path / file.name)) for file in found.values()}

    def watch(event: Event, control: Any) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            for fault, file in found.items():
                DATA[fault][0](file)

    folder = quick.new_run()
    with contextlib.ExitStack() as stack:
        losses = [stack.enter_context(ledger.fault(fault, "all at once")) for fault in DATA]
        try:
            end = quick.job(folder, watch=watch).run()
            differ = [end.said()] if end.code else quick.differences(folder, deaths=0)
        finally:
            for file, copy in kept.items():
                put_back(copy, file)
        for lost in losses:
            lost += differ


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


@pytest.mark.fault("clock set")
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


@pytest.mark.fault("two processes on one folder")
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
