"""The layers that a plan says to learn nothing are those that get no gradient in the models themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.models.family import BaseModel
from engine.models.recognise import Family
from engine.models.shapes import layer_shapes
from engine.planning.unread import unread


@pytest.mark.parametrize(
    ("family", "clip_skip"), [("sd1", 1), ("sd1", 2), ("sd2", 2), ("sdxl", 1), ("sdxl", 2)]
)
def test_unread_layers_are_those_without_a_gradient(
    family_models: dict[Family, BaseModel], family: Family, clip_skip: int
) -> None:
    model = family_models[family]
    assert model.facts.architecture is not None
    layers = [
        layer for layer in layer_shapes(model.facts.architecture) if layer.component != "unet"
    ]
    parts = model.components()
    weights: list[Any] = [
        parts[layer.component].get_submodule(layer.path).weight for layer in layers
    ]
    try:
        for weight in weights:
            weight.requires_grad_()
        found = model.encode_text(["a vexilo emblem"], clip_skip)
        outputs = [found.text_BTD] + ([] if found.pooled_BD is None else [found.pooled_BD])
        # Random weights: the sum behind a norm would be constant.
        total = torch.stack([(each * torch.randn_like(each)).sum() for each in outputs]).sum()
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    silent = {
        (layer.component, layer.path)
        for layer, gradient in zip(layers, gradients, strict=True)
        if gradient is None or not gradient.any()
    }
    told = {
        (layer.component, layer.path)
        for layer in layers
        if unread(layer, model.facts.architecture, clip_skip)
    }
    assert told == silent
    assert bool(silent) == (family == "sdxl" or clip_skip > 1)
