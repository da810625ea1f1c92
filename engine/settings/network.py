"""The network that is trained: one class for each algorithm, told apart by `algorithm`.

What several algorithms ask in the same words is a mixin; an algorithm has what it knows and nothing
else, so that a setting without effect is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
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
    "unet-up-blocks",
    "te-only",
    "ia3",
]
AlgorithmName = Literal[
    "lora", "locon", "loha", "lokr", "ia3", "dylora", "glora", "diag-oft", "boft", "full", "t-lora"
]
DoraAxis = Literal["off", "input", "output"]
SigType = Literal["principal", "last", "middle"]
Probability = Annotated[float, Ge(0), Lt(1)]
Rank = Annotated[int, Ge(1), Le(1024)]
LokrRank = Annotated[int, Ge(1), Le(100000)]
ConvRank = Annotated[int, Ge(0), Le(1024)]
DYLORA_RANK = 128
"""Usual rank of a DyLoRA, of which a smaller one is cut afterwards."""
Factor = Annotated[int, Ge(-1), Le(64)]


class Override(Section):
    """Other values for some of the layers, or none for them at all."""

    pattern: Annotated[str, Ask("Layers", "expert")]
    """Regular expression for the whole path of a layer, or the name of a class around it."""
    exclude: Annotated[bool, Ask("Leave out", "expert")] = False
    """Train nothing there."""
    algorithm: Annotated[AlgorithmName | None, Ask("Algorithm", "expert", blank="as the rest")] = (
        None
    )
    """Another kind of network there."""
    rank: Annotated[
        LokrRank | Literal["full"] | None, Ask("Rank", "expert", blank="as the rest")
    ] = None
    """Rank there, of convolutions too."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", "expert", blank="in proportion to the rank")
    ] = None
    """Alpha there; 0 means the same as the rank."""
    conv_rank: Annotated[
        ConvRank | None,
        Ask("Convolution rank", "expert", blank="as the rank given there, else as the rest"),
    ] = None
    """Rank of k x k convolutions there; 0 leaves them out."""
    conv_alpha: Annotated[
        float | None,
        Ge(0),
        Ask("Convolution alpha", "expert", blank="as the alpha given there, else in proportion"),
    ] = None
    """Alpha of k x k convolutions there; 0 means the same as their rank."""
    rs_lora: Annotated[bool | None, Ask("Rank-stabilised", "expert", blank="as the rest")] = None
    """Scale by alpha / sqrt(rank) there."""
    tucker: Annotated[bool | None, Ask("Tucker", "expert", blank="as the rest")] = None
    """Split k x k convolutions into three factors there."""
    scalar: Annotated[bool | None, Ask("Scalar", "expert", blank="as the rest")] = None
    """One more trainable number there."""
    dora: Annotated[DoraAxis | None, Ask("DoRA", "expert", blank="as the rest")] = None
    """Magnitudes of inputs or outputs; one part of the base has the same in all of its layers."""
    factor: Annotated[Factor | None, Ask("Factor", "expert", blank="as the rest")] = None
    """Size of LoKr's first factor there."""
    decompose_both: Annotated[bool | None, Ask("Split both", "expert", blank="as the rest")] = None
    """Make LoKr's first factor low-rank too."""
    unbalanced: Annotated[bool | None, Ask("Swap factors", "expert", blank="as the rest")] = None
    """Give the larger part of the outputs to LoKr's first factor."""
    block_size: Annotated[
        int | None, Ge(1), Le(1024), Ask("Block", "expert", blank="as the rest")
    ] = None
    """Ranks of a DyLoRA that are drawn together there; it must divide the rank."""
    detach_lower: Annotated[
        bool | None, Ask("Only the last block learns", "expert", blank="as the rest")
    ] = None
    """Leave the ranks of a DyLoRA below the drawn block as they are in a step."""
    constraint: Annotated[float | None, Ge(0), Ask("Constraint", "expert", blank="as the rest")] = (
        None
    )
    """How far a rotation may turn there."""
    rescaled: Annotated[bool | None, Ask("Rescaled", "expert", blank="as the rest")] = None
    """A trained factor for each output after the rotation."""
    train_on_input: Annotated[bool | None, Ask("On inputs", "expert", blank="as the rest")] = None
    """Scale inputs instead of outputs, for (IA)³."""
    min_rank: Annotated[
        int | None, Ge(1), Le(1024), Ask("Smallest rank", "expert", blank="as the rest")
    ] = None
    """Ranks of a T-LoRA that learn there even where there is nothing but noise."""
    mask_alpha: Annotated[
        float | None, Gt(0), Le(10), Ask("Rank curve", "expert", blank="as the rest")
    ] = None
    """How fast the ranks of a T-LoRA grow there as the noise falls."""
    orthogonality: Annotated[
        float | None, Ge(0), Ask("Orthogonality", "expert", blank="as the rest")
    ] = None
    """Weight of the term that keeps a T-LoRA's factors orthogonal there."""
    sig_type: Annotated[SigType | None, Ask("Start from", "expert", blank="as the rest")] = None
    """Which singular directions of its layers a T-LoRA starts from there."""
    use_data_init: Annotated[
        bool | None, Ask("Start from the base", "expert", blank="as the rest")
    ] = None
    """Start a T-LoRA from the base's own directions there."""

    def options(self) -> dict[str, Any]:
        """What it says beside the pattern, the algorithm and the sizes."""
        beside = ("pattern", "exclude", "algorithm", "rank", "alpha", "conv_rank", "conv_alpha")
        return {
            key: value
            for key in type(self).model_fields
            if key not in beside and (value := getattr(self, key)) is not None
        }


