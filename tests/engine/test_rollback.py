"""Numbers go wrong: the run goes back to its last good state, at half the rate, and saves nothing bad."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.assemble import Training
from engine.batch_loss import SampleLosses
from engine.checkpoint.state import list_states, read_newest
from engine.control import Control
from engine.errors import OutOfMemory, TrainingError
from engine.events import Ended, Event, RolledBack, StepDone, Waiting
from engine.guard import WentWrong
from engine.networks.files import read_network
from engine.room import NoRoom
from engine.runs import RunFolder
from engine.session import Session, create_run, stored_recipe
from engine.trainer import _taken
from tests.going_wrong import (
    NAN,
    Fault,
    Run,
    in_losses,
    nan_in_gradient,
    nan_in_loss,
    nan_in_weights,
    no_memory_in_update,
    prepared,
    same,
    spike,
)
from tests.small_run import draw_pictures, small_recipe

SMALL = {"algorithm": "lora", "rank": 2, "alpha": 2.0, "dropout": 0.1, "targets": "attn-only"}
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 2, "max_steps": 5}
QUICK: dict[str, dict[str, Any]] = {
    "network": SMALL,
    "train": SHORT,
    "optim": {"optimizer": "adamw", "lr": 1e-3, "te_lr": 0.0},
    "data": {"resolution": [64, 64]},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    # Its text encoder leaves after step 3, so that it has to come back.
    "prodigy, average, max-norm": {
        "optim": {"optimizer": "prodigy", "lr": 1.0, "te_lr": 1.0, "te_stop_percent": 60,
                  "arguments": ["d0=1e-5"]},
        "network": {**SMALL, "max_norm": 1e-3},
        "train": {**SHORT, "ema_decay": 0.9},
    },
    "schedule-free, text encoder leaves": {
        "optim": {"optimizer": "adamw-schedulefree", "lr": 1e-2, "te_lr": 1e-2,
                  "te_stop_percent": 60},
    },
    "8 bit": {"optim": {"optimizer": "adamw8bit", "lr": 1e-3, "te_lr": 5e-4}},
    "fp16 network, loss scaler": {
        "optim": {"optimizer": "adamw", "lr": 1e-3},
        "train": {**SHORT, "precision": "fp16", "network_precision": "fp16"},
    },
    "bf16 network, factored, average": {
        "optim": {"optimizer": "adafactor", "lr": 1e-3},
        "train": {**SHORT, "ema_decay": 0.9, "network_precision": "bf16"},
    },
}  # fmt: skip
SPIKING: dict[str, dict[str, Any]] = {
    **QUICK,
    # All timesteps in one bin, which has seen enough after four steps.
    "objective": {"min_timestep": 700},
    "train": {"epochs": 3, "batch_size": 2, "max_steps": 8, "spike_limit": 4.0},
}
WRONG: dict[str, Callable[[pytest.MonkeyPatch, Fault], None]] = {
    "loss": nan_in_loss,
    "gradient": nan_in_gradient,
    "weights": nan_in_weights,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, three pictures (six samples in three shapes) and caches of all runs here."""
    root = tmp_path_factory.mktemp("rollback")
    draw_pictures(root / "pictures" / "2_vexilo emblem", 3)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "small")


@pytest.fixture(scope="module")
def golden(root: Path) -> Run:
    """A run in which nothing goes wrong, with the states of steps 1 and 3."""
    return short(root, RunFolder(root / "golden"), states=(1, 3))


@pytest.fixture
def as_golden(golden: Run, folder: RunFolder) -> RunFolder:
    """A copy of its folder."""
    shutil.copytree(golden.outputs.folder.path, folder.path)
    return folder


