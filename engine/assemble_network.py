"""From a filled recipe to the network that is trained, and the rates of its parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import Problem, RecipeError
from engine.planning.rules import network_choice, part_rates
from engine.planning.start import start_problems

if TYPE_CHECKING:
    from engine.models.family import BaseModel
    from engine.networks.network import Network
    from engine.settings import Recipe

TEXT_PARTS = frozenset({"te", "te2"})


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network beside its base, not injected yet."""

    network: Network
    rates: dict[str, float]
    """Base rate of each part that has something to train; never empty."""
    parent_sha256: str | None
    """Of the file that it starts from."""
    notices: tuple[str, ...]

    @property
    def trains_text(self) -> bool:
        """Whether gradients reach a text encoder."""
        return not TEXT_PARTS.isdisjoint(self.rates)


def trained_network(recipe: Recipe, model: BaseModel) -> TrainedNetwork:
    """The network of a recipe on its base; raises RecipeError where nothing would be trained."""
    wanted = trained_rates(recipe, model.components())
    network, parent_sha256 = _build(recipe, model, tuple(wanted))
    rates = {part: rate for part, rate in wanted.items() if list(network.parameters(part))}
    if not rates:
        raise RecipeError(_nothing_trained(recipe))
    _freeze_others(network, rates)
    return TrainedNetwork(network, rates, parent_sha256, _notices(network, wanted, rates))


def trained_rates(recipe: Recipe, parts: Collection[str]) -> dict[str, float]:
    """Base rate of each part that is trained; `parts` are those that the base model has."""
    rates = part_rates(recipe.optim)
    return {part: rate for part, rate in rates.items() if part in parts and rate > 0}


def _build(
    recipe: Recipe, model: BaseModel, trained: tuple[str, ...]
) -> tuple[Network, str | None]:
    """A fresh network, or the one of `network.weights` with the sha256 of its file."""
    from engine.checkpoint.atomic import file_sha256
    from engine.networks.files import read_network
    from engine.networks.network import build, from_file

    choice = network_choice(recipe.network)
    seed = recipe.train.seed or 0
    weights = recipe.network.weights
    if weights is None:
        return build(model.components(), choice, seed=seed, trained=trained), None
    path = weights.expanduser()
    problems = start_problems(recipe, model.family)
    if problems:
        raise RecipeError(*problems)
    file = read_network(path)
    network = from_file(
        model.components(),
        file.tensors,
        file.metadata,
        seed=seed,
        choice=choice,
    )
    return network, file_sha256(path)


def _nothing_trained(recipe: Recipe) -> Problem:
    return Problem(
        "Nothing would be trained: every learning rate is 0, or the layers chosen have none.",
        path="optim.lr",
        remedy=f"Set optim.unet_lr or optim.te_lr above 0, or network.targets to another value "
        f"than {recipe.network.targets}.",
    )


def _freeze_others(network: Network, rates: Mapping[str, float]) -> None:
    """Parts of a network file that are not trained on stay as they are, and in the file."""
    for member in network.members:
        if member.component not in rates:
            member.adapter.requires_grad_(False)


def _notices(
    network: Network, wanted: Mapping[str, float], rates: Mapping[str, float]
) -> tuple[str, ...]:
    missing = [part for part in wanted if part not in rates]
    return (
        *network.skipped,
        *(f"There is no layer to train in the part {part}." for part in missing),
    )
