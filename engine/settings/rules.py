"""What must hold between settings of several sections."""

from __future__ import annotations

from collections.abc import Collection

from engine.errors import Problem
from engine.settings.network import DYLORA_RANK, Dylora, Lokr, NetworkSection, TLora, asked
from engine.settings.optim_rules import optimizer_rules
from engine.settings.optimizers import ADAPTIVE
from engine.settings.recipe import Recipe
from engine.settings.refusals import refusals
from engine.settings.walk import number_text

WITHOUT_CONVOLUTIONS = frozenset(
    {
        "full-lin",
        "attn-mlp",
        "attn-only",
        "unet-transformer-only",
        "unet-up-blocks",
        "te-only",
        "ia3",
    }
)
"""Choices of layers in which there is no k x k convolution."""


def rules(recipe: Recipe) -> list[Problem]:
    """Everything that contradicts itself in a recipe whose settings are each valid."""
    return [
        problem
        for rule in (_rates, _timesteps, _network, _text_cache, _data, refusals, _name)
        for problem in rule(recipe)
    ]


def trained_rates(recipe: Recipe) -> dict[str, float]:
    """Learning rate of each part that is trained, as far as the recipe tells without the machine.

    A part whose rate is 0, or that the chosen layers leave out, is not in it.
    """
    optim, targets = recipe.optim, recipe.network.targets
    adaptive = optim.optimizer in ADAPTIVE
    lr = optim.lr if optim.lr is not None else (1.0 if adaptive else 1e-4)
    te = optim.te_lr if optim.te_lr is not None else (lr if adaptive else min(5e-5, lr))
    rates = {
        "U-Net": optim.unet_lr if optim.unet_lr is not None else lr,
        "text encoder": te,
    }
    if optim.te2_lr is not None:
        # Left blank it is that of the first; only some bases have a second one.
        rates["second text encoder"] = optim.te2_lr
    own = recipe.network.targets_file is not None
    if targets == "te-only" and not own:
        rates.pop("U-Net")
    if targets.startswith("unet") and not own:
        rates = {part: rate for part, rate in rates.items() if part == "U-Net"}
    return {part: rate for part, rate in rates.items() if rate > 0}


def _rates(recipe: Recipe) -> list[Problem]:
    rates = trained_rates(recipe)
    if not rates:
        return [
            Problem(
                "Nothing would be trained: every learning rate is 0.",
                remedy="Set optim.lr, optim.unet_lr or optim.te_lr above 0.",
                path="optim.lr",
            )
        ]
    return optimizer_rules(recipe, rates)


def _timesteps(recipe: Recipe) -> list[Problem]:
    first, last = recipe.objective.min_timestep, recipe.objective.max_timestep
    if first > last:
        return [
            Problem(
                f"First timestep must be at most the last one, {last} (you wrote {first}).",
                path="objective.min_timestep",
            )
        ]
    if first == 1000:
        return [
            Problem(
                "First timestep must be below 1000, where the noise ends.",
                path="objective.min_timestep",
            )
        ]
    return []


def _network(recipe: Recipe) -> list[Problem]:
    return [
        problem
        for rule in (_full_lokr, _tucker, _blocks, _smallest_rank, _drawn_start)
        for problem in rule(recipe.network)
    ]


def _full_lokr(network: NetworkSection) -> list[Problem]:
    # A rank that is left blank becomes "full" for LoKr.
    if not isinstance(network, Lokr) or isinstance(network.rank, int):
        return []
    problems = []
    if network.rs_lora:
        problems.append(
            Problem(
                "Rank-stabilised scale has no meaning where both factors of LoKr are full.",
                remedy="Give network.rank a number, or switch network.rs_lora off.",
                path="network.rs_lora",
            )
        )
    if network.rank_dropout > 0:
        problems.append(
            Problem(
                "Rank dropout has nothing to drop where both factors of LoKr are full.",
                remedy="Give network.rank a number, or set network.rank_dropout to 0.",
                path="network.rank_dropout",
            )
        )
    if network.decompose_both:
        problems.append(
            Problem(
                "Splitting both factors needs a rank, and both factors of LoKr are full.",
                remedy="Give network.rank a number, or switch network.decompose_both off.",
                path="network.decompose_both",
            )
        )
    return problems


def _tucker(network: NetworkSection) -> list[Problem]:
    own = network.targets_file is not None
    if own or not asked(network, "tucker") or network.targets not in WITHOUT_CONVOLUTIONS:
        return []
    return [
        Problem(
            f"Tucker convolutions need convolutions, and {network.targets} has none.",
            remedy="Set network.targets to full or unet-only, or switch network.tucker off.",
            path="network.tucker",
        )
    ]


