"""PEFT's way of writing a LoRA: no alpha among the tensors, and magnitudes of another shape."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.base import ALPHA
from engine.networks.dora_rules import SCALE
from engine.networks.lora import DOWN
from engine.networks.names import TEXT_ROOT
from engine.tools.forms import Written
from engine.tools.naming import key_of
from engine.tools.programs import Axis

Sizes = dict[str, tuple[int, float]]
"""Module to rank and alpha."""


def for_peft(name: str, written: Written, sizes: Sizes) -> dict[str, Tensor]:
    """A LoRA's tensors without alpha, which is noted for the metadata; magnitudes in PEFT's shape."""
    if SCALE in written.tensors:
        if magnitude_axis(tuple(written.tensors[SCALE].shape)) == "input":
            what = "PEFT's magnitudes belong to outputs, and these to inputs."
            remedy = "Add --to lora or --for diffusers, with --base."
            raise NetworkFileError(Problem(what, where=inert(name), remedy=remedy))
        written = with_vector(written)
    tensors = without_scale(written.tensors)
    for suffix in tensors:
        key_of("peft", name, suffix)
    rank = tensors[DOWN].shape[0]
    sizes[name] = rank, float(written.tensors.get(ALPHA, torch.tensor(float(rank))))
    return tensors


def magnitude_axis(shape: tuple[int, ...] | None) -> Axis:
    """The axis of a DoRA's magnitudes, by their shape."""
    if shape is None or len(shape) < 2:
        return ""
    return "output" if shape[1] == 1 and shape[0] != 1 else "input"


def with_vector(written: Written) -> Written:
    """Magnitudes in PEFT's shape: [out], of a convolution [1, out, 1, 1]."""
    scale = written.tensors[SCALE].flatten()
    if written.tensors[DOWN].dim() > 2:
        scale = scale.view(1, -1, 1, 1)
    return replace(written, tensors=written.tensors | {SCALE: scale})


def without_scale(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {suffix: tensor for suffix, tensor in tensors.items() if suffix != ALPHA}


def peft_metadata(sizes: Mapping[str, tuple[int, float]], *, dora: bool) -> str:
    """PEFT's settings of each component as diffusers stores them: ranks and alphas by path."""
    parts: dict[str, dict[str, tuple[int, float]]] = {}
    for name, size in sizes.items():
        part, _, path = name.partition(".")
        # transformers 5.6 dropped that level; PEFT compares ends of paths, so either model fits.
        parts.setdefault(part, {})[path.removeprefix(TEXT_ROOT)] = size
    found: dict[str, object] = {}
    for part, own in parts.items():
        rank = most_common(rank for rank, _ in own.values())
        alpha = most_common(alpha for _, alpha in own.values())
        settings = {
            "r": int(rank),
            "lora_alpha": alpha,
            "rank_pattern": {path: r for path, (r, _) in own.items() if r != rank},
            "alpha_pattern": {path: a for path, (_, a) in own.items() if a != alpha},
            "target_modules": sorted(own),
            "use_dora": dora,
        }
        found |= {f"{part}.{key}": value for key, value in settings.items()}
    return json.dumps(found, sort_keys=True)


def most_common(values: Iterable[float]) -> float:
    return Counter(values).most_common(1)[0][0]
