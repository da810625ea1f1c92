"""What a network file is and holds, for people and for scripts. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from engine.errors import Problem
from engine.networks.consumers import TITLES, attention_of, parts_of, readers
from engine.networks.content import Content, Module, read_content
from engine.networks.headers import read_scalars
from engine.networks.layouts_glora import A1, A2
from engine.networks.metadata import has_recipe
from engine.networks.names import inert, inert_text

TRAINING = {
    "ss_sd_model_name": "base model",
    "ss_num_train_images": "pictures, with repeats",
    "ss_num_epochs": "epochs",
    "ss_steps": "steps",
    "ss_total_batch_size": "batch",
    "ss_learning_rate": "learning rate",
    "ss_unet_lr": "U-Net learning rate",
    "ss_text_encoder_lr": "text encoder learning rate",
    "ss_optimizer": "optimizer",
    "ss_lr_scheduler": "schedule",
    "ss_resolution": "resolution",
    "ss_clip_skip": "clip skip",
    "ss_network_module": "network module",
    "ss_seed": "seed",
    "ss_training_comment": "comment",
}
"""Metadata of kohya's tools, to what they are called here."""
UNTOLD = frozenset({"", "None", "null"})
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
    algorithms: dict[str, int] = field(default_factory=dict)
    """Algorithm to number of modules."""
    left_out: tuple[str, ...] = ()
    """Tensors of no module, by name, and why."""
    training: dict[str, str] = field(default_factory=dict)
    """What is told of the training, in words a person knows."""
    readers: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Program to "yes", "partly" or "no", and what there is to know."""
    family_of_tensors: str = ""
    """sd1, sd2 or sdxl, as names and shapes tell it; empty where they do not."""
    is_network: bool = True
    """Whether the file can be used, though perhaps not trained on here."""

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
        algorithms=dict(Counter(module.algorithm for module in content.modules).most_common()),
        left_out=content.left_out,
        training=_training(told),
        readers=_readers(content) if content.modules else {},
        family_of_tensors=content.family or "",
        is_network=bool(content.modules) and not content.unknown,
    )


def _training(told: Mapping[str, str]) -> dict[str, str]:
    found = {words: told[key] for key, words in TRAINING.items() if told.get(key, "") not in UNTOLD}
    if "learning rate" not in found and "U-Net learning rate" in found:
        found["learning rate"] = found.pop("U-Net learning rate")
    return found


def _readers(content: Content) -> dict[str, tuple[str, str]]:
    shapes = {module.name: module.shapes for module in content.sources}
    old = {
        module.name
        for module in content.sources
        if A1 in module.tensors and module.tensors[A1].key.endswith(A2)
    }
    parts = parts_of(shapes, on_input=_on_input(content), old=old)
    found = readers(parts, attention_of(shapes, content.family))
    return {TITLES[program]: (verdict.level, verdict.reason) for program, verdict in found.items()}


def _on_input(content: Content) -> set[str]:
    """Modules of an (IA)³ that scale inputs."""
    keys = {
        module.tensors["on_input"].key: module.name
        for module in content.sources
        if "on_input" in module.tensors
    }
    flags = read_scalars(content.header, keys)
    return {name for key, name in keys.items() if flags.get(key)}


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
