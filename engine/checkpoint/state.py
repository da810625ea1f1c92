"""The exact state of a run as a folder: written whole, verified when read, the newest good one wins.

state/step-00000120/
    network.safetensors     adapter weights as they are trained, unfolded
    optimizer.safetensors   every tensor of the optimizer's state
    averaged.safetensors    averaged weights in fp32, where they are kept beside training
    state.json              step, epoch, place in the epoch, optimizer numbers, what it belongs to
    manifest.json           size and sha256 of each file, written last
"""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint.atomic import file_sha256, new_folder
from engine.errors import Problem, RunError

PREFIX = "step-"
FORMAT = 1
AVERAGED = "averaged.safetensors"
LIBRARIES = ("torch", "diffusers", "transformers", "bitsandbytes", "pytorch-optimizer", "Pillow")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands: `step` optimizer steps done, `epoch_step` of them in epoch `epoch`."""

    step: int = 0
    epoch: int = 1
    epoch_step: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a state belongs to; a resume compares it."""

    recipe: str
    """The filled recipe as TOML."""
    data_fingerprint: str
    base_sha256: str
    threads: int
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    vae_sha256: str = ""
    """Of the VAE's tensors, which may be another file's; empty in states of older versions."""


def this_machine() -> tuple[dict[str, str], str]:
    """Versions of the libraries whose kernels decide the last bits, and the kind of processor."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions, f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@dataclass(frozen=True, slots=True)
class State:
    """Everything a run needs to go on as if nothing had happened."""

    place: Place
    identity: Identity
    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    session: dict[str, Any]
    """Numbers that are told, not trained with: seconds so far, peak memory, lineage."""
    averaged: dict[str, Tensor] = field(default_factory=dict)
    """Averaged weights, where they are kept beside training."""
    guard: dict[str, Any] = field(default_factory=dict)
    """What was learnt of numbers and memory going wrong (engine.guard); empty in older states."""


def write_state(folder: Path, state: State, *, keep: int) -> Path:
    """Write a state below `folder`, then remove the oldest beyond `keep`. Gives the state's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PREFIX}{state.place.step:08d}"
    tensors, numbers = _split(state.optimizer)
    with new_folder(target) as temporary:
        save_file(_detached(state.network), temporary / "network.safetensors")
        save_file(_detached(tensors), temporary / "optimizer.safetensors")
        if state.averaged:
            save_file(_detached(state.averaged), temporary / AVERAGED)
        body = {
            "format": FORMAT,
            "place": asdict(state.place),
            "identity": asdict(state.identity),
            "optimizer": numbers,
            "scaler": state.scaler,
            "session": state.session,
            "guard": state.guard,
        }
        (temporary / "state.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
        manifest = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(temporary.iterdir())
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for old in list_states(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def state_bytes(state: State) -> int:
    """Size of a state before it is written, within a few kilobytes."""
    tensors, _ = _split(state.optimizer)
    parts = (state.network, tensors, state.averaged)
    return sum(item.nbytes for part in parts for item in part.values()) + 1_000_000


def list_states(folder: Path) -> list[Path]:
    """State folders, the oldest first. Half-written ones have another name and are not listed."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith(PREFIX))
    except OSError:
        return []


def read_newest(folder: Path, *, step: int | None = None) -> tuple[State, list[str]]:
    """The newest state that passes its checksums (or the one of `step`), and what was skipped and why."""
    states = list_states(folder)
    if step is not None:
        states = [path for path in states if path.name == f"{PREFIX}{step:08d}"]
        if not states:
            have = ", ".join(str(int(path.name[len(PREFIX) :])) for path in list_states(folder))
            raise RunError(
                Problem(
                    f"There is no saved state of step {step}.",
                    where=str(folder),
                    remedy=f"Saved are: {have}." if have else "None is saved.",
                )
            )
    skipped: list[str] = []
    for path in reversed(states):
        fault = damage(path)
        if not fault:
            try:
                return _read(path), skipped
            except (OSError, ValueError, KeyError, TypeError) as error:
                fault = f"it cannot be read ({type(error).__name__})"
        skipped.append(f"The state {path.name} is damaged and was passed over: {fault}.")
    raise RunError(
        Problem(
            "No saved state can be read." if skipped else "No state was saved yet.",
            where=str(folder),
            remedy=" ".join(skipped) or "Start the run again with `lyctui train`.",
        )
    )


def damage(path: Path) -> str:
    """What is wrong with a state folder, or ""."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or broken"
    for name, facts in manifest.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != facts["bytes"]:
            return f"{name} has another size than when it was written"
        if file_sha256(file) != facts["sha256"]:
            return f"{name} has changed since it was written"
    return ""


def _read(path: Path) -> State:
    body = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if body["format"] != FORMAT:
        raise ValueError(f"format {body['format']}")
    return State(
        place=Place(**body["place"]),
        identity=Identity(**body["identity"]),
        network=load_file(path / "network.safetensors"),
        optimizer=_join(load_file(path / "optimizer.safetensors"), body["optimizer"]),
        scaler=body["scaler"],
        session=body["session"],
        guard=body.get("guard", {}),
        averaged=load_file(path / AVERAGED) if (path / AVERAGED).is_file() else {},
    )


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


_TENSOR = "\x00tensor"


def _split(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """An optimizer's state_dict as tensors for safetensors and a JSON tree that refers to them."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, name: str) -> Any:
        match node:
            case Tensor():
                # clone: safetensors refuses tensors that share memory (8-bit maps do)
                tensors[name] = node.detach().clone()
                return {_TENSOR: name}
            case dict():
                # JSON turns integer keys into text; the list of pairs keeps them.
                return {
                    "pairs": [[key, walk(value, f"{name}/{key}")] for key, value in node.items()]
                }
            case list():
                return {
                    "list": [walk(value, f"{name}/{index}") for index, value in enumerate(node)]
                }
            case tuple():
                return {
                    "tuple": [walk(value, f"{name}/{index}") for index, value in enumerate(node)]
                }
            case float() if not math.isfinite(node):
                return {"float": repr(node)}
            case None | bool() | int() | float() | str():
                return node
        raise TypeError(f"{name} of the optimizer's state is a {type(node).__name__}")

    return tensors, walk(tree, "")


def _join(tensors: Mapping[str, Tensor], node: Any) -> Any:
    """Exact inverse of `_split`."""
    if not isinstance(node, dict):
        return node
    ((kind, body),) = node.items()
    match kind:
        case "pairs":
            return {key: _join(tensors, value) for key, value in body}
        case "list":
            return [_join(tensors, value) for value in body]
        case "tuple":
            return tuple(_join(tensors, value) for value in body)
        case "float":
            return float(body)
        case _:
            return tensors[body]
