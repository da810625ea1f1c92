"""Where the factors of a T-LoRA begin, and how that is found again.

Shape letters: O outputs, I inputs with the kernel, D ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.networks.base import Tensors, kernel_of, layer_weight
from engine.networks.choice import SigType
from engine.networks.shapes import BASE_FACTORS
from engine.networks.singular import Spectrum, Triplets

Q, P, LAMBDA = "q_layer.weight", "p_layer.weight", "lambda_layer"
FACTORS = (Q, P, LAMBDA)
SIG_TYPES: tuple[SigType, ...] = ("principal", "last", "middle")
FARTHEST_START = 0.8
"""A trained product is nearer to its start than this; from any other it is about 1 or more away."""


def factor_shapes(layer: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the trained and the fixed factors in the layer's form."""
    weight, kernel = layer_weight(layer), kernel_of(layer)
    out, in_ = weight.shape[:2]
    ones = (1,) * len(kernel)
    shapes = {Q: (rank, in_, *kernel), P: (out, rank, *ones), LAMBDA: (1, rank)}
    return shapes | dict(zip(BASE_FACTORS, shapes.values(), strict=True))


def placed(layer: nn.Module, found: Triplets, rank: int) -> dict[str, Tensor]:
    """Singular triplets as factors in the layer's form; ranks beyond those there are stay 0."""
    more = rank - len(found.values_D)
    factors = {
        Q: F.pad(found.right_DI, (0, 0, 0, more)),
        P: F.pad(found.left_OD, (0, more)),
        LAMBDA: F.pad(found.values_D, (0, more)),
    }
    shapes = factor_shapes(layer, rank)
    return {suffix: tensor.reshape(shapes[suffix]) for suffix, tensor in factors.items()}


@torch.no_grad()
def nearest_start(layer: nn.Module, trained: Tensors) -> dict[str, Tensor]:
    """The singular factors of the base that these began at, told by the nearest product.

    Raises ValueError where none is near: drawn starts and those of another base cannot be found.
    """
    rank = trained[Q].shape[0]
    weight = layer_weight(layer)
    spectrum = Spectrum(weight.flatten(1))
    starts = [placed(layer, spectrum.pick(rank, sig_type), rank) for sig_type in SIG_TYPES]
    product_OI = _product(trained).to(weight.device)
    distances = [
        float((product_OI - _product(start)).norm() / start[LAMBDA].norm()) for start in starts
    ]
    nearest = min(range(len(starts)), key=lambda place: distances[place])
    if not distances[nearest] <= FARTHEST_START:
        raise ValueError(
            f"it holds no {BASE_FACTORS[0]}, and began at another base or at random factors"
        )
    return starts[nearest]


def _product(factors: Tensors) -> Tensor:
    """P diag(l) Q, [O, I] in fp32."""
    q_DI, p_OD = factors[Q].flatten(1).float(), factors[P].flatten(1).float()
    return (p_OD * factors[LAMBDA].float().view(1, -1)) @ q_DI
