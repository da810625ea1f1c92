"""A network file as the start of a new run: what it tells, and the answers it already gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import NetworkFileError, Problem
from lyctui import text
from lyctui.draft import Draft, draft_from_recipe
from lyctui.fields import algorithms

if TYPE_CHECKING:
    from engine.networks.content import Content

OF_THE_OLD_RUN = {
    "model": ("path", "vae", "family"),
    "data": ("folder", "reg_folder"),
    "network": ("weights", "targets_file"),
    "train": ("seed", "device", "threads"),
    "save": ("copy_to",),
}
"""Answers of the run that wrote the file which say nothing of a new one: paths, draws, machine."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a network file tells."""

    path: Path
    words: str
    base: str = ""
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_network_facts(path: Path) -> NetworkFacts:
    """Read a file's header and metadata; raises NetworkFileError where no run can start from it."""
    from engine.models.recognise import FAMILY_TITLES
    from engine.networks.content import read_content

    if not path.is_file():
        what = "This is a folder." if path.is_dir() else "There is no such file."
        remedy = "Give a network file: .safetensors."
        raise NetworkFileError(Problem(what, where=str(path), remedy=remedy))
    content = read_content(path)
    if content.foreign is not None:
        raise NetworkFileError(content.foreign)
    main = content.main
    if main not in algorithms():
        what = f"It holds no network of a kind that is trained here ({', '.join(algorithms())})."
        raise NetworkFileError(Problem(what, where=str(path), remedy="Choose another file."))
    answers = answers_in(content.header.metadata)
    network = _network_of(content, answers.pop("network", {}))
    answers["network"] = {**network, "weights": str(path)}
    told = "" if answers.get("data") else "; it carries no recipe, so the rest takes its defaults"
    layers = text.counted(len(content.modules), "layer")
    family = f", of {FAMILY_TITLES[content.family]}" if content.family in FAMILY_TITLES else ""
    words = f"{network['algorithm']}{_size_words(content, network)}, {layers}{family}{told}"
    base = content.header.metadata.get("ss_sd_model_name", "")
    return NetworkFacts(path, words, base=base, answers=answers)


def _network_of(content: Content, carried: Mapping[str, Any]) -> dict[str, Any]:
    """The network as the tensors have it, with what the recipe in the file says of training it."""
    from engine.networks.presets import PRESETS
    from engine.planning.start import COMPARED, start_options, start_values
    from engine.settings.walk import setting

    values = start_values(content) | start_options(content)
    if carried.get("overrides") and carried.get("targets") in PRESETS:
        # They were written for that choice of layers.
        values["targets"] = carried["targets"]
    kept = {
        key: value
        for key, value in carried.items()
        if key not in COMPARED and setting(f"network.{key}", values["algorithm"]) is not None
    }
    return kept | values


def _size_words(content: Content, network: Mapping[str, Any]) -> str:
    """The rank, where the kind of network has one."""
    if "rank" not in network:
        return ""
    ranks = {module.rank for module in content.modules if not module.spatial} - {None}
    return ", several ranks" if len(ranks) > 1 else f", rank {network['rank']}"


def answers_in(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Answers of the run that wrote a file of ours, without what belongs to that run alone."""
    from engine.networks.metadata import recipe_in

    recipe = recipe_in(metadata)
    answers = {name: dict(part) for name, part in recipe.items() if isinstance(part, dict)}
    answers.pop("run", None)
    network = answers.get("network", {})
    if network.get("targets_file"):
        network.pop("overrides", None)  # what they are for is told by that file alone
    for section, keys in OF_THE_OLD_RUN.items():
        for key in keys:
            answers.get(section, {}).pop(key, None)
    for section, values in answers.items():
        # Whoever wrote the file does not say what is read and written on this machine.
        for key in [key for key in values if _is_path(f"{section}.{key}")]:
            del values[key]
    return answers


def _is_path(path: str) -> bool:
    from engine.settings.walk import setting

    row = setting(path)
    return row is not None and row.kind == "path"


def draft_from_network(facts: NetworkFacts) -> Draft:
    """A draft that asks base model and pictures; the rest is as in the file."""
    draft = draft_from_recipe(facts.answers)
    draft.set("network.weights", str(facts.path))
    draft.page = "model"
    draft.visited = ["goal"]
    return draft
