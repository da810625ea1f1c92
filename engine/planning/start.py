"""A network file as the start of a run: the answers that its header gives, and the wrong ones. No torch."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.errors import NetworkFileError, Problem
from engine.models.architecture import full_size
from engine.models.shapes import layer_shapes
from engine.networks.choice import spans
from engine.networks.content import Content, read_content, recipe_differences
from engine.networks.layout_family import wrong_family
from engine.networks.metadata import recipe_in
from engine.networks.names import Place, name_table
from engine.networks.presets import PRESETS, selected
from engine.networks.told import FORMS, NORM, Told, told_settings
from engine.settings import Recipe
from engine.settings.network import Dylora, NetworkSection, TLora, asked

SIZES = ("rank", "alpha", "conv_rank", "conv_alpha")
OPTIONS = (*FORMS, "rs_lora", "train_norm")
COMPARED = ("algorithm", *SIZES, *OPTIONS)
"""Settings that a file decides: others of the recipe hold for what is trained on."""


def start_content(path: Path) -> Content:
    """What the file holds; read again only when it has changed. Raises NetworkFileError."""
    path = path.expanduser()
    try:
        status = path.stat()
    except OSError as error:
        what = f"The network file cannot be read: {error.strerror}."
        remedy = "Give a network file, or leave network.weights out."
        raise NetworkFileError(
            Problem(what, where=str(path), path="network.weights", remedy=remedy)
        ) from None
    return _content(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _content(path: Path, changed: int, size: int) -> Content:
    del changed, size  # only to tell a changed file from the one that was read
    return read_content(path)


def start_values(content: Content, algorithm: str | None = None) -> dict[str, Any]:
    """Kind, sizes and layers of the network as the file has them, the most frequent where they differ.

    `algorithm` is one that the user chose; empty for a file without a network beside its norms.
    """
    if content.main is None:
        return {}
    kind: str = content.main
    if kind == "lora" and any(module.spatial for module in content.modules):
        kind = "locon"
    if _own_dylora(content, algorithm) is not None:
        kind = "dylora"
    told = _told(content, algorithm)
    values = {"algorithm": kind} | {key: told[key].value for key in SIZES if key in told}
    layers = _layers(content)
    if layers is not None:
        targets, spatial = layers
        values["targets"] = targets
        if not spatial:
            values["conv_rank"] = 0
    return values


def start_options(content: Content, algorithm: str | None = None) -> dict[str, Any]:
    """Every other setting that the tensors tell, and those that a file of ours tells of training."""
    told = _told(content, algorithm)
    values = {key: told[key].value for key in OPTIONS if key in told}
    own, dylora = _own_network(content), _own_dylora(content, algorithm)
    if dylora is not None:
        values |= {"block_size": dylora.block_size, "detach_lower": dylora.detach_lower}
    if content.main == "t-lora" and isinstance(own, TLora):
        keys = ("min_rank", "mask_alpha", "sig_type", "use_data_init")
        values |= {key: getattr(own, key) for key in keys}
    return values


def start_problems(recipe: Recipe, base: str | None = None) -> tuple[Problem, ...]:
    """Why a run cannot start from `network.weights` as the recipe has it.

    `base` is the family of the base model, where it is known.
    """
    network = recipe.network
    if network.weights is None:
        return ()
    try:
        content = start_content(network.weights)
    except NetworkFileError as error:
        return error.problems
    if content.foreign is not None:
        return (content.foreign,)
    stranger = family_problem(network.weights, base)
    if stranger is not None:
        return (stranger,)
    if content.main is None:
        what = "The file holds trained norms alone, and no network to go on with."
        remedy = "Give a file that has a network beside its norms."
        where = str(network.weights)
        return (Problem(what, where=where, path="network.weights", remedy=remedy),)
    typed = {key: asked(network, key) for key in COMPARED if key in network.model_fields_set}
    told = _told(content, typed.get("algorithm"))
    return (*recipe_differences(content, typed, told), *_beyond(network))


def family_problem(weights: Path | None, base: str | None) -> Problem | None:
    """Why a file to start from does not go with the base's family; None where either is not known."""
    if weights is None or base is None:
        return None
    try:
        stranger = wrong_family(start_content(weights).family, base)
    except NetworkFileError:
        return None
    return replace(stranger, where=str(weights)) if stranger is not None else None