class NetworkSection(Section):
    """What every algorithm asks."""

    targets: Annotated[TargetPreset, Ask("Layers", flag="--targets")] = "attn-mlp"
    """Which layers of the base are trained."""
    targets_file: Annotated[
        Path | None, Ask("Own layer choice", "expert", kind="file", blank="none")
    ] = None
    """A file that names the layers, in place of a ready choice."""
    train_norm: Annotated[bool, Ask("Train norms", "advanced")] = False
    """Train the norm layers inside the chosen blocks as well."""
    overrides: Annotated[tuple[Override, ...], Ask("Overrides", "expert")] = ()
    """Other values for some layers, by pattern; the first that matches counts."""
    module_dropout: Annotated[Probability, Ask("Module dropout", "advanced")] = 0.0
    """Chance of a whole layer's network to be left out of a step."""
    max_norm: Annotated[float, Ge(0), Ask("Scale weight norms", "advanced")] = 0.0
    """Largest norm of each layer's change; 0 is off."""
    weights: Annotated[
        Path | None, Ask("Start from a network file", "expert", kind="file", blank="from nothing")
    ] = None
    """A network file whose weights the run starts from; the file itself stays as it is."""


class ConvRanks(Section):
    """A size of their own for convolutions."""

    conv_rank: Annotated[
        ConvRank | None, Ask("Convolution rank", "advanced", blank="as the rank")
    ] = None
    """Rank of k x k convolutions; 0 leaves them out. 1 x 1 convolutions follow the rank."""


class ConvAlphas(ConvRanks):
    """Rank and alpha of their own for convolutions."""

    conv_alpha: Annotated[
        float | None, Ge(0), Ask("Convolution alpha", "advanced", blank="as the alpha")
    ] = None
    """Alpha of k x k convolutions."""


