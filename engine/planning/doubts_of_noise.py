"""What is seldom meant in noise, timesteps and their weights, with the reason."""

from __future__ import annotations

import math

from engine.settings.objective import Objective
from engine.settings.walk import number_text

LATENT_FACTOR = 8
TINY_LATENT = 32
"""Cells of a latent's shorter side below which coarse noise soon is one cell."""
NARROW_TIMESTEPS = 300
LARGE_SHIFT = 0.2


def noise_doubts(
    objective: Objective, prediction: str, resolution: tuple[int, int] | None
) -> list[str]:
    """Every doubt; `prediction` is "epsilon", "v", or empty while it is not known."""
    return [
        *_noise_schedule(objective, prediction),
        *_weights(objective),
        *_noise(objective),
        *_coarse_noise(objective, resolution),
        *_timesteps(objective),
    ]


def _noise_schedule(objective: Objective, prediction: str) -> list[str]:
    if objective.zero_terminal_snr and prediction == "epsilon":
        return [
            "objective.zero_terminal_snr with a base that predicts noise: at the last step the"
            " picture is all noise and there is nothing left to predict. It is meant for"
            " v-prediction; switch it off, or set model.prediction to v if the base is one."
        ]
    return []


def _weights(objective: Objective) -> list[str]:
    gamma = objective.min_snr_gamma
    active = {
        f"objective.min_snr_gamma {number_text(gamma)}": gamma > 0,
        "objective.debiased": objective.debiased,
        f"objective.p2_gamma {number_text(objective.p2_gamma)}": objective.p2_gamma > 0,
    }
    named = [name for name, on in active.items() if on]
    if len(named) < 2:
        return []
    said = (
        f"{' and '.join(named)} weigh the same timesteps, and their weights multiply: one of them"
        " is enough."
    )
    if objective.p2_gamma == 0:
        said += " Guide 001 uses both, as an experiment."
    return [said]


def _noise(objective: Objective) -> list[str]:
    said = []
    if objective.noise_offset > 0 and objective.multires_iterations > 0:
        said.append(
            "objective.noise_offset and objective.multires_iterations both teach large areas of"
            " light and dark: together they shift brightness twice. Guide 000 uses the second,"
            " other presets the first."
        )
    if objective.noise_offset > LARGE_SHIFT:
        said.append(
            f"objective.noise_offset {number_text(objective.noise_offset)} is large: 0.03 to 0.1"
            " is usual, and more damages colours."
        )
    scale = objective.adaptive_noise_scale
    if scale != 0 and objective.noise_offset == 0:
        what = "has no effect" if scale < 0 else "is all the offset there is"
        said.append(
            f"objective.adaptive_noise_scale {number_text(scale)} {what}: it is meant beside an"
            " objective.noise_offset, of which it is about a tenth."
        )
    return said


def _coarse_noise(objective: Objective, resolution: tuple[int, int] | None) -> list[str]:
    iterations = objective.multires_iterations
    if iterations == 0 or resolution is None:
        return []
    side = min(resolution) // LATENT_FACTOR
    # Each layer is at least half as large as the one before.
    layers = math.ceil(math.log2(max(2, side)))
    if side >= TINY_LATENT or iterations <= layers:
        return []
    return [
        f"objective.multires_iterations {iterations}: a latent of {side} cells a side is one cell"
        f" after {layers} layers at most, so the rest adds nothing."
    ]


def _timesteps(objective: Objective) -> list[str]:
    first, last = objective.min_timestep, objective.max_timestep
    if last - first >= NARROW_TIMESTEPS:
        return []
    return [
        f"Only the timesteps from {first} to {last} of 1000 are trained: at all others the network"
        " stays as it was."
    ]