def _beyond(network: NetworkSection) -> list[Problem]:
    """Values of a file that no recipe can hold, so that the run could not be read again."""
    try:
        type(network).model_validate(network.model_dump(exclude_unset=True))
    except ValidationError as error:
        return [
            Problem(
                f"The file's {fault['loc'][0]} {fault['input']} is beyond what a run can have.",
                where=str(network.weights),
                path=f"network.{fault['loc'][0]}",
                remedy="Give a smaller network: lyctui resize makes one.",
            )
            for fault in error.errors()
            if fault["loc"]
        ]
    return []


def _told(content: Content, algorithm: str | None) -> dict[str, Told]:
    own, dylora = _own_network(content), _own_dylora(content, algorithm)
    keys = ("rank", "conv_rank", "factor")
    hints = {} if own is None else {key: asked(own, key) for key in keys}
    root = dylora is not None and dylora.rs_lora
    return told_settings(content, algorithm, hints=hints, root=root)


def _own_network(content: Content) -> NetworkSection | None:
    """The network of the run that wrote a file of ours; the words in a file are anybody's."""
    return _network_in(content.header.metadata.get("lyctui.recipe", ""))


@lru_cache(maxsize=8)
def _network_in(text: str) -> NetworkSection | None:
    with contextlib.suppress(NetworkFileError, ValidationError):
        section = recipe_in({"lyctui.recipe": text}).get("network")
        if isinstance(section, dict):
            return Recipe.model_validate({"network": section}).network
    return None


def _own_dylora(content: Content, algorithm: str | None) -> Dylora | None:
    """The DyLoRA that a file of ours is, which a LoRA's tensors do not tell.

    Its scale also goes with the ranks drawn, so that a rank-stabilised one stays so.
    """
    own = _own_network(content)
    if not isinstance(own, Dylora) or content.main != "lora" or algorithm not in (None, "dylora"):
        return None
    loras = [module for module in content.modules if module.algorithm == "lora"]
    cut = all(module.rank and module.rank % own.block_size == 0 for module in loras)
    plain = all(
        "off" in module.forms.get("dora", ()) and True not in module.forms.get("tucker", ())
        for module in loras
    )
    return own if cut and plain else None


def _layers(content: Content) -> tuple[str, bool] | None:
    """The smallest choice of layers that has all of the file's, and whether with k x k convolutions.

    Which layers a choice has follows from their names, which all bases of the family share; Stable
    Diffusion 1 stands for a file that does not tell its family. None where none of its layers is known.
    """
    family = content.family or "sd1"
    table = _names(family)
    found = {table.get(module.name) for module in content.modules if module.algorithm != NORM}
    places = {place for place in found if place is not None}
    spatial = any(module.spatial for module in content.modules)
    fitting = [
        (len(choice), name, with_spatial)
        for (name, with_spatial), choice in _choices(family).items()
        if places <= choice and (with_spatial or not spatial)
    ]
    if not places or not fitting:
        return None
    _, name, with_spatial = min(fitting, key=lambda one: one[0])
    return name, with_spatial


@lru_cache(maxsize=3)
def _names(family: str) -> dict[str, Place]:
    layers = layer_shapes(full_size(family))
    return name_table((layer.component, layer.path) for layer in layers)


@lru_cache(maxsize=3)
def _choices(family: str) -> dict[tuple[str, bool], frozenset[Place]]:
    """Layers of every ready choice, and of each with k x k convolutions also those left without."""
    layers = layer_shapes(full_size(family))
    choices: dict[tuple[str, bool], frozenset[Place]] = {}
    for with_spatial in (True, False):
        for name, preset in PRESETS.items():
            chosen = selected(layers, name, spatial=with_spatial)
            if with_spatial or (preset.spatial and any(not spans(one.kernel) for one in chosen)):
                places = frozenset((layer.component, layer.path) for layer in chosen)
                choices[name, with_spatial] = places
    return choices