class Stabilised(Section):
    """A scale that does not fall with the rank."""

    rs_lora: Annotated[bool, Ask("Rank-stabilised scale", "expert")] = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank."""


class Tucker(Section):
    """A third factor for convolutions."""

    tucker: Annotated[bool, Ask("Tucker convolutions", "expert")] = False
    """Split k x k convolutions into three factors instead of two."""


class Scalar(Section):
    """A trained strength."""

    scalar: Annotated[bool, Ask("Trainable scalar", "expert")] = False
    """One more trainable number for each layer, folded into the weights when saved."""


class Magnitudes(Section):
    """DoRA: direction and magnitude apart."""

    dora: Annotated[DoraAxis, Ask("DoRA", "advanced")] = "off"
    """Train the magnitude of each input or output of a layer on its own."""


class Dropout(Section):
    """Noise on what is inside the network."""

    dropout: Annotated[Probability, Ask("Dropout", "advanced")] = 0.0
    """Chance of each activation inside the network to be zero in a step."""


class Dropouts(Dropout):
    """Noise on activations and ranks."""

    rank_dropout: Annotated[Probability, Ask("Rank dropout", "advanced")] = 0.0
    """Chance of each rank to be left out."""


class Rotation(ConvRanks):
    """What both rotations ask."""

    rank: Annotated[Rank | None, Ask("Largest block", flag="--rank", blank="32")] = None
    """Outputs that are turned together at most: larger blocks learn more and cost more."""
    constraint: Annotated[float, Ge(0), Ask("Constraint", "advanced")] = 0.0
    """How far the outputs may be turned away from the base; 0 is as far as they like."""
    rescaled: Annotated[bool, Ask("Rescaled", "expert")] = False
    """A trained factor for each output after the rotation; few programs read it."""


class Lora(Dropouts, Magnitudes, Scalar, Tucker, Stabilised, ConvAlphas, NetworkSection):
    """LoRA, and LoCon: LoRA on convolutions too."""

    algorithm: Annotated[Literal["lora", "locon"], Ask("Algorithm", flag="--algorithm")] = "lora"
    """Kind of network."""
    rank: Annotated[Rank | None, Ask("Rank", flag="--rank", blank="32")] = None
    """Size of the network: how much it can hold, and how large the file is."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; 0 means the same as the rank."""


class Loha(Dropouts, Magnitudes, Scalar, Tucker, Stabilised, ConvAlphas, NetworkSection):
    """LoHa: two small networks multiplied with each other."""

    algorithm: Annotated[Literal["loha"], Ask("Algorithm", flag="--algorithm")] = "loha"
    """Kind of network."""
    rank: Annotated[Rank | None, Ask("Rank", flag="--rank", blank="16")] = None
    """Size of each pair; their product reaches up to the square of it."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; 0 means the same as the rank."""


class Lokr(Dropouts, Magnitudes, Scalar, Tucker, Stabilised, ConvAlphas, NetworkSection):
    """LoKr: a Kronecker product of two small matrices."""

    algorithm: Annotated[Literal["lokr"], Ask("Algorithm", flag="--algorithm")] = "lokr"
    """Kind of network."""
    rank: Annotated[
        LokrRank | Literal["full"] | None,
        Ask("Rank", flag="--rank", blank="full"),
    ] = None
    """Rank of the second factor; full keeps it whole, the usual choice."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; without effect where both factors are full."""
    factor: Annotated[Factor, Ask("Factor")] = 8
    """Size of the first factor: -1 splits evenly (smallest file), 4 to 8 comes near full training."""
    decompose_both: Annotated[bool, Ask("Split both factors", "expert")] = False
    """Make the first factor low-rank too."""
    unbalanced: Annotated[bool, Ask("Swap output factors", "expert")] = False
    """Give the larger part of the outputs to the first factor."""


class Ia3(NetworkSection):
    """(IA)³: one number for each output or input of a layer."""

    algorithm: Annotated[Literal["ia3"], Ask("Algorithm", flag="--algorithm")] = "ia3"
    """Kind of network."""
    train_on_input: Annotated[bool, Ask("On inputs", "advanced")] = False
    """Scale the inputs of each layer instead of its outputs."""


