"""Noise and loss."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from engine.settings.ask import Ask, Section

TimestepShape = Literal["uniform", "logit_normal", "cosine", "beta"]
LossName = Literal["l2", "l1", "huber", "smooth_l1"]
HuberSchedule = Literal["snr", "exponential", "constant"]


class Objective(Section):
    """What is asked of the network in each step."""

    loss: Annotated[LossName, Ask("Loss", "advanced")] = "l2"
    """How an error is judged: squared, or more gently for large errors."""
    min_snr_gamma: Annotated[float, Ge(0), Le(20), Ask("Min-SNR gamma", "advanced")] = 5.0
    """Tames steps with little noise, so that details do not drown the rest; 0 is off."""
    debiased: Annotated[bool, Ask("Debiased estimation", "advanced")] = False
    """Weighs a step by how much its picture depends on the prediction: more where noise is high."""
    noise_offset: Annotated[float, Ge(0), Le(1), Ask("Noise offset", "advanced")] = 0.0
    """Shifts the noise of whole channels, for darker and brighter pictures."""
    noise_offset_random: Annotated[bool, Ask("Random noise offset", "expert")] = False
    """Draw the offset's strength for each picture between 0 and its value."""
    adaptive_noise_scale: Annotated[float, Ge(-1), Le(1), Ask("Adaptive noise scale", "expert")] = (
        0.0
    )
    """Adds this multiple of each channel's mean brightness to the noise offset."""
    multires_iterations: Annotated[int, Ge(0), Le(20), Ask("Multires noise", "advanced")] = 0
    """How many coarser layers of noise are added, for composition and contrast; 0 is off."""
    multires_discount: Annotated[float, Ge(0), Le(1), Ask("Multires discount", "advanced")] = 0.3
    """Strength of each coarser layer against the one before it."""
    ip_noise_gamma: Annotated[float, Ge(0), Le(1), Ask("Input perturbation", "expert")] = 0.0
    """Extra noise on the input that the target does not know of; 0.05 to 0.1 is usual, 0 is off."""
    ip_noise_random: Annotated[bool, Ask("Random input perturbation", "expert")] = False
    """Draw its strength for each picture between 0 and its value."""
    zero_terminal_snr: Annotated[bool, Ask("Zero terminal SNR", "advanced")] = False
    """Let the last timestep be pure noise, as bases for v-prediction with it were trained."""
    scale_v_loss: Annotated[bool, Ask("Scale v loss like noise", "expert")] = False
    """Weigh the velocity's loss as if noise were predicted; only with v-prediction."""
    v_like_loss: Annotated[float, Ge(0), Le(10), Ask("V-like loss", "expert")] = 0.0
    """Adds this share of the velocity's loss; only where noise is predicted."""
    p2_gamma: Annotated[float, Ge(0), Le(4), Ask("P2 gamma", "expert")] = 0.0
    """P2 weighting: 0.5 to 1 favours what is coarse over fine detail; 0 is off."""
    huber_schedule: Annotated[HuberSchedule, Ask("Huber schedule", "expert")] = "snr"
    """How the border between small and large errors moves with the noise."""
    huber_c: Annotated[float, Gt(0), Le(10), Ask("Huber c", "expert")] = 0.1
    """Where errors stop to count as squares, at the end of the schedule."""
    huber_scale: Annotated[float, Gt(0), Le(100), Ask("Huber scale", "expert")] = 1.0
    """Multiplies that border at every timestep."""
    prior_loss_weight: Annotated[float, Ge(0), Le(10), Ask("Prior loss weight", "advanced")] = 1.0
    """Weight of regularisation pictures; higher is stronger, 0 means they teach nothing."""
    min_timestep: Annotated[int, Ge(0), Le(1000), Ask("First timestep", "expert")] = 0
    """Least noise that is trained on."""
    max_timestep: Annotated[int, Ge(1), Le(1000), Ask("Last timestep", "expert")] = 1000
    """Most noise that is trained on."""
    timestep_shape: Annotated[TimestepShape, Ask("Timestep shape", "expert")] = "uniform"
    """Which timesteps are drawn more often."""
    timestep_mean: Annotated[float, Ge(-5), Le(5), Ask("Timestep mean", "expert")] = 0.0
    """Centre of logit_normal: 0 is the middle, above 0 draws more noise."""
    timestep_spread: Annotated[float, Gt(0), Le(10), Ask("Timestep spread", "expert")] = 1.0
    """Width of logit_normal; of beta both parameters: 1 is uniform, above it the middle."""
