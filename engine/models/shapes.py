"""Every linear and convolution layer of a model with its size, without building it. No torch.

What a network of any kind will hold, its file size and its memory follow from this table. It is
tested against the real modules, full size and tiny.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from engine.models.architecture import Architecture

Component = Literal["unet", "te"]
TIME_FACTOR = 4
"""The time embedding is four times as wide as the first level."""
FEED_FORWARD_FACTOR = 4
WITHOUT_BIAS = (".to_q", ".to_k", ".to_v")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer a network may change."""

    component: Component
    path: str
    """Name of the module in diffusers or transformers."""
    out: int
    in_: int
    kernel: tuple[int, ...] = ()
    """Empty for a linear layer."""
    classes: tuple[str, ...] = ()
    """Classes around it that presets aim at, outermost first."""

    @property
    def bias(self) -> bool:
        """Whether it has one: all but the projections into attention of the U-Net."""
        return not self.path.endswith(WITHOUT_BIAS)

    @property
    def weights(self) -> int:
        """Numbers in its weight."""
        product = self.out * self.in_
        for side in self.kernel:
            product *= side
        return product


def layer_shapes(architecture: Architecture) -> tuple[LayerShape, ...]:
    """Layers of the U-Net and the text encoder, in the order of the modules' own lists."""
    return (*_unet(architecture), *_text_encoder(architecture))


def _unet(architecture: Architecture) -> Iterator[LayerShape]:
    config = architecture.unet
    channels = architecture.channels
    layers = int(config["layers_per_block"])
    first = channels[0]
    yield _conv("conv_in", first, config["in_channels"])
    yield _linear("time_embedding.linear_1", first * TIME_FACTOR, first)
    yield _linear("time_embedding.linear_2", first * TIME_FACTOR, first * TIME_FACTOR)
    blocks = _Blocks(
        time=first * TIME_FACTOR,
        cross=int(config["cross_attention_dim"]),
        linear=bool(config["use_linear_projection"]),
    )
    yield from _down_blocks(blocks, config["down_block_types"], channels, layers)
    yield from _up_blocks(blocks, config["up_block_types"], channels, layers)
    yield from blocks.attention("mid_block.attentions.0", channels[-1])
    yield from blocks.resnet("mid_block.resnets.0", channels[-1], channels[-1])
    yield from blocks.resnet("mid_block.resnets.1", channels[-1], channels[-1])
    yield _conv("conv_out", config["out_channels"], first)


def _down_blocks(
    blocks: _Blocks, types: list[str], channels: tuple[int, ...], layers: int
) -> Iterator[LayerShape]:
    before = channels[0]
    for number, (kind, width) in enumerate(zip(types, channels, strict=True)):
        name = f"down_blocks.{number}"
        if kind.startswith("CrossAttn"):
            for index in range(layers):
                yield from blocks.attention(f"{name}.attentions.{index}", width)
        for index in range(layers):
            yield from blocks.resnet(f"{name}.resnets.{index}", width, before)
            before = width
        if number < len(channels) - 1:
            yield _conv(f"{name}.downsamplers.0.conv", width, width, ("Downsample2D",))


def _up_blocks(
    blocks: _Blocks, types: list[str], channels: tuple[int, ...], layers: int
) -> Iterator[LayerShape]:
    """Each resnet also gets the output of its mirror image on the way down."""
    skips = [channels[0]]
    for number, width in enumerate(channels):
        skips += [width] * layers
        if number < len(channels) - 1:
            skips.append(width)
    before = channels[-1]
    for number, (kind, width) in enumerate(zip(types, channels[::-1], strict=True)):
        name = f"up_blocks.{number}"
        if kind.startswith("CrossAttn"):
            for index in range(layers + 1):
                yield from blocks.attention(f"{name}.attentions.{index}", width)
        for index in range(layers + 1):
            yield from blocks.resnet(f"{name}.resnets.{index}", width, before + skips.pop())
            before = width
        if number < len(channels) - 1:
            yield _conv(f"{name}.upsamplers.0.conv", width, width, ("Upsample2D",))


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What all blocks of a U-Net share."""

    time: int
    cross: int
    linear: bool

    def resnet(self, name: str, out: int, in_: int) -> Iterator[LayerShape]:
        around = ("ResnetBlock2D",)
        yield _conv(f"{name}.conv1", out, in_, around)
        yield _linear(f"{name}.time_emb_proj", out, self.time, around)
        yield _conv(f"{name}.conv2", out, out, around)
        if out != in_:
            yield _conv(f"{name}.conv_shortcut", out, in_, around, side=1)

    def attention(self, name: str, width: int) -> Iterator[LayerShape]:
        around = ("Transformer2DModel",)
        block = f"{name}.transformer_blocks.0"
        inner = FEED_FORWARD_FACTOR * width
        yield self._projection(f"{name}.proj_in", width)
        for attention, context in (("attn1", width), ("attn2", self.cross)):
            inside = (*around, "Attention")
            yield _linear(f"{block}.{attention}.to_q", width, width, inside)
            yield _linear(f"{block}.{attention}.to_k", width, context, inside)
            yield _linear(f"{block}.{attention}.to_v", width, context, inside)
            yield _linear(f"{block}.{attention}.to_out.0", width, width, inside)
        # GEGLU makes gate and value in one layer, hence twice the width.
        yield _linear(f"{block}.ff.net.0.proj", 2 * inner, width, around)
        yield _linear(f"{block}.ff.net.2", width, inner, around)
        yield self._projection(f"{name}.proj_out", width)

    def _projection(self, name: str, width: int) -> LayerShape:
        if self.linear:
            return _linear(name, width, width, ("Transformer2DModel",))
        return _conv(name, width, width, ("Transformer2DModel",), side=1)


def _text_encoder(architecture: Architecture) -> Iterator[LayerShape]:
    config = architecture.text_encoder
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    for index in range(int(config["num_hidden_layers"])):
        name = f"encoder.layers.{index}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            path = f"{name}.self_attn.{part}"
            yield LayerShape("te", path, width, width, (), ("CLIPAttention",))
        yield LayerShape("te", f"{name}.mlp.fc1", inner, width, (), ("CLIPMLP",))
        yield LayerShape("te", f"{name}.mlp.fc2", width, inner, (), ("CLIPMLP",))


def _linear(path: str, out: int, in_: int, classes: tuple[str, ...] = ()) -> LayerShape:
    return LayerShape("unet", path, int(out), int(in_), (), classes)


def _conv(
    path: str, out: int, in_: int, classes: tuple[str, ...] = (), *, side: int = 3
) -> LayerShape:
    return LayerShape("unet", path, int(out), int(in_), (side, side), classes)
