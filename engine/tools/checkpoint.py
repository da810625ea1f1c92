"""A base model's file that is open: which tensor, or part of one, is the weight of which layer.

Single files in the original layout. Layers have the paths of diffusers' and transformers' modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.errors import ModelError, Problem
from engine.models.architecture import Architecture, UnusualShape, count_of, unet_sizes
from engine.models.headers import TensorInfo
from engine.models.recognise import UNET, recognise
from engine.models.shapes import layer_shapes
from engine.networks.names import TEXT_ROOT, Place
from engine.tools.stream import TensorFile
from engine.unet_names import original_unet_names

FAMILIES = ("sd1", "sd2", "sdxl")
HF_TEXT = {
    "sd1": {"te": "cond_stage_model.transformer."},
    "sdxl": {"te": "conditioner.embedders.0.transformer."},
}
"""Where text encoders lie under the names that transformers has."""
OPEN_TEXT = {
    "sd2": {"te": "cond_stage_model.model."},
    "sdxl": {"te2": "conditioner.embedders.1.model."},
}
"""Where text encoders lie under the names of OpenCLIP."""
NO_TEXT = {"num_hidden_layers": 0, "hidden_size": 1, "intermediate_size": 1}
OPEN_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
OPEN_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
"""Modules of an OpenCLIP layer, to those of transformers."""
FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""Rows of OpenCLIP's attn.in_proj, a third each."""
CONVOLUTION_AXES = 4


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor of a layer lies in the file."""

    key: str
    rows: tuple[int, int] | None = None
    """First row and the one after the last, where several layers share a tensor."""

    def of(self, tensor: Tensor) -> Tensor:
        """The layer's own part of the file's tensor."""
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """One linear, convolution or norm layer of the file."""

    component: str
    path: str
    shape: tuple[int, ...]
    weight: Slot
    bias: Slot | None

    @property
    def place(self) -> Place:
        """Component and path."""
        return self.component, self.path

    @property
    def is_norm(self) -> bool:
        """Norms have a weight of one axis."""
        return len(self.shape) == 1

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Of weight and bias."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


class Checkpoint:
    """A base model's file that is open; use as a context."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError for a file that is no base model of the families known here."""
        with ExitStack() as stack:
            self.file = stack.enter_context(TensorFile(path, ModelError))
            self.family = self._family()
            self.layers = {layer.place: layer for layer in self._find_layers()}
            self._kept = stack.pop_all()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def read(self, slot: Slot) -> Tensor:
        """A layer's weight or bias, in the file's number format."""
        return slot.of(self.file.read(slot.key))

    def module(self, layer: BaseLayer) -> nn.Module:
        """The layer as a module with its weights, for an adapter to look at; it does not run."""
        weight = self.read(layer.weight)
        bias = None if layer.bias is None else self.read(layer.bias)
        return bare_layer(weight, bias)

    def _family(self) -> str:
        infos = {
            name: TensorInfo(entry.dtype, entry.shape) for name, entry in self.file.entries.items()
        }
        found = recognise(infos)
        if found.family in FAMILIES:
            return found.family
        what = f"This is {found.other or found.family}".partition(";")[0]
        remedy = "Give a checkpoint of Stable Diffusion 1, 2 or XL in one .safetensors file."
        raise ModelError(Problem(f"{what}.", where=str(self.path), remedy=remedy))

    def _find_layers(self) -> Iterator[BaseLayer]:
        yield from self._unet_layers()
        for component, prefix in HF_TEXT.get(self.family, {}).items():
            yield from self._hf_text_layers(component, prefix)
        for component, prefix in OPEN_TEXT.get(self.family, {}).items():
            yield from self._open_text_layers(component, prefix)

    def _unet_layers(self) -> Iterator[BaseLayer]:
        paths = unet_paths(self.family, self._shapes(UNET), self.path)
        original = original_unet_names(paths)
        for path in paths:
            layer = self._layer("unet", path, UNET + original(path))
            if layer is not None:
                yield layer

    def _hf_text_layers(self, component: str, prefix: str) -> Iterator[BaseLayer]:
        for name in self._shapes(prefix):
            module, dot, last = name.rpartition(".")
            if dot and last == "weight" and "embedding" not in module:
                path = TEXT_ROOT + module.removeprefix(TEXT_ROOT)
                layer = self._layer(component, path, prefix + module)
                if layer is not None:
                    yield layer

    def _open_text_layers(self, component: str, prefix: str) -> Iterator[BaseLayer]:
        for name, shape in self._shapes(prefix).items():
            block = OPEN_BLOCK.fullmatch(name)
            if block is None:
                continue
            number, rest = block.groups()
            place = f"{TEXT_ROOT}encoder.layers.{number}"
            if rest == "attn.in_proj_weight" and len(shape) == 2:
                yield from self._fused_layers(component, place, prefix + name, shape)
            part = OPEN_PARTS.get(rest.removesuffix(".weight"))
            if part is not None and rest.endswith(".weight"):
                key = prefix + name.removesuffix(".weight")
                layer = self._layer(component, f"{place}.{part}", key)
                if layer is not None:
                    yield layer

    def _fused_layers(
        self, component: str, place: str, key: str, shape: tuple[int, ...]
    ) -> Iterator[BaseLayer]:
        bias = key.removesuffix("weight") + "bias"
        rows = shape[0] // len(FUSED)
        for number, part in enumerate(FUSED):
            own = number * rows, (number + 1) * rows
            slot = Slot(bias, own) if bias in self.file.entries else None
            path = f"{place}.{part}"
            yield BaseLayer(component, path, (rows, shape[1]), Slot(key, own), slot)

    def _layer(self, component: str, path: str, key: str) -> BaseLayer | None:
        entry = self.file.entries.get(f"{key}.weight")
        if entry is None or len(entry.shape) not in (1, 2, CONVOLUTION_AXES):
            return None
        bias = f"{key}.bias"
        slot = Slot(bias) if bias in self.file.entries else None
        return BaseLayer(component, path, entry.shape, Slot(f"{key}.weight"), slot)

    def _shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        return {
            name.removeprefix(prefix): entry.shape
            for name, entry in self.file.entries.items()
            if name.startswith(prefix)
        }


