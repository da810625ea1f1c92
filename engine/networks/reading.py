"""From the tensors of a file to adapters on the layers they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.base import Adapter, Setup
from engine.networks.choice import Choice
from engine.networks.dora_rules import mixed_dora
from engine.networks.kinds import algorithm_of, foreign_kind
from engine.networks.layout_family import family_of_file, family_of_layers, wrong_family
from engine.networks.layouts import (
    ALPHA,
    Found,
    Shape,
    Sorted,
    alpha_fault,
    faults,
    few,
    placed,
    sort_out,
    unknown_module,
)
from engine.networks.names import file_names, name_table
from engine.networks.network import Member
from engine.networks.t_lora import TLora
from engine.networks.table import ALGORITHMS, read
from engine.networks.targets import RealLayer, real_layers

NORM = "norm"
MISFITS = (ValueError, KeyError, IndexError, RuntimeError, TypeError, ArithmeticError)
"""What tensors of the wrong shapes lead to."""


def sorted_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Sorted:
    """The modules that a file's tensors make; raises NetworkFileError for a file of another kind."""
    shapes: dict[str, Shape] = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    foreign = foreign_kind(shapes)
    if foreign is not None:
        raise NetworkFileError(foreign)
    found = sort_out(shapes, metadata)
    if not found.modules:
        raise NetworkFileError(Problem("This is no network file that is known."))
    return found


def gathered(module: Found, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's tensors by our suffix, in our shapes and with its alpha; no weight is copied."""
    group = {
        suffix: tensors[source.key].reshape(source.shape)
        for suffix, source in module.tensors.items()
    }
    if module.alpha is not None:
        group[ALPHA] = torch.tensor(module.alpha, dtype=torch.float32)
    return group


def grouped(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Tensors of a file of any layout by module name and our suffix, without a base model.

    Names are kohya's, in the style of blocks that the file has. Raises NetworkFileError.
    """
    found = sort_out({key: tuple(tensor.shape) for key, tensor in tensors.items()}, metadata or {})
    return {module.name: gathered(module, tensors) for module in found.modules}


def members_of(
    components: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    setup: Setup,
    choice: Choice | None = None,
) -> tuple[list[Member], list[str]]:
    """Adapters in the model's own order, and what of the file is left out, in words.

    Raises NetworkFileError with everything that is wrong.
    """
    found = sorted_tensors(tensors, metadata)
    layers = {(layer.component, layer.path): layer for layer in real_layers(components)}
    family = family_of_file(found.modules, metadata)
    stranger = wrong_family(family, family_of_layers(layers.values()))
    if stranger is not None:
        raise NetworkFileError(stranger)
    modules, problems = placed(found.modules, name_table(layers))
    names = file_names(layers)
    members = []
    for place, layer in layers.items():
        if place in modules:
            module = modules[place]
            adapter = _adapter(layer, names[place], module, tensors, setup, choice)
            if isinstance(adapter, Adapter):
                members.append(Member(*place, adapter))
            else:
                problems += adapter
    if problems:
        raise NetworkFileError(*few(problems))
    return members, [*found.left_out, *_notes(modules, members)]


def _notes(modules: Mapping[tuple[str, str], Found], members: Sequence[Member]) -> list[str]:
    """What a person should know of modules that are read all the same."""
    parts: dict[str, dict[str, Mapping[str, Shape]]] = {}
    for (component, _), module in modules.items():
        parts.setdefault(component, {})[inert(module.spelled)] = module.shapes
    notes = [problem.what for problem in mixed_dora(parts)]
    derived = sum(isinstance(one.adapter, TLora) and one.adapter.derived for one in members)
    if derived:
        notes.append(f"the fixed factors of {derived} modules were taken from this base")
    return notes


def _adapter(
    layer: RealLayer,
    name: str,
    module: Found,
    tensors: Mapping[str, Tensor],
    setup: Setup,
    choice: Choice | None,
) -> Adapter | list[Problem]:
    where = inert(module.spelled)
    algorithm = algorithm_of(module.shapes)
    if algorithm is None or algorithm not in ALGORITHMS:
        return [unknown_module(module)]
    problems = faults(module)
    if (algorithm == NORM) != (layer.kind == NORM):
        problems.append(
            Problem("It does not fit the layer: norms have a network of their own.", where)
        )
    if problems:
        return problems
    group = gathered(module, tensors)
    if ALPHA in group:
        group[ALPHA] = group[ALPHA].reshape(())
        fault = alpha_fault(module, float(group[ALPHA]))
        if fault is not None:
            return [fault]
    try:
        return read(algorithm, name, layer.module, group, setup, choice)
    except MISFITS as error:
        return [Problem(f"It does not fit the layer: {inert(str(error))}.", where=where)]
