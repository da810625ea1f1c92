"""Shapes of all tensors of a network before anything is loaded: one function an algorithm. No torch.

The adapters make their parameters from these very functions, so a plan cannot differ from the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from engine.errors import Problem, RecipeError
from engine.networks.choice import Choice, Kernel, Rank, spans
from engine.networks.factors import (
    KronShape,
    butterfly_size,
    factorization,
    kron_shape,
    smallest_butterfly,
)
from engine.networks.names import Place, file_names
from engine.networks.override_checks import APPLIES
from engine.networks.overrides import resolve
from engine.networks.presets import Layer, LayerLike

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
"""Tensor suffix to shape, without alpha, in the order of an adapter's parameters."""

WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
FLAG_BYTES = 8
EXACT_BYTES = 4
USUAL_METADATA_BYTES = 6000
"""What metadata usually take; dataset tags may add a few kilobytes."""
FLAGS = frozenset({"on_input"})
"""Whole numbers that say what a module is."""
BASE_FACTORS = ("base_q.weight", "base_p.weight", "base_lambda")
"""The factors that a T-LoRA starts from; its change is the difference to them."""
FIXED = frozenset(BASE_FACTORS) | FLAGS
"""Tensors of a file that nobody trains, beside alpha."""
KEPT_EXACT = (
    frozenset(
        {"alpha", "dora_scale", "rescale", "q_layer.weight", "p_layer.weight", "lambda_layer"}
    )
    | FIXED
)
"""Written as they are whatever the save precision: fp32, and int64 where they are flags."""
WITH_DORA = frozenset({"lora", "locon", "loha", "lokr"})
WITHOUT_ALPHA = frozenset({"ia3", "full", "norm"})
WITH_SCALAR = frozenset(name for name, options in APPLIES.items() if "scalar" in options)


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


def loha_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Two pairs of factors whose products are multiplied (Hyeon-Woo et al. 2021, arXiv:2108.06098).

    A tucker's outer factors are [d, out], transposed against the plain form.
    """
    rank = _number(choice.rank_of(layer.kernel))
    if choice.tucker and spans(layer.kernel):
        return {
            "hada_t1": (rank, rank, *layer.kernel),
            "hada_w1_a": (rank, layer.out),
            "hada_w1_b": (rank, layer.in_),
            "hada_t2": (rank, rank, *layer.kernel),
            "hada_w2_a": (rank, layer.out),
            "hada_w2_b": (rank, layer.in_),
        }
    inner = (rank, layer.in_ * math.prod(layer.kernel))
    outer = (layer.out, rank)
    return {"hada_w1_a": outer, "hada_w1_b": inner, "hada_w2_a": outer, "hada_w2_b": inner}


def dylora_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Those of a LoRA without tucker (Valipour et al. 2022, arXiv:2210.07558).

    Raises RecipeError where blocks do not make up the rank.
    """
    own = spans(layer.kernel) and choice.conv_rank is not None
    path = "network.conv_rank" if own else "network.rank"
    problem = block_problem(_number(choice.rank_of(layer.kernel)), choice.block_size, path)
    if problem is not None:
        raise RecipeError(problem)
    return lora_shapes(layer, replace(choice, tucker=False))


def block_problem(rank: int, block_size: int, path: str) -> Problem | None:
    """Why a DyLoRA's rank is no whole number of blocks, with the nearest that are; None where it is.

    `path` is the setting that holds the rank.
    """
    if rank % block_size == 0:
        return None
    blocks = [size for size in range(1, rank + 1) if rank % size == 0]
    near = [max(size for size in blocks if size < block_size)]
    near += [size for size in blocks if size > block_size][:1]
    ranks = [number for number in (rank - rank % block_size,) if number > 0]
    ranks.append(rank - rank % block_size + block_size)
    return Problem(
        f"Blocks of {block_size} do not make up the rank {rank}.",
        path="network.block_size",
        remedy=f"Set network.block_size to {_either(near)}, or {path} to {_either(ranks)}.",
    )


def _either(numbers: Iterable[int]) -> str:
    return " or ".join(str(number) for number in numbers)


