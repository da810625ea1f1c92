"""Every sampler makes pictures, those that other programs know make the same ones."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.models.load import load_model
from engine.picture_files import picture_info
from engine.sampler_names import SamplerName
from engine.samplers import SAMPLERS, build_sampler, prepare, rescaled_betas
from engine.sampling import sample_latents
from tests.engine.test_sampling import SHOT as LARGE
from tests.engine.test_sampling import of_the_pipeline
from tests.tiny import write_tiny_sd1

SHOT = replace(LARGE, width=64, height=64, steps=4)
SAME = {"euler_a", "ddpm"}
"""The same steps by two ways of writing them."""


@pytest.fixture(scope="module", params=["epsilon", "v"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return load_model(write_tiny_sd1(path, seed=2, prediction=request.param))


@pytest.fixture(scope="module")
def every_latent(any_model: Any) -> dict[str, torch.Tensor]:
    """Latents of one shot by sampler."""
    return {name: sample_latents(any_model, replace(SHOT, sampler=name)) for name in SAMPLERS}


def test_every_sampler_gives_finite_pictures_of_its_own(
    every_latent: dict[str, torch.Tensor],
) -> None:
    names = list(every_latent)
    for place, name in enumerate(names):
        assert bool(torch.isfinite(every_latent[name]).all()), name
        for other in names[:place]:
            if {name, other} == SAME:
                continue
            assert not torch.allclose(every_latent[name], every_latent[other], atol=1e-3), other


THEIRS: dict[SamplerName, tuple[str, dict[str, Any]]] = {
    "euler_a": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
}


def theirs(model: Any, kind: str, **options: Any) -> Any:
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(diffusers, kind)(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction" if model.prediction == "v" else "epsilon",
            steps_offset=1,
            **options,
        )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_latents_equal_those_of_the_stock_pipeline(
    any_model: Any, every_latent: dict[str, torch.Tensor], name: SamplerName
) -> None:
    kind, options = THEIRS[name]
    expected = of_the_pipeline(any_model, SHOT, "latent", theirs(any_model, kind, **options))
    torch.testing.assert_close(every_latent[name], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_zero_terminal_snr_is_that_of_the_stock_pipeline(any_model: Any) -> None:
    if any_model.prediction == "epsilon":
        # Divided by alpha, predicted noise makes no picture there; it stays finite, no more.
        latents = sample_latents(any_model, replace(SHOT, zero_terminal_snr=True))
        assert bool(torch.isfinite(latents).all())
        return
    options = {
        "clip_sample": False,
        "set_alpha_to_one": False,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    }
    scheduler = theirs(any_model, "DDIMScheduler", **options)
    expected = of_the_pipeline(any_model, SHOT, "latent", scheduler)
    shot = replace(SHOT, zero_terminal_snr=True)
    torch.testing.assert_close(sample_latents(any_model, shot), expected, rtol=0, atol=1e-5)
    assert "Noise Schedule: Zero Terminal SNR" in picture_info(shot)["parameters"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_spacing_ends_nowhere_and_begins_at_the_last_timestep(name: SamplerName) -> None:
    """61 steps are such that rounding adds a timestep of -1."""
    for rescaled in (False, True):
        scheduler = build_sampler(name, prediction="v", zero_terminal_snr=rescaled)
        for steps in (1, 4, 61):
            timesteps = prepare(scheduler, steps)
            assert float(timesteps[0]) == 999 and float(timesteps.min()) >= 0
            assert len(set(timesteps.tolist())) <= steps == scheduler.num_inference_steps
            if hasattr(scheduler, "sigmas"):
                assert float(scheduler.sigmas[-1]) == 0
        last = float(scheduler.alphas_cumprod[-1])
        assert last <= 2.0**-23 if rescaled else last > 0.004


def test_stochastic_samplers_draw_from_the_seed_alone(any_model: Any) -> None:
    drawing = [name for name, sampler in SAMPLERS.items() if sampler.draws]
    assert drawing == ["euler_a", "dpmpp_sde_karras", "ddpm"]
    for name in drawing:
        shot = replace(SHOT, sampler=name, steps=2)
        state = torch.random.get_rng_state()
        first = sample_latents(any_model, shot)
        torch.manual_seed(99)
        assert torch.equal(first, sample_latents(any_model, shot))
        torch.random.set_rng_state(state)


def test_rescaled_betas_keep_the_first_step_and_end_in_noise() -> None:
    alphas = torch.cumprod(1 - rescaled_betas(), dim=0)
    assert float(alphas[0]) == pytest.approx(1 - 0.00085, abs=1e-12)
    assert float(alphas[-1]) == pytest.approx(2.0**-24, rel=1e-6)
