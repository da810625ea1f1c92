"""Loads a base model: one door for every layout and family, without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.errors import ModelError, Problem
from engine.models.architecture import Architecture
from engine.models.detect import ModelFacts, settle_choice
from engine.models.family import BaseModel
from engine.models.parts import Mismatch, build_text_encoder, build_unet, build_vae
from engine.models.quiet import import_quietly
from engine.models.sd1 import Sd1
from engine.models.source import Source, open_source, open_vae

FAMILIES: dict[str, Any] = {"sd1": Sd1}
"""The class of each family; what its parts are called and built of is the same for all of them."""


def load_model(
    path: Path,
    *,
    family: str = "auto",
    prediction: str = "auto",
    vae: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> BaseModel:
    """Load a base model, frozen; ModelError with everything that stands against it.

    U-Net and text encoder come in `dtype`. The VAE is fp32 always: it runs once for each picture, is
    small, overflows in fp16, and cached latents then fit a run in any precision.
    """
    source = open_source(path)
    settled, why = settle_choice(source.facts, family=family, prediction=prediction)
    import_quietly()
    parts = _parts(source, vae, dtype)
    assert source.facts.family is not None, "settle_choice refuses files of no family"
    model: BaseModel = FAMILIES[source.facts.family](
        *parts,
        facts=replace(source.facts, prediction=settled, prediction_source=why),
        prediction=settled,
        prediction_source=why,
        dtype=dtype,
    )
    model.to(device)
    return model


def _parts(source: Source, vae: Path | None, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """U-Net, VAE and text encoder; what is wrong with each of them is told at once."""
    problems: list[Problem] = []
    built: list[Any] = []
    for build in (_unet, _text_encoder, _vae):
        try:
            built.append(build(source, dtype, vae))
        except (Mismatch, ModelError) as error:
            problems += error.problems
    if problems:
        raise ModelError(*problems)
    unet, text_encoder, own_vae = built
    return unet, own_vae, text_encoder


def _unet(source: Source, dtype: torch.dtype, _: Path | None) -> Any:
    architecture = known(source.facts)
    tensors = source.tensors("unet")
    where = str(source.facts.path)
    return build_unet(tensors, architecture.unet, architecture.family, dtype, where)


def _text_encoder(source: Source, dtype: torch.dtype, _: Path | None) -> Any:
    tensors = source.tensors("text_encoder")
    config = known(source.facts).text_encoder
    return build_text_encoder(tensors, config, dtype, str(source.facts.path))


def _vae(source: Source, _: torch.dtype, override: Path | None) -> Any:
    facts, architecture = source.facts, known(source.facts)
    if override is not None:
        given = open_vae(override, architecture.vae)
        return build_vae(
            given.tensors, given.config, architecture.family, torch.float32, given.where
        )
    if not facts.has_vae:
        what, remedy = "The file has no VAE.", "Give a VAE of the family as model.vae."
        raise ModelError(Problem(what, str(facts.path), remedy, "model.vae"))
    tensors = source.tensors("vae")
    return build_vae(tensors, architecture.vae, architecture.family, torch.float32, str(facts.path))


def known(facts: ModelFacts) -> Architecture:
    """The architecture, which every file that passed `settle_choice` has."""
    assert facts.architecture is not None
    return facts.architecture
