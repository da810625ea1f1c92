"""The loss of one batch: noise it, predict, compare, weigh. One value for each sample.

Shape letters: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.models.family import Hole
from engine.objective import loss as losses
from engine.objective import noise as noises
from engine.objective import weights
from engine.objective.samples import Samples
from engine.objective.timesteps import sample_timesteps

if TYPE_CHECKING:
    from engine.assemble import Training
    from engine.data.loader import Batch
    from engine.models.family import Conditioning
    from engine.settings.objective import Objective


PLAIN_LOSSES = {"l2": losses.l2_loss, "l1": losses.l1_loss}
HUBER_LOSSES = {"huber": losses.huber_loss, "smooth_l1": losses.smooth_l1_loss}
"""Losses with a border between small and large errors, which moves with the noise."""


@dataclass(frozen=True, slots=True)
class Noised:
    """A batch with its noise, on the training device."""

    noisy_BCHW: Tensor
    """What the network sees: noised with the input perturbation, where there is one."""
    target_BCHW: Tensor
    timesteps_B: Tensor
    alphas_B: Tensor
    """Alpha bar of each sample's timestep."""


@dataclass(frozen=True, slots=True)
class SampleLosses:
    """The loss of each sample of a batch in fp32, on the training device."""

    weighted_B: Tensor
    """What is trained with."""
    plain_B: Tensor
    """Without the weights of timesteps and of regularisation."""
    timesteps_B: Tensor


def batch_loss(training: Training, batch: Batch, step: int, first: int) -> SampleLosses:
    """Loss of each sample of a batch.

    `first` is the number of the batch's first sample in the step. Nothing here waits for a GPU.
    """
    samples = Samples(training.seed, step, range(first, first + len(batch.captions)))
    noised = _noised(training, batch, samples)
    # Before the captions are encoded: checkpointing repeats that pass with the same masks.
    training.network.at_timesteps(noised.timesteps_B)
    with training.autocast():
        conditioning = training.text.encode(batch.captions)
        prediction_BCHW = predict(
            training, batch, noised.noisy_BCHW, noised.timesteps_B, conditioning
        )
    loss_B = _sample_losses(training, batch, noised, prediction_BCHW)
    weight_B = timestep_weight(training.objective, training.model.prediction, noised.alphas_B)
    is_reg_B = to_device(batch.is_reg_B, training.device)
    prior_B = torch.where(is_reg_B, training.objective.prior_loss_weight, 1.0)
    weighted_B = loss_B * (weight_B * prior_B).to(loss_B.dtype)
    return SampleLosses(weighted_B, loss_B, noised.timesteps_B)


def _noised(training: Training, batch: Batch, samples: Samples) -> Noised:
    """Everything that is drawn for a batch: on the CPU by sample, then moved to the device."""
    objective, device = training.objective, training.device
    latents_BCHW = batch.latents_BCHW * training.model.latent_scale
    noise_BCHW = _noise(objective, latents_BCHW, samples)
    input_BCHW = noises.input_perturbation(
        noise_BCHW,
        objective.ip_noise_gamma,
        samples,
        random_strength=objective.ip_noise_random,
    )
    timesteps_B = sample_timesteps(
        objective.timestep_shape,
        samples,
        low=objective.min_timestep,
        high=objective.max_timestep,
        mean=objective.timestep_mean,
        spread=objective.timestep_spread,
    )
    same = input_BCHW is noise_BCHW
    latents_BCHW, noise_BCHW, timesteps_B = (
        to_device(drawn, device) for drawn in (latents_BCHW, noise_BCHW, timesteps_B)
    )
    input_BCHW = noise_BCHW if same else to_device(input_BCHW, device)
    alphas_B = training.alphas_cumprod[timesteps_B]
    return Noised(
        noisy_BCHW=noises.add_noise(latents_BCHW, input_BCHW, alphas_B),
        target_BCHW=losses.target(training.model.prediction, latents_BCHW, noise_BCHW, alphas_B),
        timesteps_B=timesteps_B,
        alphas_B=alphas_B,
    )


