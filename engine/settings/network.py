"""The network that is trained: one class for each algorithm, told apart by `algorithm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt
from pydantic import Field

from engine.settings.ask import Ask, Section

TargetPreset = Literal[
    "full",
    "full-lin",
    "attn-mlp",
    "attn-only",
    "unet-only",
    "unet-transformer-only",
    "unet-convblock-only",
    "te-only",
]
Probability = Annotated[float, Ge(0), Lt(1)]


class NetworkSection(Section):
    """What every algorithm asks."""

    targets: Annotated[TargetPreset, Ask("Layers", flag="--targets")] = "attn-mlp"
    """Which layers of the base are trained."""
    conv_rank: Annotated[
        int | None, Ge(0), Le(1024), Ask("Convolution rank", "advanced", blank="as the rank")
    ] = None
    """Rank of k x k convolutions; 0 leaves them out. 1 x 1 convolutions follow the rank."""
    conv_alpha: Annotated[
        float | None, Ge(0), Ask("Convolution alpha", "advanced", blank="as the alpha")
    ] = None
    """Alpha of k x k convolutions."""
    rs_lora: Annotated[bool, Ask("Rank-stabilised scale", "expert")] = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank."""
    tucker: Annotated[bool, Ask("Tucker convolutions", "expert")] = False
    """Split k x k convolutions into three factors instead of two."""
    scalar: Annotated[bool, Ask("Trainable scalar", "expert")] = False
    """One more trainable number for each layer, folded into the weights when saved."""
    dropout: Annotated[Probability, Ask("Dropout", "advanced")] = 0.0
    """Chance of each activation inside the network to be zero in a step."""
    rank_dropout: Annotated[Probability, Ask("Rank dropout", "advanced")] = 0.0
    """Chance of each rank to be left out."""
    module_dropout: Annotated[Probability, Ask("Module dropout", "advanced")] = 0.0
    """Chance of a whole layer's network to be left out of a step."""
    max_norm: Annotated[float, Ge(0), Ask("Scale weight norms", "advanced")] = 0.0
    """Largest norm of each layer's change; 0 is off."""
    weights: Annotated[
        Path | None, Ask("Start from a network file", "expert", kind="file", blank="from nothing")
    ] = None
    """A network file whose weights the run starts from; the file itself stays as it is."""


class Lora(NetworkSection):
    """LoRA, and LoCon: LoRA on convolutions too."""

    algorithm: Annotated[Literal["lora", "locon"], Ask("Algorithm", flag="--algorithm")] = "lora"
    """Kind of network."""
    rank: Annotated[int | None, Ge(1), Le(1024), Ask("Rank", flag="--rank", blank="32")] = None
    """Size of the network: how much it can hold, and how large the file is."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; 0 means the same as the rank."""


class Lokr(NetworkSection):
    """LoKr: a Kronecker product of two small matrices."""

    algorithm: Annotated[Literal["lokr"], Ask("Algorithm", flag="--algorithm")] = "lokr"
    """Kind of network."""
    rank: Annotated[
        Annotated[int, Ge(1), Le(100000)] | Literal["full"] | None,
        Ask("Rank", flag="--rank", blank="full"),
    ] = None
    """Rank of the second factor; full keeps it whole, the usual choice."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; without effect where both factors are full."""
    factor: Annotated[int, Ge(-1), Le(64), Ask("Factor")] = 8
    """Size of the first factor: -1 splits evenly (smallest file), 4 to 8 comes near full training."""
    decompose_both: Annotated[bool, Ask("Split both factors", "expert")] = False
    """Make the first factor low-rank too."""
    unbalanced: Annotated[bool, Ask("Swap output factors", "expert")] = False
    """Give the larger part of the outputs to the first factor."""


Network = Annotated[Lora | Lokr, Field(discriminator="algorithm")]
