"""Every setting of the objective changes the loss of a tiny genuine model, by what its formula says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.assemble import Training, assemble
from engine.batch_loss import batch_loss, size_rows
from engine.checkpoint.state import Place
from engine.data.loader import Batch
from engine.data.order import BatchPlan, StepPlan
from engine.models.family import Conditioning, Hole
from engine.objective.schedule import rescale_zero_terminal_snr
from engine.settings.objective import Objective
from engine.step import train_step
from tests.small_run import small_recipe
from tests.tiny import write_tiny_sd1

STEP = 3


def assembled(root: Path, **sections: dict[str, Any]) -> Training:
    return assemble(small_recipe(root, **sections), root / "cache", lambda *_: None)


@pytest.fixture(scope="module")
def epsilon(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return assembled(tmp_path_factory.mktemp("epsilon"))


@pytest.fixture(scope="module")
def velocity(tmp_path_factory: pytest.TempPathFactory) -> Training:
    root = tmp_path_factory.mktemp("v")
    write_tiny_sd1(root / "tiny.safetensors", prediction="v")
    return assembled(root, objective={"zero_terminal_snr": True}, data={"mask_mean": "picture"})


def step_plan(training: Training) -> StepPlan:
    return training.order.epoch(1)[0]


def first_batch(training: Training) -> Batch:
    plan = step_plan(training).batches[0]
    return training.loader.batch(plan, epoch=1, step=STEP, first_sample=0)


def losses(
    training: Training, batch: Batch | None = None, first: int = 0, **objective: object
) -> torch.Tensor:
    """Loss of each sample of the first batch; all that is not named is plain."""
    plain = {"min_snr_gamma": 0.0, **objective}
    training = replace(training, objective=Objective.model_validate(plain))
    batch = batch or first_batch(training)
    training.network.begin(step=STEP, batch=0, first_sample=first, samples=len(batch.captions))
    with torch.no_grad():
        return batch_loss(training, batch, STEP, first).weighted_B


AT_100: dict[str, Any] = {"min_timestep": 100, "max_timestep": 100}
"""SNR 8.45389."""


@pytest.mark.parametrize(
    ("setting", "others", "ratio"),
    [
        ({"min_snr_gamma": 5.0}, AT_100, 0.59145),
        ({"debiased": True}, AT_100, 0.34393),
        ({"p2_gamma": 1.0}, AT_100, 1 / 9.45389),
        ({"v_like_loss": 0.5}, AT_100, 1 + 0.5 * 9.45389 / 8.45389),
        ({"debiased": True}, {**AT_100, "min_snr_gamma": 5.0}, 0.34393),
    ],
)
def test_weights_multiply_the_loss(
    epsilon: Training, setting: dict[str, Any], others: dict[str, Any], ratio: float
) -> None:
    found = losses(epsilon, **others, **setting) / losses(epsilon, **others)
    assert found.tolist() == pytest.approx([ratio] * len(found), rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "others", "ratio"),
    [
        ({"min_snr_gamma": 5.0}, AT_100, 0.52888),
        ({"debiased": True}, AT_100, 0.10578),
        ({"scale_v_loss": True}, AT_100, 8.45389 / 9.45389),
    ],
)
def test_weights_of_velocity_multiply_the_loss(
    velocity: Training, setting: dict[str, Any], others: dict[str, Any], ratio: float
) -> None:
    plain = replace(velocity, alphas_cumprod=velocity.model.alphas_cumprod.float())
    found = losses(plain, **others, **setting) / losses(plain, **others)
    assert found.tolist() == pytest.approx([ratio] * len(found), rel=1e-3)


def test_weights_of_the_other_prediction_do_nothing(epsilon: Training, velocity: Training) -> None:
    assert torch.equal(losses(epsilon, scale_v_loss=True), losses(epsilon))
    assert torch.equal(losses(velocity, v_like_loss=1.0), losses(velocity))


@pytest.mark.parametrize(
    ("setting", "others"),
    [
        ({"loss": "l1"}, {}),
        ({"loss": "huber"}, {}),
        ({"loss": "smooth_l1"}, {"loss": "huber"}),
        ({"huber_schedule": "constant"}, {"loss": "huber"}),
        ({"huber_schedule": "exponential"}, {"loss": "huber"}),
        ({"huber_c": 0.3}, {"loss": "huber"}),
        ({"huber_scale": 3.0}, {"loss": "huber"}),
        ({"noise_offset": 0.5}, {}),
        ({"noise_offset_random": True}, {"noise_offset": 0.5}),
        ({"adaptive_noise_scale": 0.5}, {}),
        ({"multires_iterations": 6}, {}),
        ({"multires_discount": 0.9}, {"multires_iterations": 6}),
        ({"ip_noise_gamma": 0.5}, {}),
        ({"ip_noise_random": True}, {"ip_noise_gamma": 0.5}),
        ({"min_timestep": 900}, {}),
        ({"max_timestep": 100}, {}),
        ({"timestep_shape": "logit_normal"}, {}),
        ({"timestep_shape": "cosine"}, {}),
        ({"timestep_shape": "beta"}, {}),
        ({"timestep_mean": 2.0}, {"timestep_shape": "logit_normal"}),
        ({"timestep_spread": 0.2}, {"timestep_shape": "logit_normal"}),
        ({"timestep_spread": 3.0}, {"timestep_shape": "beta"}),
    ],
)
def test_settings_change_the_loss(
    epsilon: Training, setting: dict[str, Any], others: dict[str, Any]
) -> None:
    changed, before = losses(epsilon, **{**others, **setting}), losses(epsilon, **others)
    assert torch.isfinite(changed).all()
    assert (changed / before - 1).abs().max() > 1e-4


def test_prior_loss_weight_counts_for_regularisation_only(epsilon: Training) -> None:
    batch = first_batch(epsilon)
    before = losses(epsilon, batch)
    is_reg_B = torch.arange(len(before)) == 0
    found = losses(epsilon, replace(batch, is_reg_B=is_reg_B), prior_loss_weight=0.25) / before
    assert found.tolist() == pytest.approx([0.25, *[1.0] * (len(before) - 1)])


def test_zero_terminal_snr_is_the_schedule_of_the_loss(velocity: Training) -> None:
    assert velocity.alphas_cumprod[-1].item() == 0
    expected = rescale_zero_terminal_snr(velocity.model.alphas_cumprod).float()
    assert torch.equal(velocity.alphas_cumprod, expected)
    plain = replace(velocity, alphas_cumprod=velocity.model.alphas_cumprod.float())
    last: dict[str, Any] = {"min_timestep": 900, "max_timestep": 1000}
    assert not torch.allclose(losses(velocity, **last), losses(plain, **last), rtol=1e-3)


@pytest.mark.parametrize("name", ["min_snr_gamma", "debiased", "scale_v_loss", "p2_gamma"])
def test_the_last_timestep_of_zero_terminal_snr_is_finite(velocity: Training, name: str) -> None:
    found = losses(velocity, min_timestep=999, max_timestep=1000, **{name: 1})
    assert torch.isfinite(found).all()


def test_a_sample_has_its_loss_whatever_the_batch(epsilon: Training) -> None:
    every: dict[str, Any] = {
        "noise_offset": 0.1,
        "adaptive_noise_scale": 0.1,
        "multires_iterations": 6,
        "ip_noise_gamma": 0.1,
        "timestep_shape": "logit_normal",
        "loss": "huber",
        "debiased": True,
    }
    plan = next(
        batch for step in epsilon.order.epoch(1) for batch in step.batches if len(batch.items) > 1
    )
    together = epsilon.loader.batch(plan, epoch=1, step=STEP, first_sample=0)
    second = BatchPlan(plan.bucket, plan.items[1:2])
    alone = epsilon.loader.batch(second, epoch=1, step=STEP, first_sample=1)
    found = losses(epsilon, alone, first=1, **every)
    torch.testing.assert_close(found[0], losses(epsilon, together, **every)[1])


def test_what_is_outside_a_mask_does_not_count(epsilon: Training, velocity: Training) -> None:
    assert (epsilon.mask_mean, velocity.mask_mean) == ("mask", "picture")
    batch = first_batch(epsilon)
    count, _, height, width = batch.latents_BCHW.shape
    mask_B1HW = torch.zeros(count, 1, height, width)
    mask_B1HW[..., : width // 2] = 1.0
    masked = replace(batch, loss_mask_B1HW=mask_B1HW)
    over_mask = losses(epsilon, masked)
    over_picture = losses(replace(epsilon, mask_mean="picture"), masked)
    torch.testing.assert_close(over_picture, over_mask / 2)
    rest = losses(epsilon, replace(batch, loss_mask_B1HW=1 - mask_B1HW))
    torch.testing.assert_close((over_mask + rest) / 2, losses(epsilon, batch))


class Seeing:
    """Stands before a model and keeps what it is asked."""

    def __init__(self, training: Training) -> None:
        self.latent_scale = training.model.latent_scale
        self.prediction = training.model.prediction
        self.asked: list[tuple[Conditioning, Hole | None]] = []

    def predict(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        conditioning: Conditioning,
        hole: Hole | None = None,
    ) -> torch.Tensor:
        self.asked.append((conditioning, hole))
        return torch.zeros_like(noisy_BCHW)


def test_the_model_is_told_sizes_and_holes(epsilon: Training) -> None:
    batch = first_batch(epsilon)
    count, channels, height, width = batch.latents_BCHW.shape
    batch = replace(
        batch,
        original_sizes=((200, 100), *batch.original_sizes[1:]),
        crops=((7, 5), *batch.crops[1:]),
        hole_mask_B1HW=torch.ones(count, 1, height, width),
        hole_latents_BCHW=torch.ones(count, channels, height, width),
    )
    seeing = Seeing(epsilon)
    losses(replace(epsilon, model=seeing), batch)  # type: ignore[arg-type]
    conditioning, hole = seeing.asked[0]
    target_width, target_height = batch.target_size
    assert conditioning.sizes_B6 is not None and hole is not None
    assert conditioning.sizes_B6[0].tolist() == [100, 200, 5, 7, target_height, target_width]
    assert torch.equal(conditioning.sizes_B6, size_rows(batch))
    assert hole.mask_B1HW.mean().item() == 1
    assert hole.latents_BCHW.unique().tolist() == pytest.approx([epsilon.model.latent_scale])


EVERYTHING: dict[str, Any] = {
    "loss": "huber",
    "noise_offset": 0.05,
    "adaptive_noise_scale": 0.05,
    "multires_iterations": 6,
    "ip_noise_gamma": 0.1,
    "timestep_shape": "logit_normal",
    "debiased": True,
    "v_like_loss": 0.1,
    "p2_gamma": 0.5,
}


def stepped(training: Training, plan: StepPlan) -> tuple[float, float]:
    """Loss and gradient norm of one step; the weights end as they began."""
    before = [parameter.detach().clone() for parameter in training.parameters]
    done = train_step(training, plan, Place(STEP, 1, STEP))
    for parameter, start in zip(training.parameters, before, strict=True):
        parameter.data.copy_(start)
    return float(done.loss), float(done.grad_norm)


def test_a_step_is_the_mean_over_its_samples_however_they_are_batched(epsilon: Training) -> None:
    batch = next(
        batch for step in epsilon.order.epoch(1) for batch in step.batches if len(batch.items) == 2
    )
    alone = [BatchPlan(batch.bucket, (item,)) for item in batch.items]
    together = stepped(epsilon, StepPlan((batch,)))
    assert stepped(epsilon, StepPlan(tuple(alone))) == pytest.approx(together, rel=1e-4)


@pytest.mark.parametrize(
    ("base", "objective"),
    [
        ("epsilon", EVERYTHING),
        ("velocity", {}),
        ("velocity", {"scale_v_loss": True, "debiased": True, "min_timestep": 990}),
    ],
)
def test_it_trains(request: pytest.FixtureRequest, base: str, objective: dict[str, Any]) -> None:
    """The same draws again and again: the loss is finite and falls. Weights end as they began."""
    shared: Training = request.getfixturevalue(base)
    training = replace(shared, objective=Objective.model_validate(objective))
    before = [parameter.detach().clone() for parameter in training.parameters]
    plan = step_plan(training)
    found = [float(train_step(training, plan, Place(STEP, 1, STEP)).loss) for _ in range(6)]
    for parameter, start in zip(training.parameters, before, strict=True):
        parameter.data.copy_(start)
    assert all(0 < loss < float("inf") for loss in found)
    assert found[-1] < found[0]