def _noise(objective: Objective, latents_BCHW: Tensor, samples: Samples) -> Tensor:
    """The noise that the network should find, offset and coarser layers included."""
    _, channels, height, width = latents_BCHW.shape
    noise_BCHW = noises.sample_noise((channels, height, width), samples)
    noise_BCHW = noises.offset_noise(
        noise_BCHW,
        objective.noise_offset,
        samples,
        latents_BCHW=latents_BCHW,
        random_strength=objective.noise_offset_random,
        adaptive_scale=objective.adaptive_noise_scale,
    )
    return noises.multires_noise(
        noise_BCHW, objective.multires_iterations, objective.multires_discount, samples
    )


def predict(
    training: Training,
    batch: Batch,
    noisy_BCHW: Tensor,
    timesteps_B: Tensor,
    conditioning: Conditioning,
) -> Tensor:
    """What the network predicts for a batch, told the sizes of its pictures and its holes; fp32."""
    sized = conditioning.sized(to_device(size_rows(batch), training.device))
    return training.model.predict(noisy_BCHW, timesteps_B, sized, _hole(training, batch))


def size_rows(batch: Batch) -> Tensor:
    """Height and width of the original, top and left of the crop, height and width; shape (B, 6)."""
    target_width, target_height = batch.target_size
    rows = [
        (height, width, top, left, target_height, target_width)
        for (width, height), (left, top) in zip(batch.original_sizes, batch.crops, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float32)


def _hole(training: Training, batch: Batch) -> Hole | None:
    if batch.hole_mask_B1HW is None or batch.hole_latents_BCHW is None:
        return None
    return Hole(
        to_device(batch.hole_mask_B1HW, training.device),
        to_device(batch.hole_latents_BCHW * training.model.latent_scale, training.device),
    )


def _sample_losses(
    training: Training, batch: Batch, noised: Noised, prediction_BCHW: Tensor
) -> Tensor:
    loss_BCHW = _elementwise_loss(training.objective, noised, prediction_BCHW)
    return losses.masked_mean(loss_BCHW, mask_of(training, batch), training.mask_mean)


def _elementwise_loss(objective: Objective, noised: Noised, prediction_BCHW: Tensor) -> Tensor:
    """The chosen loss of each element, in fp32."""
    plain = PLAIN_LOSSES.get(objective.loss)
    if plain is not None:
        return plain(prediction_BCHW, noised.target_BCHW)
    c_B = losses.huber_c(
        objective.huber_schedule,
        objective.huber_c,
        objective.huber_scale,
        noised.timesteps_B,
        noised.alphas_B,
    )
    return HUBER_LOSSES[objective.loss](prediction_BCHW, noised.target_BCHW, c_B)


def mask_of(training: Training, batch: Batch) -> Tensor | None:
    """The batch's loss mask on the training device, or None."""
    mask_B1HW = batch.loss_mask_B1HW
    return None if mask_B1HW is None else to_device(mask_B1HW, training.device)


def timestep_weight(objective: Objective, prediction: str, alphas_B: Tensor) -> Tensor:
    """Product of all weights that are set, shape (B,); those of the other prediction do nothing."""
    weight_B = weights.min_snr_weight(alphas_B, objective.min_snr_gamma, prediction)
    if objective.debiased:
        weight_B = weight_B * weights.debiased_weight(alphas_B, prediction)
    if objective.scale_v_loss and prediction == "v":
        weight_B = weight_B * weights.v_loss_like_noise_weight(alphas_B)
    if objective.v_like_loss > 0 and prediction == "epsilon":
        weight_B = weight_B * weights.v_like_loss_weight(alphas_B, objective.v_like_loss)
    if objective.p2_gamma > 0:
        weight_B = weight_B * weights.p2_weight(alphas_B, objective.p2_gamma)
    return weight_B


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """A value of the host on the training device, without waiting for what the GPU still computes."""
    if device.type != "cuda":
        return value.to(device)
    # From pageable memory the copy would first wait until the stream is idle.
    return value.pin_memory().to(device, non_blocking=True)