class Dylora(Dropout, Stabilised, ConvAlphas, NetworkSection):
    """DyLoRA: a LoRA whose smaller ranks work on their own."""

    algorithm: Annotated[Literal["dylora"], Ask("Algorithm", flag="--algorithm")] = "dylora"
    """Kind of network."""
    rank: Annotated[Rank | None, Ask("Rank", flag="--rank", blank=str(DYLORA_RANK))] = None
    """The largest rank; any smaller multiple of the block can be exported."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; 0 means the same as the rank."""
    block_size: Annotated[int, Ge(1), Le(1024), Ask("Block", "advanced")] = 4
    """Ranks that are drawn together; it must divide the rank."""
    detach_lower: Annotated[bool, Ask("Only the last block learns", "expert")] = True
    """Leave the ranks below the drawn block as they are in a step."""


class Glora(Dropouts, Scalar, Stabilised, ConvAlphas, NetworkSection):
    """GLoRA: a LoRA beside the layer and another before it."""

    algorithm: Annotated[Literal["glora"], Ask("Algorithm", flag="--algorithm")] = "glora"
    """Kind of network."""
    rank: Annotated[Rank | None, Ask("Rank", flag="--rank", blank="16")] = None
    """Size of each of the two pairs."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; 0 means the same as the rank."""


class DiagOft(Rotation, NetworkSection):
    """Diag-OFT: outputs are turned in blocks, their angles to each other stay."""

    algorithm: Annotated[Literal["diag-oft"], Ask("Algorithm", flag="--algorithm")] = "diag-oft"
    """Kind of network."""


class Boft(Rotation, NetworkSection):
    """BOFT: several stages of turned blocks, so that every output meets every other."""

    algorithm: Annotated[Literal["boft"], Ask("Algorithm", flag="--algorithm")] = "boft"
    """Kind of network."""


class Full(NetworkSection):
    """Full: the layers themselves, saved as a difference."""

    algorithm: Annotated[Literal["full"], Ask("Algorithm", flag="--algorithm")] = "full"
    """Kind of network."""


class TLora(Dropouts, ConvAlphas, NetworkSection):
    """T-LoRA: fewer ranks where the picture is all noise."""

    algorithm: Annotated[Literal["t-lora"], Ask("Algorithm", flag="--algorithm")] = "t-lora"
    """Kind of network."""
    rank: Annotated[Rank | None, Ask("Rank", flag="--rank", blank="32")] = None
    """The largest rank, used where there is hardly any noise."""
    alpha: Annotated[
        float | None, Ge(0), Ask("Alpha", flag="--alpha", blank="half of the rank")
    ] = None
    """Strength is alpha / rank; 0 means the same as the rank."""
    min_rank: Annotated[int, Ge(1), Le(1024), Ask("Smallest rank", "advanced")] = 1
    """Ranks that learn even where there is nothing but noise."""
    mask_alpha: Annotated[float, Gt(0), Le(10), Ask("Rank curve", "expert")] = 1.0
    """How fast ranks grow as the noise falls: 1 evenly, above 1 later."""
    orthogonality: Annotated[float, Ge(0), Ask("Orthogonality", "expert")] = 0.0
    """Weight of a term in the loss that keeps the factors orthogonal; 0 leaves it out."""
    sig_type: Annotated[SigType, Ask("Start from", "expert")] = "principal"
    """Which singular directions of each layer the factors start from."""
    use_data_init: Annotated[bool, Ask("Start from the base", "expert")] = True
    """Start from the base's own directions instead of random ones."""


TITLES: dict[str, str] = {
    "lora": "LoRA",
    "locon": "LoCon",
    "loha": "LoHa",
    "lokr": "LoKr",
    "ia3": "(IA)³",
    "dylora": "DyLoRA",
    "glora": "GLoRA",
    "diag-oft": "Diag-OFT",
    "boft": "BOFT",
    "full": "Full",
    "t-lora": "T-LoRA",
}
"""Algorithms as people write them."""

Network = Annotated[
    Lora | Loha | Lokr | Ia3 | Dylora | Glora | DiagOft | Boft | Full | TLora,
    Field(discriminator="algorithm"),
]


def asked(network: NetworkSection, key: str, default: Any = None) -> Any:
    """The value of a setting that not every algorithm has; the default where this one has not."""
    return getattr(network, key, default)