def short(root: Path, folder: RunFolder, **more: Any) -> Run:
    """Five steps, the state of some saved."""
    return prepared(root, folder, **{**QUICK, **more}).go()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_ends_as_a_run_that_was_resumed_at_half_the_rate(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fault = Fault((5,))
    # Or the tensors of this network would be too small for 8 bits.
    monkeypatch.setattr("engine.optim.optimizers.SMALLEST_OF_8_BITS", 0)
    with monkeypatch.context() as patch:
        nan_in_loss(patch, fault)
        wrong = short(root, folder, states=(2,), **OPTIMIZERS[name])
    (event,) = wrong.of(RolledBack)
    assert fault.met == [5]
    assert (event.step, event.to_step, event.rate_factor) == (5, 2, 0.5)
    assert (event.count, event.most) == (1, 3)
    assert [one.step for one in wrong.of(StepDone)] == [1, 2, 3, 4, 3, 4, 5]
    # The state that it went back to was written again, with what the rollback taught.
    state, _ = read_newest(folder.states, step=2)
    assert wrong.training.scaler.is_enabled() == ("scaler" in name) == bool(state.scaler)
    assert (state.guard["rate_factor"], state.guard["rollbacks"]) == (0.5, 1)
    again = short(root, folder, resume=2, **OPTIMIZERS[name])
    assert not again.of(RolledBack)
    assert same(wrong.tensors(), again.tensors())
    assert wrong.training.guard.state() == again.training.guard.state()
    rates = [(one.step, one.lr) for one in wrong.of(StepDone)[-3:]]
    assert rates == [(one.step, one.lr) for one in again.of(StepDone)]


@pytest.mark.parametrize(
    ("kind", "number"),
    [("loss", 1), ("gradient", 3), ("weights", 1), ("weights", 5)],
)
def test_nothing_bad_is_saved_whenever_it_happens(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    """A state is due after every third and fifth step: the one that goes wrong and the one before."""
    WRONG[kind](monkeypatch, Fault((number,)))
    found = short(root, folder, states=(2, 3, 5))
    (event,) = found.of(RolledBack)
    back = {1: 0, 3: 2, 5: 3}[number]
    # Weights are seen to be broken where something is to be made of them, or at the next loss.
    late = kind == "weights" and number == 1
    assert (event.step, event.to_step) == (number + late, back)
    assert kind in event.reason or late
    assert [path.name[-2:] for path in list_states(folder.states)][-3:] == ["02", "03", "05"]
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors().values())


def test_it_gives_up_after_so_many_times_with_a_healthy_file(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in_loss(monkeypatch, Fault((4,), times=99))
    monkeypatch.setattr(
        Training, "picture_name", lambda self, item: f"{self.items[item].image.path.name}\x1b[2J"
    )
    run = prepared(root, folder, states=(3,), network=SMALL, train={**SHORT, "rollbacks": 2})
    with pytest.raises(TrainingError) as raised:
        run.go()
    rolled = [(one.count, one.most, one.rate_factor) for one in run.of(RolledBack)]
    assert rolled == [(1, 2, 0.5), (2, 2, 0.25)]
    (problem,) = raised.value.problems
    assert raised.value.exit_code == 1
    assert "step 4 is not a number" in problem.what
    assert "rolled back 2 times" in problem.what
    batches = run.training.order.epoch(2)[0].batches
    names = {run.training.items[item].image.path.name for one in batches for item in one.items}
    assert all(
        set(event.pictures) == {f"{name}?[2J" for name in names} for event in run.of(RolledBack)
    )
    assert problem.where == ", ".join(run.of(RolledBack)[0].pictures)
    assert f"{problem.where}: there each time" in problem.remedy
    assert "lyctui resume FILE" in problem.remedy
    assert "small-step00000003.safetensors" in problem.remedy
    file = run.outputs.files["small-step00000003"]
    state, _ = read_newest(folder.states, step=3)
    name = next(name for name in file if name.endswith("lora_up.weight"))
    assert torch.equal(file[name], state.network[name])
    assert same(run.training.network.training_state(), state.network)


def test_before_anything_was_learnt_there_is_no_file(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in_loss(monkeypatch, Fault((1,), times=99))
    run = prepared(root, folder, network=SMALL, train={**SHORT, "rollbacks": 0})
    with pytest.raises(TrainingError, match="Nothing had been learnt"):
        run.go()
    assert not run.outputs.files
    assert not run.of(RolledBack)


def test_states_of_a_branch_that_was_left_are_not_gone_back_to(
    root: Path, as_golden: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in_loss(monkeypatch, Fault((5,)))
    again = short(root, as_golden, resume=1)
    (event,) = again.of(RolledBack)
    assert event.to_step == 1, "step 3 was saved by the run that went another way"


def test_a_spike_is_rolled_back(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spike(monkeypatch, Fault((6, 7, 8)))
    found = prepared(root, folder, states=(3, 5), **SPIKING).go()
    (event,) = found.of(RolledBack)
    assert (event.step, event.to_step, event.rate_factor) == (8, 5, 0.5)
    assert "steps 6 to 8" in event.reason
    assert "4 times" in event.reason
    batches = [found.training.order.epoch(epoch) for epoch in (2, 3)]
    plans = [batches[0][2], *batches[1][:2]]
    items = {item for plan in plans for batch in plan.batches for item in batch.items}
    assert set(event.pictures) == {found.training.picture_name(item) for item in items}


def test_a_resumed_run_judges_losses_as_one_that_was_not_interrupted(
    root: Path, golden: Run, as_golden: RunFolder
) -> None:
    resumed = short(root, as_golden, resume=3)
    assert resumed.training.guard.state() == golden.training.guard.state()
    assert sum(golden.training.guard.spikes.counts) == 10, "every sample of five steps"


def test_an_update_that_finds_no_memory_is_done_again_from_the_last_state(
    root: Path, golden: Run, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_memory_in_update(patch, Fault((4,)))
        again = short(root, folder, states=(2,))
    (event,) = again.of(RolledBack)
    assert (event.step, event.to_step, event.count, event.rate_factor) == (4, 2, 0, 1.0)
    assert same(again.tensors(), golden.tensors())
    no_memory_in_update(monkeypatch, Fault((4,), times=2))
    twice = prepared(root, folder, resume=2, **QUICK)
    with pytest.raises(OutOfMemory, match="state of step 2 is whole"):
        twice.go()


def test_the_one_picture_that_it_began_with_is_named_alone(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(number: int, found: SampleLosses) -> SampleLosses:
        broken = torch.ones(6)
        broken[1] = NAN if number == 4 else 1.0
        return replace(found, weighted_B=found.weighted_B * broken, plain_B=found.plain_B * broken)

    in_losses(monkeypatch, change)
    # Each step is an epoch: all samples at once.
    whole: dict[str, dict[str, Any]] = {
        "data": {"resolution": [64, 64], "buckets": False},
        "train": {"epochs": 5, "batch_size": 6},
    }
    run = prepared(root, folder, **{**QUICK, **whole})
    with pytest.raises(TrainingError) as raised:
        run.go()
    (batch,) = run.training.order.epoch(4)[0].batches
    name = run.training.picture_name(batch.items[1])
    assert len({run.training.picture_name(item) for item in batch.items}) == 3
    assert [event.pictures for event in run.of(RolledBack)] == [(name,)] * 3
    assert raised.value.problems[0].where == name


def test_a_state_from_within_a_spike_is_not_gone_back_to(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved when one step was high already; also where the run was resumed from it."""
    spike(monkeypatch, Fault((6, 7, 8)))
    first = prepared(root, folder, states=(5, 6), **SPIKING)
    with monkeypatch.context() as patch:
        patch.setattr(first.training, "total_steps", 6)
        first.go()
    state, _ = read_newest(folder.states, step=6)
    assert state.guard["spikes"]["running"] == 1
    found = prepared(root, folder, resume=6, **SPIKING).go()
    (event,) = found.of(RolledBack)
    assert (event.step, event.to_step) == (8, 5)
    assert [one.step for one in found.of(StepDone)] == [7, 8, 6, 7, 8]
    assert [path.name[-1] for path in list_states(folder.states)] == ["5"], "that of step 6 is left"


def test_a_damaged_newest_state_is_passed_over(
    root: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = folder.states / "step-00000003" / "network.safetensors"
    whole = Fault.due

    def due(self: Fault, number: int) -> bool:
        happens = whole(self, number)
        if happens:
            newest.write_bytes(b"broken")
        return happens

    monkeypatch.setattr(Fault, "due", due)
    nan_in_loss(monkeypatch, Fault((4,)))
    found = short(root, folder, states=(1, 3))
    (event,) = found.of(RolledBack)
    assert event.to_step == 1
    assert found.outputs.saved_states == {1, 3}, "the third step was saved anew"


def test_a_request_goes_on_waiting_where_the_steps_before_it_were_bad() -> None:
    def check() -> None:
        raise WentWrong((3,), "The loss of step 3 is not a number")

    control = Control()
    control.ask("stop")
    loop: Any = SimpleNamespace(control=control, report=SimpleNamespace(check=check))
    with pytest.raises(WentWrong):
        _taken(loop)
    assert control.asked("stop")


@pytest.mark.slow
def test_killed_and_resumed_it_still_knows_of_its_rollback(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: a session, its files and its events."""
    sections: dict[str, Any] = {
        **QUICK,
        "train": {**SHORT, "rollbacks": 1},
        "run": {"name": "small", "folder": str(tmp_path / "runs")},
    }
    recipe = small_recipe(root, **sections)
    nan_in_loss(monkeypatch, Fault((5,), times=2))
    folder = RunFolder(create_run(recipe))
    seen: list[Event] = []

    full = False

    def room(place: Path, needed: int) -> None:
        if full:
            raise NoRoom(place, needed, 0)

    monkeypatch.setattr("engine.saving.require_room", room)

    def watch(event: Event) -> None:
        nonlocal full
        seen.append(event)
        if isinstance(event, RolledBack):
            full = True
        if isinstance(event, Waiting) and event.reason:
            full = False
            stopping.control.ask("save")
        elif isinstance(event, Waiting):
            stopping.control.ask("stop")

    stopping = Session(recipe, folder.path, on_event=watch)
    stopping.start()
    assert stopping.wait(240)
    assert stopping.snapshot().state == "stopped", stopping.error
    kept, _ = read_newest(folder.states, step=3)
    assert kept.guard["rate_factor"] == 0.5, "written as soon as the disk took it"
    again = Session(stored_recipe(folder.path), folder.path, resume=True, on_event=seen.append)
    again.start()
    assert again.wait(240)
    assert isinstance(again.error, TrainingError), "it was rolled back once before"
    assert again.exit_code == 1
    assert again.snapshot().rate_factor == 0.5
    ended = seen[-1]
    assert isinstance(ended, Ended)
    healthy = folder.path / "small-step00000004.safetensors"
    assert str(healthy) in ended.files
    assert healthy.name in folder.manifest.read_text("utf-8")
    assert healthy.name in ended.message
    assert read_network(healthy).tensors, "its numbers are finite"
