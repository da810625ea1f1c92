"""Real steps on a tiny base: text encoders that stop, averages, half precision, and exact resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.assemble import Training, assemble
from engine.checkpoint.resume import restore
from engine.checkpoint.state import Identity, Place, State, write_state
from engine.optim.averaged import averaged_weights
from engine.runs import RunFolder
from engine.trainer import train_step
from tests.small_run import small_recipe
from tests.tiny_families import write_tiny_sdxl

STEPS = 6
IDENTITY = Identity("recipe", "data", "base", 1)
TE_STOP: dict[str, Any] = {
    "optim": {"optimizer": "prodigy", "lr": 1.0, "te_lr": 1.0, "te_stop_percent": 50,
              "arguments": ["d0=1e-5"]},
    "network": {"algorithm": "lora", "rank": 2, "alpha": 2.0, "dropout": 0.1, "max_norm": 0.05},
    "train": {"ema_decay": 0.9},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "text encoder stops, average, max-norm": TE_STOP,
    "schedule-free, text encoder stops": {
        "optim": {"optimizer": "adamw-schedulefree", "lr": 1e-2, "te_lr": 1e-2,
                  "te_stop_percent": 50},
    },
    "bf16 network, factored, average": {
        "optim": {"optimizer": "adafactor", "lr": 1e-3},
        "train": {"ema_decay": 0.9, "network_precision": "bf16"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, pictures and caches of all tests here."""
    return tmp_path_factory.mktemp("optim")


def assembled(root: Path, case: dict[str, Any]) -> Training:
    sections = {**case, "train": {"epochs": 1, "batch_size": 2, **case.get("train", {})}}
    training = assemble(small_recipe(root, **sections), root / "cache", lambda *_: None)
    assert training.total_steps == STEPS
    training.network.train()
    return training


def go(training: Training, place: Place, until: int) -> Place:
    plans = training.order.epoch(1)
    for step in range(place.step + 1, until + 1):
        place = Place(step, 1, step)
        train_step(training, plans[step - 1], place)
    return place


def tensors(training: Training) -> dict[str, Tensor]:
    return training.network.training_state()


def averages(training: Training) -> dict[str, Tensor]:
    with averaged_weights(training):
        return training.network.training_state()


def same(a: dict[str, Tensor], b: dict[str, Tensor], part: str = "") -> bool:
    names = [name for name in a if part in name]
    assert names
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in names)


def keep(training: Training, place: Place, folder: Path) -> None:
    state = State(
        place=place,
        identity=IDENTITY,
        network=training.network.training_state(),
        optimizer=training.optimizer.state_dict(),
        scaler=training.scaler.state_dict(),
        session={"seconds": 0.0, "lineage": []},
        averaged=training.averages.state(),
    )
    write_state(folder, state, keep=9)


@pytest.mark.parametrize("case", CASES)
def test_a_resume_on_either_side_of_the_border_is_exact(
    root: Path, tmp_path: Path, case: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    golden = assembled(root, CASES[case])
    place = Place()
    for stop in (2, 4):
        place = go(golden, place, stop)
        keep(golden, place, folder.states)
    go(golden, place, STEPS)
    expected, shown = tensors(golden), averages(golden)
    golden.network.eject()
    both = "stops" in case
    for step in (2, 4) if both else (2,):
        again = assembled(root, CASES[case])
        place, _ = restore(folder, again, IDENTITY, from_step=step)
        go(again, place, STEPS)
        assert same(tensors(again), expected)
        assert same(averages(again), shown)
        assert not same(shown, expected), "the average is another thing than the weights"
        again.network.eject()


def test_text_encoders_stop_and_the_rest_goes_on(root: Path) -> None:
    training = assembled(root, TE_STOP)
    assert training.te_stop_step == 3
    start = tensors(training)
    place = go(training, Place(), 3)
    border, d = tensors(training), training.optimizer.param_groups[0]["d"]
    assert not same(border, start, "lora_te")
    assert {group["part"] for group in training.optimizer.param_groups} == {"unet", "te"}
    before = {name: tensor.clone() for name, tensor in averages(training).items()}
    place = go(training, place, 4)
    after = tensors(training)
    assert same(after, border, "lora_te"), "not one bit of it moves"
    assert not same(after, border, "lora_unet")
    assert [group["part"] for group in training.optimizer.param_groups] == ["unet"]
    assert training.optimizer.param_groups[0]["d"] >= d > 1e-5, "what Prodigy found goes on"
    state = training.optimizer.state_dict()
    assert not any("lora_te" in name for name in state["state"])
    captions = ["vexilo emblem"]
    training.network.begin(step=5)
    assert not training.text.encode(captions).text_BTD.requires_grad, "out of the graph"
    training.network.train()
    once = training.text.encode(captions).text_BTD
    assert torch.equal(once, training.text.encode(captions).text_BTD), "its dropouts are off"
    last = train_step(training, training.order.epoch(1)[4], Place(5, 1, 5))
    assert set(last.lr) == {"unet"}
    assert not same(averages(training), before, "lora_unet")
    training.network.eject()


def test_max_norm_holds_for_the_average_too(root: Path) -> None:
    limit = 0.001
    case = {**TE_STOP, "network": {**TE_STOP["network"], "max_norm": limit}}
    training = assembled(root, {**case, "optim": {"lr": 1e-2, "te_lr": 1e-2}})
    go(training, Place(), 2)
    for shown in (False, True):
        with averaged_weights(training) if shown else torch.no_grad():
            norms = [one.delta_norm() for one in training.network.adapters.values()]
        largest = max(float(norm.detach()) for norm in norms if norm is not None)
        assert 0 < largest <= limit * (1 + 1e-5)
    training.network.eject()


def test_a_bf16_network_is_kept_and_learns_in_bf16(root: Path) -> None:
    case = {"train": {"network_precision": "bf16"}, "optim": {"lr": 1e-3, "te_lr": 1e-3}}
    training = assembled(root, case)
    start = tensors(training)
    go(training, Place(), 2)
    after = tensors(training)
    weights = [name for name in after if not name.endswith("alpha")]
    assert {after[name].dtype for name in weights} == {torch.bfloat16}
    assert all(parameter.grad is not None for parameter in training.parameters)
    assert {p.grad.dtype for p in training.parameters if p.grad is not None} == {torch.bfloat16}
    assert not same(after, start)
    training.network.eject()


def test_each_of_two_text_encoders_has_its_own_rate_and_both_stop(root: Path) -> None:
    base = write_tiny_sdxl(root / "sdxl.safetensors")
    case = {
        "model": {"path": str(base)},
        "optim": {"lr": 1e-3, "te_lr": 5e-4, "te2_lr": 2e-4, "te_stop_percent": 17},
        "schedule": {"scheduler": "constant", "warmup_steps": 0},
    }
    training = assembled(root, case)
    assert training.te_stop_step == 2
    first = train_step(training, training.order.epoch(1)[0], Place(1, 1, 1))
    assert first.lr == {"unet": 1e-3, "te": 5e-4, "te2": 2e-4}
    start = tensors(training)
    place = go(training, Place(1, 1, 1), 2)
    border = tensors(training)
    assert not any(same(border, start, part) for part in ("lora_te1", "lora_te2", "lora_unet"))
    go(training, place, 3)
    after = tensors(training)
    assert same(after, border, "lora_te1")
    assert same(after, border, "lora_te2")
    assert not same(after, border, "lora_unet")
    training.network.eject()
