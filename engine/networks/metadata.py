"""What a network file says of itself: kohya's `ss_`, Stability's `modelspec.` and our own keys. No torch.

Plain values in, text out. Local paths are cut to names here, in every mode.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import NetworkFileError, Problem
from engine.toml_text import parse_toml

Plain = str | int | float | bool | None
Mode = Literal["full", "private", "minimal"]

FOLDERS = ("dataset_dirs", "reg_dataset_dirs", "tag_frequency")
NAMES = ("sd_model_name", "vae_name")
PRIVATE = (*FOLDERS, "training_comment")
MINIMAL = (
    "v2",
    "base_model_version",
    "network_module",
    "network_dim",
    "network_alpha",
    "network_args",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """Values of one file. Every mapping's keys are written as they stand, under its prefix."""

    training: Mapping[str, Plain | Mapping[str, Any]]
    """`ss_` keys without the prefix; a mapping is written as JSON."""
    title: str
    architecture: str
    """stable-diffusion-v1 and its like, without "/lora"."""
    version: str
    """Of this program."""
    date: str
    """ISO, with time zone."""
    resolution: tuple[int, int]
    prediction: str
    """epsilon or v."""
    clip_skip: int
    timesteps: tuple[int, int]
    modelspec: Mapping[str, str] = field(default_factory=dict)
    """author, description, license, tags, usage_hint, trigger_phrase, as far as they are known."""
    recipe: str = ""
    """The recipe as TOML, local paths cut to names by whoever wrote it."""
    own: Mapping[str, Plain | Mapping[str, Any]] = field(default_factory=dict)
    """Further `lyctui.` keys without the prefix: family, parent, lineage, seed, peak memory."""
    mode: Mode = "full"


def network_metadata(facts: NetworkFacts) -> dict[str, str]:
    """All metadata of a file but the hashes, which its writing adds."""
    found = _training(facts) | _modelspec(facts)
    if facts.mode != "minimal":
        found["lyctui.version"] = facts.version
        if facts.recipe and facts.mode == "full":
            found["lyctui.recipe"] = facts.recipe
        found |= {f"lyctui.{key}": as_text(value) for key, value in facts.own.items()}
    return found


def _training(facts: NetworkFacts) -> dict[str, str]:
    found = {}
    for key, value in facts.training.items():
        if facts.mode == "minimal" and key not in MINIMAL:
            continue
        if facts.mode == "private" and key in PRIVATE:
            continue
        if key in NAMES and isinstance(value, str):
            value = name_only(value)
        if key in FOLDERS and isinstance(value, Mapping):
            value = {name_only(folder): content for folder, content in value.items()}
        found[f"ss_{key}"] = as_text(value)
    return found


def _modelspec(facts: NetworkFacts) -> dict[str, str]:
    width, height = facts.resolution
    found = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{facts.architecture}/lora",
        "implementation": "diffusers",
        "implementation_version": f"lyctui {facts.version}",
        "title": facts.title,
        "resolution": f"{width}x{height}",
        "date": facts.date,
        "prediction_type": facts.prediction,
        "encoder_layer": str(facts.clip_skip),
        "timestep_range": f"{facts.timesteps[0]},{facts.timesteps[1]}",
    }
    more = {key: text for key, text in facts.modelspec.items() if text}
    return {f"modelspec.{key}": text for key, text in (found | more).items()}


def as_text(value: Plain | Mapping[str, Any]) -> str:
    """As kohya's tools write it: None and True as words, mappings as JSON."""
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def name_only(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def recipe_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The recipe that a file of ours carries; empty where it carries none."""
    text = metadata.get("lyctui.recipe", "")
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise NetworkFileError(
            Problem(
                "The recipe inside the file is not readable.",
                remedy="Start a new run and give the file as network.weights.",
            )
        ) from error


def has_recipe(metadata: Mapping[str, str]) -> bool:
    """Whether the file was written by a run of ours that kept its recipe."""
    return bool(metadata.get("lyctui.recipe"))
