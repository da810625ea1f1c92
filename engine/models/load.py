"""Loads a base model: one door for every layout and family, without a network."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.errors import EnvironmentFault, ModelError, Problem
from engine.models.architecture import Architecture
from engine.models.attention import attention_problems
from engine.models.detect import ModelFacts, settle_choice
from engine.models.family import Attention, BaseModel
from engine.models.parts import Mismatch, build_text_encoder, build_unet, build_vae
from engine.models.quiet import import_quietly
from engine.models.sd1 import Sd1
from engine.models.sd2 import Sd2
from engine.models.sdxl import Sdxl
from engine.models.source import Source, open_source, open_vae
from engine.models.stable_diffusion import Parts, StableDiffusion
from engine.models.vae_facts import vae_problems

FAMILIES: dict[str, type[StableDiffusion]] = {"sd1": Sd1, "sd2": Sd2, "sdxl": Sdxl}
"""The class of each family; what its parts are called and built of is the same for all of them."""


def load_model(
    path: Path,
    *,
    family: str = "auto",
    prediction: str = "auto",
    vae: Path | None = None,
    attention: Attention = "sdpa",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> BaseModel:
    """Load a base model, frozen; ModelError with everything that stands against it.

    EnvironmentFault where `attention` asks for xformers and it is not installed.

    U-Net and text encoders come in `dtype`. The VAE is fp32 always: it runs once for each picture, is
    small, overflows in fp16, and cached latents then fit a run in any precision.
    """
    source = open_source(path)
    settled, why = settle_choice(source.facts, family=family, prediction=prediction)
    problems = attention_problems(attention)
    if problems:
        raise EnvironmentFault(*problems)
    import_quietly()
    parts = _parts(source, vae, dtype, device)
    assert source.facts.family is not None, "settle_choice refuses files of no family"
    model: BaseModel = FAMILIES[source.facts.family](
        parts,
        facts=replace(source.facts, prediction=settled, prediction_source=why),
        prediction=settled,
        prediction_source=why,
        dtype=dtype,
    )
    if attention != "sdpa":  # the modules' own
        model.set_attention(attention)
    model.to(device)
    return model


def _parts(
    source: Source, vae: Path | None, dtype: torch.dtype, device: torch.device | str
) -> Parts:
    """U-Net, VAE and text encoders; what is wrong with each of them is told at once.

    Each goes to its device before the next is read: the host never holds more than one of them.
    """
    builders = {
        "unet": partial(_unet, source, dtype),
        "text_encoder": partial(_text_encoder, source, dtype),
        "text_encoder_2": partial(_text_encoder_2, source, dtype),
        "vae": partial(_vae, source, vae),
    }
    if known(source.facts).text_encoder_2 is None:
        del builders["text_encoder_2"]
    problems: list[Problem] = []
    built: dict[str, Any] = {}
    for part, build in builders.items():
        try:
            built[part] = build().to(device)
        except (Mismatch, ModelError) as error:
            problems += error.problems
    if problems:
        raise ModelError(*problems)
    return Parts(**built)


def _unet(source: Source, dtype: torch.dtype) -> Any:
    architecture = known(source.facts)
    tensors = source.tensors("unet", dtype)
    where = str(source.facts.path)
    return build_unet(tensors, architecture.unet, architecture.family, dtype, where)


def _text_encoder(source: Source, dtype: torch.dtype) -> Any:
    tensors = source.tensors("text_encoder", dtype)
    config = known(source.facts).text_encoder
    return build_text_encoder(tensors, config, dtype, str(source.facts.path))


def _text_encoder_2(source: Source, dtype: torch.dtype) -> Any:
    tensors = source.tensors("text_encoder_2", dtype)
    config = known(source.facts).text_encoder_2
    assert config is not None, "asked for only where there is one"
    part, where = "second text encoder", str(source.facts.path)
    return build_text_encoder(tensors, config, dtype, where, part=part, projected=True)


def _vae(source: Source, override: Path | None) -> Any:
    facts, architecture = source.facts, known(source.facts)
    problems = vae_problems(override, facts)
    if problems:
        raise ModelError(*problems)
    if override is not None:
        given = open_vae(override, architecture.vae)
        return build_vae(
            given.tensors, given.config, architecture.family, torch.float32, given.where
        )
    tensors = source.tensors("vae", torch.float32)
    return build_vae(tensors, architecture.vae, architecture.family, torch.float32, str(facts.path))


def known(facts: ModelFacts) -> Architecture:
    """The architecture, which every file that passed `settle_choice` has."""
    assert facts.architecture is not None
    return facts.architecture
