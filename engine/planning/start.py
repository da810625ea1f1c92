"""A network file as the start of a run: the answers that its header gives, and the wrong ones. No torch."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from engine.errors import NetworkFileError, Problem
from engine.networks.content import Content, Module, read_content, recipe_differences
from engine.networks.metadata import recipe_in
from engine.settings.network import TargetPreset

if TYPE_CHECKING:
    from engine.settings import Recipe

COMPARED = ("algorithm", "rank", "alpha")


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


def start_values(content: Content) -> dict[str, Any]:
    """Network settings as the file has them, the most frequent where modules differ."""
    spatial = [module for module in content.modules if module.spatial]
    plain = [module for module in content.modules if not module.spatial] or spatial
    if not content.algorithms:
        return {}
    algorithm = content.algorithms[0]
    if algorithm == "lora" and spatial:
        algorithm = "locon"
    rank = _commonest(module.rank for module in plain)
    found = {
        "algorithm": algorithm,
        "rank": "full" if rank is None and algorithm == "lokr" else rank,
        "alpha": _alpha(plain),
        "conv_rank": _commonest(module.rank for module in spatial),
        "conv_alpha": _alpha(spatial),
        "targets": _targets(content, bool(spatial)),
    }
    return {key: value for key, value in found.items() if value is not None}


def start_problems(recipe: Recipe) -> tuple[Problem, ...]:
    """Why a run cannot start from `network.weights` as the recipe has it."""
    network = recipe.network
    if network.weights is None:
        return ()
    try:
        content = start_content(network.weights)
    except NetworkFileError as error:
        return error.problems
    if content.foreign is not None:
        return (content.foreign,)
    typed = {key: getattr(network, key) for key in COMPARED if key in network.model_fields_set}
    return tuple(recipe_differences(content, typed))


def _commonest(values: Iterable[Any]) -> Any:
    counted = Counter(value for value in values if value is not None)
    return counted.most_common(1)[0][0] if counted else None


def _alpha(modules: Iterable[Module]) -> float | None:
    # Alpha says nothing where both factors are full.
    alpha: float | None = _commonest(module.alpha for module in modules if module.rank is not None)
    return alpha


def _targets(content: Content, spatial: bool) -> str:
    with contextlib.suppress(NetworkFileError, AttributeError):
        # The file's words are anybody's: only a name that is known counts.
        told = recipe_in(content.header.metadata).get("network", {}).get("targets")
        if told in get_args(TargetPreset):
            return str(told)
    unet = len(content.modules) - content.component("lora_te")
    if unet == 0:
        return "te-only"
    if unet == len(content.modules):
        return "unet-only" if spatial else "unet-transformer-only"
    return "full" if spatial else "attn-mlp"
