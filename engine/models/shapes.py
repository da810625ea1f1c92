"""Every layer of a model that a network may change, with its size, without building it. No torch.

What a network of any kind will hold, its file size and its memory follow from this table. It is
tested against the real modules, full size and tiny.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.models.architecture import Architecture, Config

Component = Literal["unet", "te", "te2"]
Kind = Literal["linear", "conv", "norm"]
TIME_FACTOR = 4
"""The time embedding is four times as wide as the first level."""
FEED_FORWARD_FACTOR = 4


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer a network may change."""

    component: Component
    path: str
    """Name of the module in diffusers or transformers."""
    out: int
    """Outputs; of a norm its channels."""
    in_: int
    """Inputs; 1 of a norm."""
    kernel: tuple[int, ...] = ()
    """Empty for a linear layer and a norm."""
    classes: tuple[str, ...] = ()
    """Classes around it, outermost first, without mere containers."""
    bias: bool = True
    norm: bool = False

    @property
    def kind(self) -> Kind:
        """Norms are trained only where that is asked for."""
        if self.norm:
            return "norm"
        return "conv" if self.kernel else "linear"

    @property
    def weights(self) -> int:
        """Numbers in its weight."""
        product = self.out * self.in_
        for side in self.kernel:
            product *= side
        return product


def layer_shapes(architecture: Architecture) -> tuple[LayerShape, ...]:
    """Layers of the U-Net and the text encoders, in the order of the modules' own lists."""
    unet = _unet(architecture.unet, architecture.channels)
    second = architecture.text_encoder_2
    first = _Place("te", "", ("CLIPTextModel",))
    text = _text_encoder(first, architecture.text_encoder)
    if second is None:
        return (*unet, *text)
    # transformers has an inner model only where a projection follows it.
    outer = _Place("te2", "", ("CLIPTextModelWithProjection",))
    inner = outer.inside("text_model", "CLIPTextModel")
    projection = outer.linear(
        "text_projection", second["projection_dim"], second["hidden_size"], bias=False
    )
    return (*unet, *text, *_text_encoder(inner, second), projection)


@dataclass(frozen=True, slots=True)
class _Place:
    """A module in which layers lie."""

    component: Component
    path: str
    classes: tuple[str, ...]

    def inside(self, name: str, *classes: str) -> _Place:
        return _Place(self.component, self._path(name), (*self.classes, *classes))

    def linear(self, name: str, out: int, in_: int, *, bias: bool = True) -> LayerShape:
        return LayerShape(
            self.component, self._path(name), int(out), int(in_), (), self.classes, bias
        )

    def conv(self, name: str, out: int, in_: int, *, side: int = 3) -> LayerShape:
        path = self._path(name)
        return LayerShape(self.component, path, int(out), int(in_), (side, side), self.classes)

    def norm(self, name: str, channels: int) -> LayerShape:
        path = self._path(name)
        return LayerShape(self.component, path, int(channels), 1, (), self.classes, norm=True)

    def _path(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


# U-Net ----------------------------------------------------------------------------------------


def _unet(config: Config, channels: tuple[int, ...]) -> Iterator[LayerShape]:
    root = _Place("unet", "", ("UNet2DConditionModel",))
    first = channels[0]
    blocks = _Blocks(
        time=first * TIME_FACTOR,
        cross=int(config["cross_attention_dim"]),
        linear=bool(config["use_linear_projection"]),
    )
    yield root.conv("conv_in", first, config["in_channels"])
    yield from _embedding(root.inside("time_embedding", "TimestepEmbedding"), first, blocks.time)
    if config.get("addition_embed_type") == "text_time":
        added = int(config["projection_class_embeddings_input_dim"])
        yield from _embedding(root.inside("add_embedding", "TimestepEmbedding"), added, blocks.time)
    depths = _depths(config.get("transformer_layers_per_block", 1), len(channels))
    layers = int(config["layers_per_block"])
    yield from _down_blocks(root, blocks, config["down_block_types"], channels, depths, layers)
    yield from _up_blocks(root, blocks, config["up_block_types"], channels, depths, layers)
    mid = root.inside("mid_block", "UNetMidBlock2DCrossAttn")
    yield from blocks.attention(mid, 0, channels[-1], depths[-1])
    yield from blocks.resnet(mid, 0, channels[-1], channels[-1])
    yield from blocks.resnet(mid, 1, channels[-1], channels[-1])
    yield root.norm("conv_norm_out", first)
    yield root.conv("conv_out", config["out_channels"], first)


def _depths(told: Any, levels: int) -> tuple[int, ...]:
    """Transformer blocks in each attention of each level."""
    return (told,) * levels if isinstance(told, int) else tuple(told)


def _embedding(place: _Place, in_: int, out: int) -> Iterator[LayerShape]:
    yield place.linear("linear_1", out, in_)
    yield place.linear("linear_2", out, out)


def _down_blocks(
    root: _Place,
    blocks: _Blocks,
    types: Sequence[str],
    channels: tuple[int, ...],
    depths: tuple[int, ...],
    layers: int,
) -> Iterator[LayerShape]:
    before = channels[0]
    for number, (kind, width) in enumerate(zip(types, channels, strict=True)):
        block = root.inside(f"down_blocks.{number}", kind)
        if kind.startswith("CrossAttn"):
            for index in range(layers):
                yield from blocks.attention(block, index, width, depths[number])
        for index in range(layers):
            yield from blocks.resnet(block, index, width, before)
            before = width
        if number < len(channels) - 1:
            yield block.inside("downsamplers.0", "Downsample2D").conv("conv", width, width)


def _up_blocks(
    root: _Place,
    blocks: _Blocks,
    types: Sequence[str],
    channels: tuple[int, ...],
    depths: tuple[int, ...],
    layers: int,
) -> Iterator[LayerShape]:
    """Each resnet also gets the output of its mirror image on the way down."""
    skips = [channels[0]]
    for number, width in enumerate(channels):
        skips += [width] * layers
        if number < len(channels) - 1:
            skips.append(width)
    before = channels[-1]
    levels = zip(types, channels[::-1], depths[::-1], strict=True)
    for number, (kind, width, depth) in enumerate(levels):
        block = root.inside(f"up_blocks.{number}", kind)
        if kind.startswith("CrossAttn"):
            for index in range(layers + 1):
                yield from blocks.attention(block, index, width, depth)
        for index in range(layers + 1):
            yield from blocks.resnet(block, index, width, before + skips.pop())
            before = width
        if number < len(channels) - 1:
            yield block.inside("upsamplers.0", "Upsample2D").conv("conv", width, width)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What all blocks of a U-Net share."""

    time: int
    cross: int
    linear: bool

    def resnet(self, block: _Place, index: int, out: int, in_: int) -> Iterator[LayerShape]:
        resnet = block.inside(f"resnets.{index}", "ResnetBlock2D")
        yield resnet.norm("norm1", in_)
        yield resnet.conv("conv1", out, in_)
        yield resnet.linear("time_emb_proj", out, self.time)
        yield resnet.norm("norm2", out)
        yield resnet.conv("conv2", out, out)
        if out != in_:
            yield resnet.conv("conv_shortcut", out, in_, side=1)

    def attention(self, block: _Place, index: int, width: int, depth: int) -> Iterator[LayerShape]:
        outer = block.inside(f"attentions.{index}", "Transformer2DModel")
        yield outer.norm("norm", width)
        yield self._projection(outer, "proj_in", width)
        for number in range(depth):
            inner = outer.inside(f"transformer_blocks.{number}", "BasicTransformerBlock")
            yield from self._transformer(inner, width)
        yield self._projection(outer, "proj_out", width)

    def _transformer(self, block: _Place, width: int) -> Iterator[LayerShape]:
        for number, context in ((1, width), (2, self.cross)):
            yield block.norm(f"norm{number}", width)
            attention = block.inside(f"attn{number}", "Attention")
            yield attention.linear("to_q", width, width, bias=False)
            yield attention.linear("to_k", width, context, bias=False)
            yield attention.linear("to_v", width, context, bias=False)
            yield attention.linear("to_out.0", width, width)
        yield block.norm("norm3", width)
        feed = block.inside("ff", "FeedForward")
        inner = FEED_FORWARD_FACTOR * width
        # GEGLU makes gate and value in one layer, hence twice the width.
        yield feed.inside("net.0", "GEGLU").linear("proj", 2 * inner, width)
        yield feed.linear("net.2", width, inner)

    def _projection(self, place: _Place, name: str, width: int) -> LayerShape:
        if self.linear:
            return place.linear(name, width, width)
        return place.conv(name, width, width, side=1)


# text encoders --------------------------------------------------------------------------------


def _text_encoder(place: _Place, config: Config) -> Iterator[LayerShape]:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    for index in range(int(config["num_hidden_layers"])):
        layer = place.inside(f"encoder.layers.{index}", "CLIPEncoder", "CLIPEncoderLayer")
        attention = layer.inside("self_attn", "CLIPAttention")
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield attention.linear(part, width, width)
        yield layer.norm("layer_norm1", width)
        feed = layer.inside("mlp", "CLIPMLP")
        yield feed.linear("fc1", inner, width)
        yield feed.linear("fc2", width, inner)
        yield layer.norm("layer_norm2", width)
    yield place.norm("final_layer_norm", width)