def unet_paths(family: str, shapes: Mapping[str, tuple[int, ...]], where: Path) -> tuple[str, ...]:
    """diffusers' paths of all layers of a U-Net in the original layout; raises ModelError."""
    try:
        sizes = unet_sizes(shapes)
        entries = range(1, count_of(shapes, r"input_blocks\.(\d+)\."))
        depths = [1]
        for index in entries:
            if f"input_blocks.{index}.0.op.weight" in shapes:
                depths.append(1)
            pattern = rf"input_blocks\.{index}\.1\.transformer_blocks\.(\d+)\."
            depths[-1] = max(depths[-1], count_of(shapes, pattern))
        sizes["transformer_layers_per_block"] = depths
        if "label_emb.0.0.weight" in shapes:
            added = shapes["label_emb.0.0.weight"][1]
            sizes |= {"addition_embed_type": "text_time"}
            sizes |= {"projection_class_embeddings_input_dim": added}
        layers = layer_shapes(Architecture(family, sizes, {}, NO_TEXT))
    except (UnusualShape, KeyError, IndexError, ValueError, StopIteration) as error:
        what = "Its U-Net is not built like one of Stable Diffusion."
        raise ModelError(Problem(what, where=str(where))) from error
    return tuple(layer.path for layer in layers if layer.component == "unet")


def bare_layer(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """A module that holds these tensors; stride and padding are not those of the model."""
    layer: nn.Module
    if weight.dim() == 1:
        layer = nn.LayerNorm(weight.shape[0], device="meta")
    elif weight.dim() == CONVOLUTION_AXES:
        out, in_, height, width = weight.shape
        layer = nn.Conv2d(in_, out, (height, width), bias=bias is not None, device="meta")
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def blank_layer(shape: tuple[int, ...]) -> nn.Module:
    """A layer of this shape without weights of its own, for changes that do not ask for them."""
    bias = torch.zeros(()).expand(shape[0])
    return bare_layer(torch.zeros(()).expand(shape), bias)
