"""What a network file is and holds, for people and for scripts. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engine.errors import Problem
from engine.networks.content import Content, Module, read_content
from engine.networks.metadata import has_recipe
from engine.networks.names import inert, inert_text

COMPONENTS = {
    "unet": ("lora_unet_", "lycoris_"),
    "te": ("lora_te_", "lora_te1_"),
    "te2": ("lora_te2_",),
}


@dataclass(frozen=True, slots=True)
class Info:
    """What `lyctui info` tells. Texts from the file are free of control characters."""

    path: str
    bytes: int
    algorithm: str
    """Of most modules; empty where there is none that is known."""
    ranks: dict[str, int]
    """Rank ("full" where both factors are) to number of modules."""
    alphas: dict[str, int]
    scales: dict[str, int]
    """What consumers multiply by, alpha / rank, to number of modules."""
    components: dict[str, int]
    """Part of the base to number of modules."""
    modules: tuple[Module, ...]
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    family: str
    """Of the base model, as the file tells it; empty where it does not."""
    trigger: str
    resumable: bool
    """Whether a new run can start from its weights."""
    has_recipe: bool
    problems: tuple[Problem, ...]
    """Why not."""
    metadata: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it: modules as a number, problems as texts."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["modules"] = len(self.modules)
        plain["problems"] = [asdict(problem) for problem in self.problems]
        return plain


def describe(path: Path) -> Info:
    """Look into a file; raises NetworkFileError where it is not readable at all."""
    content = read_content(path)
    header = content.header
    told = {inert(key): inert_text(text) for key, text in header.metadata.items()}
    weights = [entry for key, entry in header.entries.items() if not key.endswith(".alpha")]
    problems = _problems(content)
    return Info(
        path=str(path),
        bytes=header.bytes,
        algorithm=next(iter(content.algorithms), ""),
        ranks=_counted(content, lambda module: "full" if module.rank is None else module.rank),
        alphas=_counted(content, lambda module: module.alpha),
        scales=_counted(content, lambda module: module.scale),
        components=_by_component(content),
        modules=content.modules,
        tensors=len(header.entries),
        parameters=sum(math.prod(entry.shape) for entry in weights),
        dtypes=dict(Counter(entry.dtype for entry in weights)),
        family=_family(told),
        trigger=told.get("modelspec.trigger_phrase", ""),
        resumable=not problems,
        has_recipe=has_recipe(header.metadata),
        problems=problems,
        metadata=told,
    )


def _problems(content: Content) -> tuple[Problem, ...]:
    if content.foreign is not None:
        return (content.foreign,)
    if not content.modules:
        return (Problem("The file holds no network that is known.", remedy="Give another file."),)
    return ()


def _family(told: dict[str, str]) -> str:
    own = told.get("lyctui.family") or told.get("ss_base_model_version", "")
    return own or told.get("modelspec.architecture", "").removesuffix("/lora")


def _by_component(content: Content) -> dict[str, int]:
    found = {
        component: sum(content.component(prefix) for prefix in prefixes)
        for component, prefixes in COMPONENTS.items()
    }
    return {component: count for component, count in found.items() if count}


def _counted(content: Content, value: Callable[[Module], object]) -> dict[str, int]:
    return dict(Counter(_short(value(module)) for module in content.modules).most_common())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
