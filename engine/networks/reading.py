"""From the tensors of a file to adapters on the layers they belong to."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from engine.errors import NetworkFileError, Problem
from engine.networks.base import Setup
from engine.networks.choice import Choice
from engine.networks.kinds import algorithm_of, foreign_kind
from engine.networks.names import inert, name_of, name_table, split_key
from engine.networks.network import Member
from engine.networks.table import read
from engine.networks.targets import RealLayer, real_layers


def grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Module name to its tensors by suffix, in the file's order."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, suffix = split_key(key)
        groups.setdefault(name, {})[suffix] = tensor
    return groups


def members_of(
    components: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    setup: Setup,
    choice: Choice | None = None,
) -> tuple[list[Member], list[str]]:
    """Adapters in the model's own order, and the keys that are of no module of a network."""
    foreign = foreign_kind({key: tuple(tensor.shape) for key, tensor in tensors.items()}, metadata)
    if foreign is not None:
        raise NetworkFileError(foreign)
    layers = {(layer.component, layer.path): layer for layer in real_layers(components)}
    table = name_table(layers)
    found: dict[tuple[str, str], tuple[str, dict[str, Tensor]]] = {}
    problems: list[Problem] = []
    left_out: list[str] = []
    for name, group in grouped(tensors).items():
        place = table.get(name)
        if place is None:
            if name.startswith(("lora_", "lycoris_")):
                problems.append(Problem("The model has no such layer.", where=inert(name)))
            else:
                left_out.append(f"{inert(name)} is no part of the network")
        elif place in found:
            problems.append(Problem("A layer is named twice.", where=inert(name)))
        else:
            found[place] = (name, group)
    members = []
    for place in layers:
        if place in found:
            member = _member(layers[place], *found[place], setup, choice, problems)
            if member is not None:
                members.append(member)
    if not members and not problems:
        problems.append(Problem("The file holds no network for this model."))
    if problems:
        raise NetworkFileError(*_few(problems))
    return members, left_out


def _member(
    layer: RealLayer,
    name: str,
    group: Mapping[str, Tensor],
    setup: Setup,
    choice: Choice | None,
    problems: list[Problem],
) -> Member | None:
    algorithm = algorithm_of({suffix: tuple(tensor.shape) for suffix, tensor in group.items()})
    if algorithm is None:
        listed = inert(", ".join(sorted(group)))
        problems.append(Problem(f"These tensors make no known network: {listed}.", inert(name)))
        return None
    ours = name_of(layer.component, layer.path)
    try:
        adapter = read(algorithm, ours, layer.module, group, setup, choice)
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        problems.append(
            Problem(f"It does not fit the layer: {inert(str(error))}.", where=inert(name))
        )
        return None
    return Member(layer.component, layer.path, adapter)


def _few(problems: list[Problem]) -> list[Problem]:
    """All problems as far as they can be read; the rest as a number."""
    if len(problems) <= 5:
        return problems
    rest = Problem(
        f"And {len(problems) - 5} more of this kind.",
        remedy="The file is for another base model, or of another kind.",
    )
    return [*problems[:5], rest]
