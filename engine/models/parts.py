"""Builds U-Net, VAE and text encoders from a checkpoint's tensors, after comparing every name and shape.

The libraries leave what is missing silently on the meta device, or fail without naming it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import Problem
from engine.models.architecture import CONFIGS_PATH, Config
from engine.models.original_layout import (
    UNET_PREFIX,
    VAE_PREFIX,
    open_clip_to_original,
    unet_to_original,
    vae_to_original,
)

MOST_NAMED = 6
State = Mapping[str, Tensor]
IGNORED_ENDS = (
    "position_ids",
    "logit_scale",
    "attn_mask",
    "text_projection.weight",
    "text_projection",
)
OPEN_CLIP_MARK = "positional_embedding"
RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
OLD_VAE_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names that diffusers used before 0.17; model folders of that time still have them."""


class Mismatch(Exception):
    """A part's tensors are not those of its structure; carries the problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.what for problem in problems))
        self.problems = problems


def build_unet(
    tensors: State, config: Config, family: str, dtype: torch.dtype, where: str
) -> nn.Module:
    """The U-Net from tensors in the original or in diffusers' layout."""
    from diffusers import UNet2DConditionModel

    return _build(
        UNet2DConditionModel, tensors, config, family, dtype, where, UNET_PREFIX, unet_to_original
    )


def build_vae(
    tensors: State, config: Config, family: str, dtype: torch.dtype, where: str
) -> nn.Module:
    """The VAE from tensors in the original or in diffusers' layout."""
    from diffusers import AutoencoderKL

    renamed = {}
    for name, tensor in tensors.items():
        for old, new in OLD_VAE_ATTENTION.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return _build(AutoencoderKL, renamed, config, family, dtype, where, VAE_PREFIX, vae_to_original)


def _build(
    cls: Any,
    tensors: State,
    config: Config,
    family: str,
    dtype: torch.dtype,
    where: str,
    prefix: str,
    to_original: Callable[[State], dict[str, Any]],
) -> nn.Module:
    from accelerate import init_empty_weights

    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    with init_empty_weights():
        expected = cls.from_config(settings).state_dict()
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if own:
        expected = to_original(expected)
    part = "U-Net" if prefix == UNET_PREFIX else "VAE"
    compare(part, expected, own or dict(tensors), where, squeeze=True)
    kept = {name: (own or tensors)[name] for name in expected}
    if part == "U-Net":  # the VAE's are made linear by the conversion
        kept = {name: tensor.reshape(expected[name].shape) for name, tensor in kept.items()}
    subfolder = "unet" if prefix == UNET_PREFIX else "vae"
    module: nn.Module = cls.from_single_file(
        kept,
        config=str(CONFIGS_PATH / family),
        subfolder=subfolder,
        dtype=dtype,
        local_files_only=True,
        **settings,
    )
    return frozen(module)


def build_text_encoder(
    tensors: State,
    config: Config,
    dtype: torch.dtype,
    where: str,
    *,
    part: str = "text encoder",
    projected: bool = False,
) -> nn.Module:
    """A CLIP text model from tensors with transformers' names or OpenCLIP's.

    `projected` is the kind with a projection of the pooled text behind it.
    """
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    cls = CLIPTextModelWithProjection if projected else CLIPTextModel
    with init_empty_weights():
        module: Any = cls(CLIPTextConfig(**config))
    expected = module.state_dict()
    if OPEN_CLIP_MARK in tensors:
        own = _open_clip_tensors(tensors, int(config["num_hidden_layers"]), projected)
        compare(part, open_clip_to_original(expected, torch.cat), own, where)
        state = _from_open_clip(module, own)
    else:
        state = _with_level(tensors) if projected else _without_level(tensors)
        compare(part, expected, state, where)
    state = state if projected else _without_level(state)
    module.load_state_dict({name: state[name].to(dtype) for name in expected}, assign=True)
    return frozen(module)


def _without_level(tensors: State) -> dict[str, Tensor]:
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def _with_level(tensors: State) -> dict[str, Tensor]:
    """transformers has the level `text_model.` only where a projection follows it."""
    return {
        name if name == "text_projection.weight" else f"text_model.{name}": tensor
        for name, tensor in _without_level(tensors).items()
    }


def _open_clip_tensors(tensors: State, layers: int, projected: bool) -> dict[str, Tensor]:
    """Those that are read: without layers behind the last one, and a projection only where wanted."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        block = RESBLOCK.match(name)
        if block is not None and int(block[1]) >= layers:
            continue
        if name == "text_projection.weight":
            found.setdefault("text_projection", tensor.T)
        else:
            found[name] = tensor
    if not projected:
        # The conversion would take its side for the width.
        found.pop("text_projection", None)
    return found


def _from_open_clip(module: Any, tensors: State) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    converted: dict[str, Tensor] = convert_open_clip_checkpoint(module, dict(tensors), prefix="")
    return converted


def frozen(module: nn.Module) -> nn.Module:
    """Without gradients and in evaluation mode, for good."""
    return module.requires_grad_(False).eval()


def compare(part: str, expected: State, found: State, where: str, *, squeeze: bool = False) -> None:
    """Raise Mismatch naming what is missing, has another shape, or belongs to another structure.

    With `squeeze` a 1 x 1 convolution equals a linear layer: the VAE's attention and the projections
    of Stable Diffusion 2 are stored as either.
    """
    missing = [name for name in expected if name not in found]
    wrong = [
        f"{name} is {_size(found[name])}, not {_size(expected[name])}"
        for name in expected
        if name in found and not _same_shape(found[name], expected[name], squeeze)
    ]
    strange = [name for name in found if name not in expected and not name.endswith(IGNORED_ENDS)]
    problems = []
    if missing:
        what = f"The {part} lacks {len(missing)} of {len(expected)} tensors: {_named(missing)}."
        problems.append(Problem(what, where, "The file is incomplete.", "model.path"))
    if wrong:
        what = f"The {part} has tensors of another size: {_named(wrong)}."
        problems.append(Problem(what, where, path="model.path"))
    if strange and not missing:
        what = f"The {part} has {len(strange)} tensors that are not known: {_named(strange)}."
        problems.append(Problem(what, where, "It is built in another way.", "model.path"))
    if problems:
        raise Mismatch(problems)


def _same_shape(found: Tensor, expected: Tensor, squeeze: bool) -> bool:
    return found.shape == expected.shape or (squeeze and _squeezed(found) == _squeezed(expected))


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    return shape[:2] if shape[2:] == (1, 1) else shape


def _size(tensor: Tensor) -> str:
    return " x ".join(str(side) for side in tensor.shape) or "one number"


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
