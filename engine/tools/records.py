"""Metadata of a file that a tool writes: what the input told, and what was done. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from engine import program_version
from engine.errors import NetworkFileError
from engine.networks.layout_scales import KEY as ADAPTER_METADATA
from engine.networks.metadata import recipe_in

TOOL = "lyctui.tool"
"""A JSON list, one entry for each tool that the file went through."""
HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
DORA_ARGS = frozenset({"dora_wd", "wd_on_output"})
"""Options that tell a DoRA's axis."""
LARGEST_HISTORY = 20_000
DYNAMIC = "Dynamic"
"""What kohya's tools write for a rank that differs from module to module."""


def kept_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What still holds for a file made of another: all but hashes and the layout's own notes."""
    gone = (*HASHES, ADAPTER_METADATA)
    return {key: text for key, text in metadata.items() if key not in gone}


def with_record(metadata: Mapping[str, str], entry: Mapping[str, Any]) -> dict[str, str]:
    """With one more entry of what was done."""
    history = _history(metadata.get(TOOL, ""))
    entry = {"version": program_version() or "unknown", **entry}
    return dict(metadata) | {TOOL: json.dumps([*history, entry])}


def _history(text: str) -> list[Any]:
    if len(text) > LARGEST_HISTORY:
        return []
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def with_network(
    metadata: Mapping[str, str],
    algorithms: Iterable[str],
    ranks: Iterable[int | None],
    alphas: Iterable[float | None],
    *,
    dora: bool = False,
) -> dict[str, str]:
    """With kohya's keys telling the network that is now in the file; with `dora` its axis stays told."""
    found = dict(metadata)
    kinds, ranks, alphas = list(dict.fromkeys(algorithms)), tuple(ranks), tuple(alphas)
    args = {key: text for key, text in _args(metadata).items() if dora and key in DORA_ARGS}
    plain = kinds == ["lora"]
    found["ss_network_module"] = "networks.lora" if plain else "lycoris.kohya"
    if any(rank is not None for rank in ranks):
        found["ss_network_dim"] = _one(ranks)
        found["ss_network_alpha"] = _one(alphas)
    if not plain and kinds:
        args["algo"] = kinds[0]
    found.pop("ss_network_args", None)
    return found | ({"ss_network_args": json.dumps(args)} if args else {})


def _args(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        args = json.loads(metadata.get("ss_network_args", "{}"))
    except (ValueError, RecursionError):
        return {}
    return args if isinstance(args, dict) else {}


def _one(values: Iterable[float | None]) -> str:
    found = {value for value in values if value is not None}
    return f"{next(iter(found)):g}" if len(found) == 1 else DYNAMIC


def trained_with(metadata: Mapping[str, str]) -> tuple[str, bool]:
    """Algorithm and whether the scale went with the root of the rank, as the metadata tell it.

    Empty and False where they do not.
    """
    args = _args(metadata)
    algorithm = str(args.get("algo", ""))
    rooted = str(args.get("rs_lora", "")).lower() in ("true", "1", "1.0")
    try:
        network = recipe_in(metadata).get("network", {})
    except NetworkFileError:
        network = {}
    if isinstance(network, dict) and network.get("algorithm"):
        return str(network["algorithm"]), network.get("rs_lora") is True
    return algorithm, rooted
