"""A network file as the start of a new run: what it tells, and the answers it already gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import NetworkFileError, Problem
from lyctui.draft import Draft, draft_from_recipe
from lyctui.fields import algorithms

if TYPE_CHECKING:
    from engine.networks.content import Module

OF_THE_OLD_RUN = {
    "model": ("path", "vae"),
    "data": ("folder", "reg_folder"),
    "network": ("weights",),
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
    from engine.networks.content import read_content

    if not path.is_file():
        what = "This is a folder." if path.is_dir() else "There is no such file."
        remedy = "Give a network file: .safetensors."
        raise NetworkFileError(Problem(what, where=str(path), remedy=remedy))
    content = read_content(path)
    if content.foreign is not None:
        raise NetworkFileError(content.foreign)
    known = [name for name in content.algorithms if name in algorithms()]
    if not known:
        what = f"It holds no network of a kind that is trained here ({', '.join(algorithms())})."
        raise NetworkFileError(Problem(what, where=str(path), remedy="Choose another file."))
    answers = answers_in(content.header.metadata)
    answers.setdefault("network", {}).update(
        _network_of(content.modules, known[0]), weights=str(path)
    )
    rank = answers["network"].get("rank")
    size = f", rank {rank}" if rank is not None else ", several ranks"
    told = "" if answers.get("data") else "; it carries no recipe, so the rest takes its defaults"
    words = f"{answers['network']['algorithm']}{size}, {len(content.modules)} layers{told}"
    base = content.header.metadata.get("ss_sd_model_name", "")
    return NetworkFacts(path, words, base=base, answers=answers)


def _network_of(modules: Sequence[Module], algorithm: str) -> dict[str, Any]:
    """Algorithm, rank and alpha as the tensors have them; a rank that differs between layers is left out."""
    plain = [module for module in modules if not module.spatial] or list(modules)
    spatial = [module for module in modules if module.spatial]
    if algorithm == "lora" and spatial:
        algorithm = "locon"
    found: dict[str, Any] = {"algorithm": algorithm}
    ranks = {module.rank for module in plain}
    alphas = {module.alpha for module in plain if module.rank is not None}
    if len(ranks) == 1:
        rank = ranks.pop()
        if rank is not None or algorithm == "lokr":
            found["rank"] = "full" if rank is None else rank
    if len(alphas) == 1 and (alpha := alphas.pop()) is not None:
        found["alpha"] = alpha
    return found


def answers_in(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Answers of the run that wrote a file of ours, without what belongs to that run alone."""
    from engine.networks.metadata import recipe_in

    answers: dict[str, Any] = dict(recipe_in(metadata))
    for section in ("run", "version"):
        answers.pop(section, None)
    for section, keys in OF_THE_OLD_RUN.items():
        for key in keys:
            answers.get(section, {}).pop(key, None)
    network = answers.get("network", {})
    for key in ("rank", "alpha", "algorithm"):
        network.pop(key, None)
    return answers


def draft_from_network(facts: NetworkFacts) -> Draft:
    """A draft that asks base model and pictures; the rest is as in the file."""
    draft = draft_from_recipe(facts.answers)
    draft.set("network.weights", str(facts.path))
    draft.page = "model"
    draft.visited = ["goal"]
    return draft
