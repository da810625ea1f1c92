"""Blanks of the network: those of the file that it starts from, else the usual sizes."""

from __future__ import annotations

from pydantic import ValidationError

from engine.errors import NetworkFileError
from engine.planning import proposals
from engine.planning.filler import Filler
from engine.planning.start import COMPARED, start_content, start_options, start_values
from engine.settings import Recipe
from engine.settings.network import DYLORA_RANK, Dylora, asked

RANKS = {
    "loha": (16, "guide 003; two pairs of rank 16 reach rank 256 together"),
    "glora": (16, "two pairs of it are as large as a LoRA of rank 32"),
    "dylora": (DYLORA_RANK, "guide 001: a large one, to cut a smaller one from afterwards"),
    "diag-oft": (32, "blocks of up to 32 outputs"),
    "boft": (32, "blocks of up to 32 outputs; every width of these models can be cut so"),
}
"""Usual rank where it is not that of a LoRA, and why."""


def fill_start(filler: Filler) -> None:
    """A run that starts from a network file has that file's network, unless the user says otherwise."""
    weights = filler.recipe.network.weights
    if weights is None:
        return
    chosen = filler.recipe.network.algorithm if filler.typed("network.algorithm") else None
    try:
        content = start_content(weights)
        values = start_values(content, chosen) | start_options(content, chosen)
    except NetworkFileError:
        return  # the plan says what is wrong with the file
    wanted = values.pop("algorithm", None)
    if wanted is None:
        return
    if chosen is None:
        _become(filler, wanted)
    if chosen is None and filler.recipe.network.algorithm == wanted:
        filler.put("network.algorithm", wanted, "detected", f"as in {weights.name}")
    if filler.recipe.network.overrides and not filler.unset("network.targets"):
        values.pop("targets", None)  # the overrides were written for that choice of layers
    fields = type(filler.recipe.network).model_fields
    for key in COMPARED:
        # What a preset says of a network's form goes with the network that it was said of.
        path = f"network.{key}"
        if key in ("algorithm", *values) or not filler.known(path) or filler.unset(path):
            continue
        if not filler.typed(path):
            filler.put(path, fields[key].default, "default", "")
    for key, value in values.items():
        # A value that the other algorithm lacks is one the user contradicts: the plan refuses it.
        if key == "rank" and value == "full" and filler.recipe.network.algorithm != "lokr":
            continue
        if filler.known(f"network.{key}") and not filler.typed(f"network.{key}"):
            filler.put(f"network.{key}", value, "detected", f"as in {weights.name}")


def _become(filler: Filler, algorithm: str) -> None:
    """Change the algorithm; settings that the new one lacks go, and so do the old sizes."""
    network = filler.recipe.network
    if algorithm == network.algorithm:
        return
    bare = Recipe.model_validate({"network": {"algorithm": algorithm}}).network
    kept = {
        key: getattr(network, key)
        for key in network.model_fields_set & set(type(bare).model_fields)
        if key not in ("algorithm", "rank", "alpha") or filler.typed(f"network.{key}")
    }
    values = {**kept, "algorithm": algorithm}
    try:
        changed = Recipe.model_validate({"network": values}).network
    except ValidationError:
        return  # a typed value that the file's algorithm cannot have: the plan refuses the mix
    filler.recipe = filler.recipe.model_copy(update={"network": changed})


def fill_network(filler: Filler) -> None:
    """Layers, rank, alpha and the sizes of convolutions."""
    algorithm = filler.recipe.network.algorithm
    if algorithm == "locon" and filler.unset("network.targets"):
        reason = "LoCon adds convolutions; without them it is plain LoRA"
        filler.put("network.targets", "full", "default", reason)
    if algorithm == "ia3" and filler.unset("network.targets"):
        reason = "keys, values and the middle of the feed-forward, as its paper has it"
        filler.put("network.targets", "ia3", "default", reason)
    if not filler.known("network.rank"):
        return
    if algorithm == "lokr":
        filler.fill("network.rank", "full", "default", "guide 003 trains LoKr with full factors")
    else:
        small = proposals.largest_rank(filler.device, filler.base.family)
        rank, why = RANKS.get(algorithm, (32, "guides 002 and 004 start with it"))
        if small is not None and int(small.value) < rank:
            filler.propose("network.rank", _in_blocks(filler, small))
        filler.fill("network.rank", rank, "default", why)
    _scale(filler)


def _in_blocks(filler: Filler, small: proposals.Proposal) -> proposals.Proposal:
    """A rank that memory allows, lowered to a multiple of the block where an algorithm has blocks."""
    network, rank = filler.recipe.network, int(small.value)
    if not isinstance(network, Dylora):
        return small
    blocks = max(1, rank // network.block_size)
    return proposals.Proposal(blocks * network.block_size, small.reason)


def _scale(filler: Filler) -> None:
    """Alpha, and rank and alpha of convolutions, as far as the algorithm has them."""
    rank = asked(filler.recipe.network, "rank")
    if not filler.known("network.alpha"):
        filler.fill("network.conv_rank", min(rank, 1024), "default", "as the rank")
        return
    # The optimizer is filled later, but only a chosen one can be adaptive.
    if not isinstance(rank, int):
        filler.fill("network.alpha", 1.0, "default", "no effect where both factors are full")
        return
    if filler.adaptive:
        filler.fill("network.alpha", float(rank), "default", "the rank, for adaptive optimizers")
    else:
        filler.fill("network.alpha", rank / 2, "default", "half of the rank (guides 000 and 002)")
    alpha = asked(filler.recipe.network, "alpha")
    filler.fill("network.conv_rank", min(rank, 1024), "default", "as the rank")
    filler.fill("network.conv_alpha", alpha, "default", "as the alpha")
