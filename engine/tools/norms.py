"""Norm of each module's change of the weights, from a network file, with its base where that is needed."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import torch

from engine.errors import EngineError, Problem
from engine.tools.checkpoint import Checkpoint
from engine.tools.convert import layers_of
from engine.tools.forms import Module, change_of
from engine.tools.opened import OpenNetwork


def change_norms(
    path: Path, base: Path | None = None
) -> tuple[dict[str, float], tuple[Problem, ...]]:
    """Frobenius norm of each module's change at strength 1, and what is wrong with the weights.

    A module whose change depends on the base is left out without one. Of a DoRA the norm is that of the
    change below its magnitudes; of a trained norm that of weight and bias together.
    """
    try:
        with ExitStack() as stack:
            network = stack.enter_context(OpenNetwork(path))
            opened = None if base is None else stack.enter_context(Checkpoint(base))
            return _norms(network, opened), ()
    except EngineError as error:
        return {}, error.problems


@torch.no_grad()
def _norms(network: OpenNetwork, base: Checkpoint | None) -> dict[str, float]:
    layers = None if base is None else layers_of(network, base)
    norms: dict[str, float] = {}
    for opened in network.modules:
        tensors = network.tensors(opened)
        tensors.pop("dora_scale", None)
        place = None if layers is None else layers.table.get(opened.name)
        layer = None
        if base is not None and place is not None:
            layer = base.module(base.layers[place])
        # The kernel changes a shape, but no norm.
        module = Module(opened.name, opened.algorithm, tensors, layer, ())
        if layer is None and module.needs_base:
            continue
        norms[opened.name] = _norm(module)
    return norms


def _norm(module: Module) -> float:
    norm = module.adapter().delta_norm()
    if norm is not None:
        return float(norm)
    weight, bias = change_of(module)
    return math.hypot(float(weight.norm()), 0.0 if bias is None else float(bias.norm()))
