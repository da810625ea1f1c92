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
from engine.step import train_step
from engine.step_report import StepReport
from tests.small_run import small_recipe
from tests.tiny_families import write_tiny_sdxl

STEPS = 4
LIMIT = 1e-6
"""Maximum norm that a few steps reach."""
IDENTITY = Identity("recipe", "data", "base", 1)
TE_STOP: dict[str, Any] = {
    "optim": {"optimizer": "prodigy", "lr": 1.0, "te_lr": 1.0, "te_stop_percent": 50,
              "arguments": ["d0=1e-5"]},
    "network": {"algorithm": "lora", "rank": 2, "alpha": 2.0, "dropout": 0.1, "max_norm": LIMIT},
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
STATES = dict(zip(CASES, [(1, 3), (3,), (2,)], strict=True))
"""Steps whose state is gone on from; the text encoder stops after step 2."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, pictures and caches of all tests here."""
    return tmp_path_factory.mktemp("optim")


def assembled(root: Path, case: dict[str, Any]) -> Training:
    sections = {
        **case,
        "train": {"epochs": 1, "batch_size": 2, "max_steps": STEPS, **case.get("train", {})},
    }
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


@torch.no_grad()
def largest_norm(training: Training) -> float:
    norms = [adapter.delta_norm() for adapter in training.network.adapters.values()]
    return max(float(norm) for norm in norms if norm is not None)


@pytest.mark.parametrize("case", CASES)
def test_a_resume_on_either_side_of_the_border_is_exact(
    root: Path, tmp_path: Path, case: str
) -> None:
    folder = RunFolder(tmp_path)
    golden = assembled(root, CASES[case])
    place = Place()
    for stop in (1, 2, 3):
        place = go(golden, place, stop)
        keep(golden, place, folder.states)
    go(golden, place, STEPS)
    expected, shown = tensors(golden), averages(golden)
    if "max-norm" in case:
        assert largest_norm(golden) == pytest.approx(LIMIT, rel=1e-4)
        with averaged_weights(golden):
            assert largest_norm(golden) == pytest.approx(LIMIT, rel=1e-4)
    if "bf16" in case:
        kinds = {t.dtype for name, t in expected.items() if not name.endswith("alpha")}
        assert kinds == {torch.bfloat16}
        grads = [parameter.grad for parameter in golden.parameters]
        assert {grad.dtype for grad in grads if grad is not None} == {torch.bfloat16}
    golden.network.eject()
    for step in STATES[case]:
        again = assembled(root, CASES[case])
        place, _ = restore(folder, again, IDENTITY, from_step=step)
        go(again, place, STEPS)
        assert same(tensors(again), expected)
        assert same(averages(again), shown)
        assert not same(shown, expected), "the average is another thing than the weights"
        again.network.eject()


def test_text_encoders_stop_and_the_rest_goes_on(root: Path) -> None:
    training = assembled(root, TE_STOP)
    assert training.te_stop_step == 2
    start = tensors(training)
    place = go(training, Place(), 2)
    border = tensors(training)
    for group in training.optimizer.param_groups:
        group["d"] = group["d_max"] = 1e-4  # as if it had been found
    assert not same(border, start, "lora_te")
    assert {group["part"] for group in training.optimizer.param_groups} == {"unet", "te"}
    before = {name: tensor.clone() for name, tensor in averages(training).items()}
    place = go(training, place, 3)
    after = tensors(training)
    assert same(after, border, "lora_te"), "not one bit of it moves"
    assert not same(after, border, "lora_unet")
    assert [group["part"] for group in training.optimizer.param_groups] == ["unet"]
    assert training.optimizer.param_groups[0]["d"] >= 1e-4, "what Prodigy found goes on"
    state = training.optimizer.state_dict()
    assert not any("lora_te" in name for name in state["state"])
    captions = ["vexilo emblem"]
    training.network.begin(step=4)
    assert not training.text.encode(captions).text_BTD.requires_grad, "out of the graph"
    training.network.train()
    once = training.text.encode(captions).text_BTD
    assert torch.equal(once, training.text.encode(captions).text_BTD), "its dropouts are off"
    last = train_step(training, training.order.epoch(1)[3], Place(4, 1, 4))
    assert set(last.lr) == {"unet"}
    assert not same(averages(training), before, "lora_unet")
    training.network.eject()


def test_each_of_two_text_encoders_has_its_own_rate_and_both_stop(root: Path) -> None:
    base = write_tiny_sdxl(root / "sdxl.safetensors")
    case = {
        "model": {"path": str(base)},
        "optim": {"lr": 1e-3, "te_lr": 5e-4, "te2_lr": 2e-4, "te_stop_percent": 50},
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


@pytest.mark.parametrize(
    ("schedule", "warms_up"),
    [
        ({"warmup_percent": 50}, True),
        ({"warmup_percent": 50, "warmup_steps": 0}, False),
        ({"warmup_percent": 0, "warmup_steps": 2}, True),
        # A tenth of four steps is none.
        ({"warmup_percent": 10}, False),
    ],
)
def test_prodigy_guards_a_warmup_that_there_is(
    root: Path, schedule: dict[str, Any], warms_up: bool
) -> None:
    optim = {"optimizer": "prodigy", "lr": 1.0, "te_lr": 1.0}
    training = assembled(root, {"optim": optim, "schedule": schedule})
    groups = training.optimizer.state_dict()["param_groups"]
    training.network.eject()
    assert {group["safeguard_warmup"] for group in groups} == {warms_up}
    assert {group["bias_correction"] for group in groups} == {warms_up}


def test_a_step_tells_how_many_layers_its_largest_norm_scaled_back(root: Path) -> None:
    found = []
    for limit in (LIMIT, 1e9, 0.0):
        network = {"algorithm": "lora", "rank": 2, "alpha": 2.0, "max_norm": limit}
        training = assembled(root, {"network": network})
        events: list[Any] = []
        report = StepReport(training, events.append)
        for step, plan in enumerate(training.order.epoch(1)[:2], start=1):
            report.add(train_step(training, plan, Place(step, 1, step)))
        report.flush()
        training.network.eject()
        found.append([event.scaled_layers for event in events])
    layers = len(training.network.adapters)
    assert found == [[layers, layers], [0, 0], [None, None]]
