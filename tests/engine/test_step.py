"""A step whose numbers are none never reaches the weights; a scaler's back-offs are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from engine import step
from engine.assemble import Training
from engine.batch_loss import SampleLosses
from engine.checkpoint.state import Place
from engine.guard import UpdateCutShort
from engine.step import PendingStep, train_step
from tests.going_wrong import (
    Fault,
    assembled,
    in_losses,
    nan_in_gradient,
    nan_in_loss,
    no_memory_in_update,
)

QUICK: dict[str, dict[str, Any]] = {
    "network": {"algorithm": "lora", "rank": 2, "alpha": 2.0, "targets": "attn-only"},
    "optim": {"optimizer": "adamw", "lr": 1e-3, "te_lr": 0.0, "weight_decay": 0.0},
    "data": {"resolution": [64, 64]},
    "train": {"epochs": 1, "batch_size": 2, "ema_decay": 0.9},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Kept between tests: each goes on where the one before has left it."""
    training = assembled(tmp_path_factory.mktemp("step"), **QUICK)
    training.network.train()
    go(training, 1)
    return training


def go(training: Training, number: int) -> PendingStep:
    return train_step(training, training.order.epoch(1)[number - 1], Place(number, 1, number))


def flat(training: Training) -> torch.Tensor:
    return torch.cat([one.detach().flatten().clone() for one in training.parameters])


@pytest.mark.parametrize("fault", [nan_in_loss, nan_in_gradient])
def test_where_the_host_waits_there_is_no_step_at_all(
    trained: Training, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    fault(monkeypatch, Fault((2,)))
    before, moments = flat(trained), trained.optimizer.state_dict()
    kept = {name: dict(values) for name, values in moments["state"].items()}
    done = go(trained, 2)
    assert not torch.isfinite(done.grad_norm)
    assert torch.equal(flat(trained), before)
    for name, values in trained.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, kept[name][key]) for key, value in values.items())


@pytest.mark.parametrize("fault", [nan_in_loss, nan_in_gradient])
def test_where_it_does_not_nothing_infinite_reaches_weights_or_moments(
    trained: Training, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """As on a GPU: the loss or the norm itself tells it later."""
    monkeypatch.setattr(step, "waits_for_numbers", lambda _: False)
    fault(monkeypatch, Fault((2,)))
    done = go(trained, 2)
    assert not torch.isfinite(done.grad_norm)
    assert torch.isfinite(flat(trained)).all()
    for values in trained.optimizer.state_dict()["state"].values():
        assert all(torch.isfinite(value).all() for value in values.values())


def test_waiting_or_not_a_sound_step_is_the_same(
    trained: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for waits in (True, False):
        monkeypatch.setattr(step, "waits_for_numbers", lambda _, waits=waits: waits)
        trained.begin_anew()
        start = trained.network.training_state()
        go(trained, 3)
        found.append(flat(trained))
        trained.network.load_training_state(start)
    assert torch.equal(*found)


def test_it_hands_out_plain_losses_with_their_timesteps(trained: Training) -> None:
    done = go(replace(trained, objective=trained.objective.model_copy(
        update={"min_snr_gamma": 1.0, "min_timestep": 100, "max_timestep": 101})), 3)  # fmt: skip
    assert done.timesteps_N.tolist() == [100] * done.samples
    assert float(done.loss) < float(done.plain_N.mean()), "the weight is in the loss alone"


def test_back_offs_of_the_scaler_are_counted_and_a_bad_loss_is_none(
    trained: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    training = replace(trained, scaler=scaler, guard=type(trained.guard)())
    with monkeypatch.context() as patch:
        nan_in_gradient(patch, Fault((2, 3)))
        before = flat(training)
        first, second = go(training, 2), go(training, 3)
        assert torch.equal(flat(training), before)
    assert [(one.skipped, one.backoffs, one.scale) for one in (first, second)] == [
        (1, 1, 4.0),
        (2, 2, 2.0),
    ]
    third = go(training, 4)
    assert (third.skipped, third.scale, training.guard.backoffs) == (2, None, 0)
    assert not torch.equal(flat(training), before)
    nan_in_loss(monkeypatch, Fault((4,)))
    before = flat(training)
    wrong = go(training, 4)
    assert not torch.isfinite(wrong.loss)
    assert torch.equal(flat(training), before)
    # A GPU's host looks at it only after some more steps.
    assert torch.isfinite(go(training, 5).loss)
    assert training.guard.skipped_steps == 2, "that is none of the scaler's"


def test_memory_short_in_an_update_is_told_from_memory_short_before_it(
    trained: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_memory_in_update(monkeypatch, Fault((4,)))
    with pytest.raises(UpdateCutShort) as raised:
        go(trained, 4)
    assert raised.value.step == 4
    assert raised.value.__context__ is None, "nothing that the update had made is held"


def test_any_other_error_is_not_taken_for_it(
    trained: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int, found: SampleLosses) -> SampleLosses:
        raise RuntimeError(f"step {number}: something else")

    in_losses(monkeypatch, fails)
    with pytest.raises(RuntimeError, match="something else"):
        go(trained, 4)