def _blocks(network: NetworkSection) -> list[Problem]:
    if not isinstance(network, Dylora):
        return []
    block = network.block_size
    ranks = {"rank": network.rank or DYLORA_RANK, "conv_rank": network.conv_rank or 0}
    return [
        Problem(
            f"DyLoRA draws {block} ranks at a time, and {rank} is no multiple of {block}.",
            remedy=f"Set network.{key} to {max(1, rank // block) * block}"
            f" or {(rank // block + 1) * block}, or change network.block_size.",
            path=f"network.{key}",
        )
        for key, rank in ranks.items()
        if rank % block
    ]


def _smallest_rank(network: NetworkSection) -> list[Problem]:
    if not isinstance(network, TLora) or network.min_rank <= (network.rank or 32):
        return []
    return [
        Problem(
            f"The smallest rank must be at most the rank, {network.rank or 32}"
            f" (you wrote {network.min_rank}).",
            path="network.min_rank",
        )
    ]


def _drawn_start(network: NetworkSection) -> list[Problem]:
    if not isinstance(network, TLora) or network.use_data_init or network.sig_type == "principal":
        return []
    return [
        Problem(
            f"The {network.sig_type} directions of the base are not looked at: the factors start"
            " from random ones.",
            remedy="Switch network.use_data_init on, or set network.sig_type to principal.",
            path="network.sig_type",
        )
    ]


def without_effect(recipe: Recipe, given: Collection[str]) -> list[str]:
    """Sentences about settings of the network that say nothing here, though they do no harm.

    `given` are the dotted paths that a person or a preset has set.
    """
    network = recipe.network
    return [*_idle_convolutions(network, given), *_least_above_convolutions(network)]


def _idle_convolutions(network: NetworkSection, given: Collection[str]) -> list[str]:
    keys = [key for key in ("conv_rank", "conv_alpha") if f"network.{key}" in given]
    if network.targets_file is None and network.targets in WITHOUT_CONVOLUTIONS:
        reason = f"{network.targets} has no convolutions beyond 1 x 1 pixels"
        # Rank 0 asks for none, and there are none.
        keys = [key for key in keys if asked(network, key) != 0 or key == "conv_alpha"]
    elif asked(network, "conv_rank") == 0:
        reason = "network.conv_rank 0 leaves the convolutions out"
        keys = [key for key in keys if key == "conv_alpha"]
    else:
        return []
    if not keys:
        return []
    named = " and ".join(f"network.{key} {number_text(asked(network, key))}" for key in keys)
    return [f"{named} {'have' if len(keys) > 1 else 'has'} no effect: {reason}."]


def _least_above_convolutions(network: NetworkSection) -> list[str]:
    if not isinstance(network, TLora):
        return []
    rank = network.rank or 32
    conv_rank = rank if network.conv_rank is None else network.conv_rank
    if not 0 < conv_rank < network.min_rank <= rank:
        return []
    return [
        f"network.min_rank {network.min_rank} is above the convolution rank, {conv_rank}: in"
        " convolutions every rank learns at any noise."
    ]


def _text_cache(recipe: Recipe) -> list[Problem]:
    optim = recipe.optim
    if optim.te_lr is None and optim.te2_lr is None:
        return []  # whether they are trained goes by the family of the base: `plan` looks again
    return text_cache_problems(recipe)


def text_cache_problems(recipe: Recipe) -> list[Problem]:
    """A cache of captions beside a text encoder that is trained; the text encoders' rates are known."""
    if not recipe.data.cache_text or set(trained_rates(recipe)) <= {"U-Net"}:
        return []
    return [
        Problem(
            "Captions cannot be cached while the text encoder is trained.",
            remedy="Set optim.te_lr to 0, or switch data.cache_text off.",
            path="data.cache_text",
        )
    ]


def _data(recipe: Recipe) -> list[Problem]:
    data = recipe.data
    problems = []
    if data.reg_folder is not None and data.reg_folder == data.folder:
        problems.append(
            Problem(
                "The regularisation folder is the folder with the pictures itself.",
                remedy="Regularisation pictures show the class, not the subject.",
                path="data.reg_folder",
            )
        )
    if not data.separator.strip():
        problems.append(
            Problem("Tag separator must not be blank.", remedy='The usual one is ",".',
                    path="data.separator")
        )  # fmt: skip
    names = [folder.name for folder in data.folders]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(
            Problem(
                f"{name!r} is listed twice in data.folders.",
                remedy="Keep one entry.",
                path="data.folders",
            )
        )
    return problems


def _name(recipe: Recipe) -> list[Problem]:
    if recipe.run.name is None or recipe.run.name.strip(" .") == recipe.run.name:
        return []
    return [
        Problem(
            f'Name must not begin or end with a dot or a space (you wrote "{recipe.run.name}").',
            path="run.name",
        )
    ]
