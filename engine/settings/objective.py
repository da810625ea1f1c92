"""Noise and loss."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from engine.settings.ask import Ask, Section


class Objective(Section):
    """What is asked of the network in each step."""

    min_snr_gamma: Annotated[float, Ge(0), Le(20), Ask("Min-SNR gamma", "advanced")] = 5.0
    """Tames steps with little noise, so that details do not drown the rest; 0 is off."""
    noise_offset: Annotated[float, Ge(0), Le(1), Ask("Noise offset", "advanced")] = 0.0
    """Shifts the noise of whole channels, for darker and brighter pictures."""
    noise_offset_random: Annotated[bool, Ask("Random noise offset", "expert")] = False
    """Draw the offset's strength for each picture between 0 and its value."""
    prior_loss_weight: Annotated[float, Ge(0), Le(10), Ask("Prior loss weight", "advanced")] = 1.0
    """Weight of regularisation pictures; higher is stronger, 0 means they teach nothing."""
    min_timestep: Annotated[int, Ge(0), Le(1000), Ask("First timestep", "expert")] = 0
    """Least noise that is trained on."""
    max_timestep: Annotated[int, Ge(1), Le(1000), Ask("Last timestep", "expert")] = 1000
    """Most noise that is trained on."""
