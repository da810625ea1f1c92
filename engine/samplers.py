"""The samplers by name: schedulers of diffusers, all with the noise schedule of the bases.

Timesteps are spaced from the last one backwards ("trailing", Lin et al. 2023, arXiv:2305.08891), so that
every picture begins where the base was trained on most noise; Karras' own spacing begins there too.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from engine.sampler_names import SamplerName

BETA_START, BETA_END, TIMESTEPS = 0.00085, 0.012, 1000
SMALLEST_ALPHA = 2.0**-24
"""What stands for a cumulative alpha of 0 where it is divided by; the choice of diffusers."""
Prediction = Literal["epsilon", "v"]


@dataclass(frozen=True, slots=True)
class Sampler:
    """One sampler: the scheduler of diffusers that does it, and what is said of it."""

    label: str
    """As other programs call it."""
    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    spaced: bool = True
    """Whether the scheduler lets its timesteps be spaced; Karras' sigmas decide otherwise."""
    rescales: bool = True
    """Whether it knows zero terminal SNR by itself."""
    draws: bool = False
    """Whether it adds noise on the way."""

    @property
    def words(self) -> str:
        """Label and spacing, for the picture's text."""
        return f"{self.label} trailing" if self.spaced else self.label


KARRAS = {"use_karras_sigmas": True}
SAMPLERS: dict[SamplerName, Sampler] = {
    # Song et al. 2021, arXiv:2010.02502
    "ddim": Sampler(
        "DDIM",
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    ),
    # Karras et al. 2022, arXiv:2206.00364; the ancestral form of k-diffusion
    "euler": Sampler("Euler", "EulerDiscreteScheduler"),
    "euler_a": Sampler("Euler a", "EulerAncestralDiscreteScheduler", draws=True),
    "heun": Sampler("Heun", "HeunDiscreteScheduler", rescales=False),
    # Lu et al. 2022, arXiv:2211.01095
    "dpmpp_2m": Sampler("DPM++ 2M", "DPMSolverMultistepScheduler"),
    "dpmpp_2m_karras": Sampler(
        "DPM++ 2M Karras", "DPMSolverMultistepScheduler", KARRAS, spaced=False
    ),
    "dpmpp_sde_karras": Sampler(
        "DPM++ SDE Karras",
        # The other form of it in diffusers needs a package for Brownian trees.
        "DPMSolverSinglestepScheduler",
        {**KARRAS, "algorithm_type": "sde-dpmsolver++", "lower_order_final": True},
        spaced=False,
        rescales=False,
        draws=True,
    ),
    # Zhao et al. 2023, arXiv:2302.04867
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler"),
    "lms": Sampler("LMS", "LMSDiscreteScheduler", rescales=False),
    # Liu et al. 2022, arXiv:2202.09778
    "pndm": Sampler(
        "PNDM",
        "PNDMScheduler",
        {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
        rescales=False,
    ),
    # Ho et al. 2020, arXiv:2006.11239
    "ddpm": Sampler("DDPM", "DDPMScheduler", {"clip_sample": False}, draws=True),
}
assert set(SAMPLERS) == set(get_args(SamplerName))


def build_sampler(
    name: SamplerName, *, prediction: Prediction, zero_terminal_snr: bool = False
) -> Any:
    """A fresh scheduler of diffusers; its timesteps are not set yet."""
    import diffusers

    sampler = SAMPLERS[name]
    config = {
        "num_train_timesteps": TIMESTEPS,
        "beta_start": BETA_START,
        "beta_end": BETA_END,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction" if prediction == "v" else "epsilon",
        **sampler.options,
    }
    if sampler.spaced:
        config["timestep_spacing"] = "trailing"
    if zero_terminal_snr:
        # Predicted noise is divided by alpha: there a true 0 would leave no picture at all.
        if sampler.rescales and prediction == "v":
            config["rescale_betas_zero_snr"] = True
        else:
            config["trained_betas"] = rescaled_betas().tolist()
    with _quietly():
        return getattr(diffusers, sampler.scheduler)(**config)


def rescaled_betas() -> Tensor:
    """Lin et al. 2023, algorithm 1, as betas in fp64, shape (1000,); the last alpha just above 0."""
    betas_S = torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    roots_S = torch.cumprod(1 - betas_S, dim=0).sqrt()
    first, last = roots_S[0].clone(), roots_S[-1].clone()
    alphas_S = ((roots_S - last) * first / (first - last)) ** 2
    alphas_S = alphas_S.clamp_min(SMALLEST_ALPHA)
    before_S = torch.cat([alphas_S.new_ones(1), alphas_S[:-1]])
    return 1 - alphas_S / before_S


def prepare(scheduler: Any, steps: int) -> Tensor:
    """Set the timesteps and give them; the first step takes the first sigma, whatever repeats."""
    with _quietly():
        scheduler.set_timesteps(steps)
    _drop_overrun(scheduler, steps)
    if hasattr(scheduler, "set_begin_index"):
        # Karras' sigmas round to equal timesteps at the noisy end, and one of them would be skipped.
        scheduler.set_begin_index(0)
    timesteps: Tensor = scheduler.timesteps
    return timesteps


def _drop_overrun(scheduler: Any, steps: int) -> None:
    """Take back a timestep of -1, which rounding puts behind the last one for 61 steps, say."""
    past = int((scheduler.timesteps < 0).sum())
    if not past:
        return
    scheduler.timesteps = scheduler.timesteps[:-past]
    scheduler.num_inference_steps = steps
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[: -1 - past], scheduler.sigmas[-1:]])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The schedulers turn tensors into arrays in a way that new versions of numpy deplore."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield
