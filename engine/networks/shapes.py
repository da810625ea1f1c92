"""Shapes of all tensors of a network before anything is loaded: one function an algorithm. No torch.

The adapters make their parameters from these very functions, so a plan cannot differ from the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping

from engine.errors import Problem, RecipeError
from engine.networks.choice import Choice, Kernel, Rank
from engine.networks.factors import KronShape, kron_shape
from engine.networks.names import name_of
from engine.networks.presets import LayerLike, selected

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
"""Tensor suffix to shape, without alpha, in the order of an adapter's parameters."""

WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
ALPHA_BYTES = 4
USUAL_METADATA_BYTES = 6000
"""What metadata usually take; dataset tags may add a few kilobytes."""


def lora_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Two factors, or three for a tucker convolution (Hu et al. 2021, arXiv:2106.09685; LoCon)."""
    rank = _number(choice.rank_of(layer.kernel))
    if not layer.kernel:
        return {"lora_up.weight": (layer.out, rank), "lora_down.weight": (rank, layer.in_)}
    ones = (1,) * len(layer.kernel)
    shapes: Shapes = {"lora_up.weight": (layer.out, rank, *ones)}
    if choice.tucker and layer.kernel != ones:
        shapes["lora_down.weight"] = (rank, layer.in_, *ones)
        shapes["lora_mid.weight"] = (rank, rank, *layer.kernel)
    else:
        shapes["lora_down.weight"] = (rank, layer.in_, *layer.kernel)
    return shapes


def lokr_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Two halves, each whole or of low rank (Yeh et al. 2023, arXiv:2309.14859, LoKr)."""
    rank = choice.rank_of(layer.kernel)
    sizes = kron_shape(layer.out, layer.in_, choice.factor, unbalanced=choice.unbalanced)
    return _left_half(sizes, rank, choice) | _right_half(sizes, rank, layer.kernel, choice)


def _left_half(sizes: KronShape, rank: Rank, choice: Choice) -> Shapes:
    out_l, in_m = sizes.left
    if choice.decompose_both and rank != "full" and rank < max(out_l, in_m) / 2:
        return {"lokr_w1_a": (out_l, rank), "lokr_w1_b": (rank, in_m)}
    return {"lokr_w1": (out_l, in_m)}


def _right_half(sizes: KronShape, rank: Rank, kernel: Kernel, choice: Choice) -> Shapes:
    out_k, in_n = sizes.right
    if rank == "full" or rank >= max(out_k, in_n) / 2:
        return {"lokr_w2": (out_k, in_n, *kernel)}
    if choice.tucker and any(side != 1 for side in kernel):
        return {
            "lokr_t2": (rank, rank, *kernel),
            "lokr_w2_a": (rank, out_k),
            "lokr_w2_b": (rank, in_n),
        }
    return {"lokr_w2_a": (out_k, rank), "lokr_w2_b": (rank, in_n * math.prod(kernel))}


ShapesOf = Callable[[LayerLike, Choice], Shapes]
SHAPES: dict[str, ShapesOf] = {"lora": lora_shapes, "locon": lora_shapes, "lokr": lokr_shapes}


def shapes_of(layer: LayerLike, choice: Choice) -> Shapes:
    """Tensor shapes of one layer's adapter."""
    return SHAPES[choice.algorithm](layer, choice)


def planned_layers(layers: Iterable[LayerLike], choice: Choice) -> tuple[LayerLike, ...]:
    """The layers that get an adapter."""
    return selected(layers, choice.targets, spatial=choice.conv_rank != 0)


def planned_tensors(layers: Iterable[LayerLike], choice: Choice) -> dict[str, Shape]:
    """Every tensor of the network's file with its shape; alpha has the shape ()."""
    planned: dict[str, Shape] = {}
    for layer in planned_layers(layers, choice):
        name = name_of(layer.component, layer.path)
        for suffix, shape in shapes_of(layer, choice).items():
            planned[f"{name}.{suffix}"] = shape
        planned[f"{name}.alpha"] = ()
    return planned


def parameter_count(tensors: Mapping[str, Shape], *, scalar: bool = False) -> int:
    """Numbers that are trained; a trainable scalar is one more for each module."""
    weights = sum(math.prod(shape) for name, shape in tensors.items() if not _is_alpha(name))
    modules = sum(1 for name in tensors if _is_alpha(name))
    return weights + (modules if scalar else 0)


def file_bytes(
    tensors: Mapping[str, Shape], precision: str, metadata_bytes: int = USUAL_METADATA_BYTES
) -> int:
    """Bytes of the file: tensors exactly, the header without metadata exactly as well."""
    width = WEIGHT_BYTES[precision]
    offset = 0
    header: dict[str, object] = {}
    # safetensors puts wider numbers first, then goes by name; the digits of the places depend on it.
    for name in sorted(tensors, key=lambda name: (width < 4 and not _is_alpha(name), name)):
        shape = tensors[name]
        size = ALPHA_BYTES if _is_alpha(name) else width * math.prod(shape)
        dtype = "F32" if _is_alpha(name) or width == 4 else precision.upper().replace("FP", "F")
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, offset + size)}
        offset += size
    text = len(json.dumps(header, separators=(",", ":"))) + metadata_bytes
    return 8 + (text + 7) // 8 * 8 + offset


def _is_alpha(name: str) -> bool:
    return name.endswith(".alpha")


def _number(rank: Rank) -> int:
    if rank == "full":
        raise RecipeError(
            Problem(
                "A LoRA has no full rank.", path="network.rank", remedy="Give a number, 32 say."
            )
        )
    return rank
