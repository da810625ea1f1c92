"""Norm of each module's change of the weights, from a network file alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from engine.networks.content import Module


def change_norms(
    path: Path, modules: tuple[Module, ...]
) -> tuple[dict[str, float], tuple[Problem, ...]]:
    """Frobenius norm of each module's ΔW at strength 1, and what is wrong with the weights."""
    from engine.networks.files import read_network

    try:
        tensors = read_network(path).tensors
    except EngineError as error:
        return {}, error.problems
    norms = {}
    for module in modules:
        own = {
            key.partition(".")[2]: tensor.float()
            for key, tensor in tensors.items()
            if key.partition(".")[0] == module.name
        }
        norms[module.name] = abs(module.scale) * _norm(own)
    return norms, ()


def _norm(tensors: Mapping[str, Tensor]) -> float:
    if "lora_up.weight" in tensors:
        return _lora_norm(tensors)
    # The norm of a Kronecker product is the product of the norms of its factors.
    return _half_norm(tensors, "lokr_w1") * _half_norm(tensors, "lokr_w2")


def _lora_norm(tensors: Mapping[str, Tensor]) -> float:
    """Norm of up @ down through rank-sized products; ΔW itself is never built."""
    import torch

    up, down = tensors["lora_up.weight"].flatten(1), tensors["lora_down.weight"].flatten(1)
    middle = tensors.get("lora_mid.weight")
    if middle is None:
        return float(((up.T @ up) * (down @ down.T)).sum().clamp_min(0).sqrt())
    inner = torch.einsum("po,or...->pr...", up, middle).flatten(2)
    return float(torch.einsum("pok,or->prk", inner, down).norm())


def _half_norm(tensors: Mapping[str, Tensor], half: str) -> float:
    import torch

    if half in tensors:
        return float(tensors[half].norm())
    first, second = tensors[f"{half}_a"], tensors[f"{half}_b"]
    core = tensors.get("lokr_t2") if half == "lokr_w2" else None
    if core is None:
        return float((first @ second.flatten(1)).norm())
    return float(torch.einsum("ij...,ip,jr->pr...", core, first, second).norm())