def ia3_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """One number for each output or input (Liu et al. 2022, arXiv:2205.05638)."""
    count = layer.in_ if choice.train_on_input else layer.out
    shape = (1, count, *(1 for _ in layer.kernel)) if layer.kernel else (count,)
    return {"weight": shape, "on_input": ()}


def glora_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Two pairs of factors, one of them behind the base weight (Chavan et al. 2023, arXiv:2306.07967)."""
    rank = _number(choice.rank_of(layer.kernel))
    ones = (1,) * len(layer.kernel)
    return {
        "a1.weight": (layer.in_, rank, *ones),
        "a2.weight": (rank, layer.in_, *ones),
        "b1.weight": (layer.out, rank, *ones),
        "b2.weight": (rank, layer.in_, *layer.kernel),
    }


def diag_oft_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Blocks of outputs that are turned on their own (Qiu et al. 2023, arXiv:2306.07280)."""
    size, blocks = factorization(layer.out, _number(choice.rank_of(layer.kernel)))
    return {"oft_blocks": (blocks, size, size)} | _rescale(layer, choice)


def boft_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Stages of turned blocks (Liu et al. 2023, arXiv:2311.06243); raises RecipeError where none fits."""
    limit = _number(choice.rank_of(layer.kernel))
    size = butterfly_size(layer.out, limit)
    if size is None:
        own = spans(layer.kernel) and choice.conv_rank is not None
        path = "network.conv_rank" if own else "network.rank"
        smallest = smallest_butterfly(layer.out)
        remedy = (
            f"Set {path} to {smallest} or more, or leave this layer out by an override."
            if smallest
            else "Leave this layer out by an override: its number of outputs is odd."
        )
        raise RecipeError(
            Problem(
                f"BOFT has no block of at most {limit} for {layer.out} outputs.",
                where=layer.path,
                path=path,
                remedy=remedy,
            )
        )
    blocks = layer.out // size
    stages = blocks.bit_length()
    return {"oft_blocks": (stages, blocks, size, size)} | _rescale(layer, choice)


def _rescale(layer: LayerLike, choice: Choice) -> Shapes:
    return {"rescale": (layer.out, 1, *(1 for _ in layer.kernel))} if choice.rescaled else {}


def full_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """The weight's own shape, and the bias' where there is one."""
    shapes: Shapes = {"diff": (layer.out, layer.in_, *layer.kernel)}
    return shapes | ({"diff_b": (layer.out,)} if layer.bias else {})


def t_lora_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """Three factors and those that they start from (Soboleva et al. 2025, arXiv:2507.05964)."""
    rank = _number(choice.rank_of(layer.kernel))
    ones = (1,) * len(layer.kernel)
    inner = (rank, layer.in_, *layer.kernel)
    outer = (layer.out, rank, *ones)
    factors: Shapes = {"q_layer.weight": inner, "p_layer.weight": outer, "lambda_layer": (1, rank)}
    return factors | dict(zip(BASE_FACTORS, factors.values(), strict=True))


def norm_shapes(layer: LayerLike, choice: Choice) -> Shapes:
    """What is added to weight and bias of a norm layer."""
    return {"w_norm": (layer.out,), "b_norm": (layer.out,)}


def dora_shape(layer: LayerLike, choice: Choice) -> Shape:
    """Magnitudes of inputs or outputs (Liu et al. 2024, arXiv:2402.09353)."""
    ones = tuple(1 for _ in layer.kernel)
    return (1, layer.in_, *ones) if choice.dora == "input" else (layer.out, 1, *ones)


ShapesOf = Callable[[LayerLike, Choice], Shapes]
SHAPES: dict[str, ShapesOf] = {
    "lora": lora_shapes,
    "locon": lora_shapes,
    "loha": loha_shapes,
    "lokr": lokr_shapes,
    "ia3": ia3_shapes,
    "dylora": dylora_shapes,
    "glora": glora_shapes,
    "diag-oft": diag_oft_shapes,
    "boft": boft_shapes,
    "full": full_shapes,
    "t-lora": t_lora_shapes,
    "norm": norm_shapes,
}


def shapes_of(layer: LayerLike, choice: Choice) -> Shapes:
    """Tensor shapes of one layer's adapter, without alpha; a DoRA's magnitudes last."""
    shapes = SHAPES[choice.algorithm](layer, choice)
    dora = choice.dora != "off" and choice.algorithm in WITH_DORA
    return shapes | ({"dora_scale": dora_shape(layer, choice)} if dora else {})


def planned_layers(
    layers: Iterable[LayerLike], choice: Choice
) -> tuple[tuple[LayerLike, Choice], ...]:
    """The layers that get an adapter, each with what was chosen for it."""
    return resolve(layers, choice)


def with_shapes(chosen: Iterable[tuple[Layer, Choice]]) -> list[tuple[Layer, Choice, Shapes]]:
    """Each layer with its shapes; raises RecipeError with every layer that has none."""
    planned: list[tuple[Layer, Choice, Shapes]] = []
    problems: list[Problem] = []
    for layer, own in chosen:
        try:
            planned.append((layer, own, shapes_of(layer, own)))
        except RecipeError as error:
            # One option that fits no layer is told once.
            problems += [one for one in error.problems if one not in problems]
    if problems:
        raise RecipeError(*problems)
    return planned


def planned_tensors(
    layers: Iterable[LayerLike], choice: Choice, *, trained: Collection[str] | None = None
) -> dict[str, Shape]:
    """Every tensor of the network's file with its shape; alpha has the shape ().

    `layers` are all of the base, which the names depend on; `trained` are the parts that get a
    network, all of them without it. Raises RecipeError with every layer that the choice does not fit.
    """
    layers = tuple(layers)
    chosen = [layer for layer in layers if trained is None or layer.component in trained]
    return tensors_of(with_shapes(planned_layers(chosen, choice)), names_of(layers))


def names_of(layers: Iterable[LayerLike]) -> Mapping[Place, str]:
    """Name of each layer in a file; `layers` are all of a base."""
    return file_names((layer.component, layer.path) for layer in layers)


def tensors_of(
    planned: Iterable[tuple[LayerLike, Choice, Shapes]], names: Mapping[Place, str]
) -> dict[str, Shape]:
    """Tensor name to shape, from layers with their shapes and the names of all layers."""
    tensors: dict[str, Shape] = {}
    for layer, own, shapes in planned:
        name = names[layer.component, layer.path]
        tensors |= {f"{name}.{suffix}": shape for suffix, shape in shapes.items()}
        if own.algorithm not in WITHOUT_ALPHA:
            tensors[f"{name}.alpha"] = ()
    return tensors


def parameter_count(planned: Iterable[tuple[LayerLike, Choice]]) -> int:
    """Numbers that are trained in these layers, a trainable scalar of a module among them.

    Raises RecipeError where a choice does not fit its layer.
    """
    return sum(
        sum(
            math.prod(shape)
            for suffix, shape in shapes_of(layer, own).items()
            if suffix not in FIXED
        )
        + (own.scalar and own.algorithm in WITH_SCALAR)
        for layer, own in planned
    )


def file_bytes(
    tensors: Mapping[str, Shape], precision: str, metadata_bytes: int = USUAL_METADATA_BYTES
) -> int:
    """Bytes of the file: tensors exactly, the header without metadata exactly as well."""
    width = {name: _width(_suffix(name), precision) for name in tensors}
    offset = 0
    header: dict[str, object] = {}
    # safetensors puts wider numbers first, then goes by name; the digits of the places depend on it.
    for name in sorted(tensors, key=lambda name: (-width[name], name)):
        shape = tensors[name]
        size = width[name] * math.prod(shape)
        dtype = {8: "I64", 4: "F32"}.get(width[name], precision.upper().replace("FP", "F"))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, offset + size)}
        offset += size
    text = len(json.dumps(header, separators=(",", ":"))) + metadata_bytes
    return 8 + (text + 7) // 8 * 8 + offset


def _suffix(name: str) -> str:
    return name.partition(".")[2]


def _width(suffix: str, precision: str) -> int:
    if suffix in FLAGS:
        return FLAG_BYTES
    return EXACT_BYTES if suffix in KEPT_EXACT else WEIGHT_BYTES[precision]


def _number(rank: Rank) -> int:
    if rank == "full":
        raise RecipeError(
            Problem(
                "This kind of network has no full rank.",
                path="network.rank",
                remedy="Give a number, 32 say.",
            )
        )
    return rank
