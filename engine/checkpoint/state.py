"""The exact state of a run as a folder: written whole, verified when read, the newest good one wins.

state/step-00000120/
    network.safetensors     adapter weights as they are trained, unfolded
    optimizer.safetensors   every tensor of the optimizer's state
    averaged.safetensors    averaged weights in fp32, where they are kept beside training
    state.json              step, epoch, place in the epoch, optimizer numbers, what it belongs to
    manifest.json           size and sha256 of each file, written last

It tells of its owner and is for the owner alone (engine.checkpoint.atomic).
"""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.checkpoint.atomic import new_folder, sync_folder
from engine.checkpoint.folders import (
    AVERAGED,
    FORMAT,
    MANIFEST,
    NETWORK,
    NUMBERS,
    OPTIMIZER,
    damage,
    fault_of,
    folder_of,
    list_states,
    mend,
    newest_step,
    note_sound,
    prune,
    step_of,
    unlike,
)
from engine.checkpoint.tensors import Written, read_tensors, write_chunks, write_tensors
from engine.checkpoint.tree import join, split
from engine.errors import Problem, RunError

__all__ = [
    "Identity",
    "Place",
    "State",
    "damage",
    "list_states",
    "mend",
    "newest_step",
    "read_newest",
    "state_bytes",
    "this_machine",
    "write_state",
]

UNREADABLE = (
    OSError,
    SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""What files bring about that have the right hashes and are yet no state of ours."""
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
    kind: str = ""
    """Class of the optimizer; empty in older states."""


def write_state(folder: Path, state: State, *, keep: int) -> Path:
    """Write a state below `folder`, read it back, then remove those older than the last `keep` good ones.

    Gives the state's folder. Raises OSError where it cannot be written or is not what was written; those
    before it stay then.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    mend(folder)
    target = folder_of(folder, state.place.step)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise FileExistsError(errno.EEXIST, "something else has the state's name", str(target))
    with new_folder(target) as temporary:
        _write_files(temporary, state)
    note_sound(target)
    prune(folder, target, keep=keep)
    return target


def _write_files(folder: Path, state: State) -> None:
    tensors, numbers = split(state.optimizer)
    files = {
        NETWORK: write_tensors(folder / NETWORK, state.network),
        OPTIMIZER: write_tensors(folder / OPTIMIZER, tensors),
    }
    if state.averaged:
        files[AVERAGED] = write_tensors(folder / AVERAGED, state.averaged)
    body = {
        "format": FORMAT,
        "files": sorted(files),
        "place": asdict(state.place),
        "identity": asdict(state.identity),
        "kind": state.kind,
        "optimizer": numbers,
        "scaler": state.scaler,
        "session": state.session,
        "guard": state.guard,
    }
    files[NUMBERS] = _write_json(folder / NUMBERS, body)
    # On the disk before the manifest says so.
    sync_folder(folder)
    manifest = {name: asdict(each) for name, each in sorted(files.items())}
    files[MANIFEST] = _write_json(folder / MANIFEST, manifest)
    wrong = unlike(folder, files)
    if wrong:
        raise OSError(errno.EIO, f"read again, {wrong}", str(folder))


def _write_json(path: Path, body: Mapping[str, Any]) -> Written:
    return write_chunks(path, [memoryview(json.dumps(body, indent=1).encode())])


def state_bytes(state: State) -> int:
    """Size of a state before it is written, within a few kilobytes."""
    tensors, numbers = split(state.optimizer)
    parts = (state.network, tensors, state.averaged)
    names = sum(len(name) + 200 for part in parts for name in part)
    told = len(json.dumps(numbers, indent=1)) + len(state.identity.recipe) + 100_000
    return sum(item.nbytes for part in parts for item in part.values()) + names + told


def read_newest(folder: Path, *, step: int | None = None) -> tuple[State, list[str]]:
    """The newest state that passes its checksums (or the one of `step`), and what was skipped and why."""
    states = list_states(folder)
    if step is not None:
        states = [path for path in states if step_of(path) == step]
        if not states:
            raise RunError(
                Problem(
                    f"There is no saved state of step {step}.",
                    where=str(folder),
                    remedy=_saved(folder),
                )
            )
    skipped: list[str] = []
    for path in reversed(states):
        fault = fault_of(path)
        if not fault:
            try:
                return _read(path), skipped
            except UNREADABLE as error:
                fault = f"is damaged: it cannot be read ({type(error).__name__})"
        skipped.append(f"The state {path.name} was passed over: it {fault}.")
    if not skipped:
        what, remedy = "No state was saved yet.", "Start the run again with `lyctui train`."
    elif step is not None:
        what, remedy = f"The state of step {step} cannot be read.", f"{skipped[0]} {_saved(folder)}"
    else:
        what, remedy = "No saved state can be read.", " ".join(skipped)
    raise RunError(Problem(what, where=str(folder), remedy=remedy))


def _saved(folder: Path) -> str:
    have = ", ".join(str(step_of(path)) for path in list_states(folder))
    return f"Saved are: {have}." if have else "None is saved."


def _read(path: Path) -> State:
    body = _migrated(json.loads((path / NUMBERS).read_text(encoding="utf-8")))
    averaged = path / AVERAGED
    found = State(
        place=Place(**body["place"]),
        identity=Identity(**body["identity"]),
        network=read_tensors(path / NETWORK),
        optimizer=join(read_tensors(path / OPTIMIZER), body["optimizer"]),
        scaler=body["scaler"],
        session=body["session"],
        guard=body["guard"],
        averaged=read_tensors(averaged) if averaged.is_file() else {},
        kind=body["kind"],
    )
    note_sound(path)
    return found


def _migrated(body: dict[str, Any]) -> dict[str, Any]:
    """A state of any format that we wrote, as one of the present format."""
    for form in range(body["format"], FORMAT):
        body = MIGRATIONS[form](body)
    return body


def _from_1(body: dict[str, Any]) -> dict[str, Any]:
    return {"guard": {}, "kind": "", **body, "format": 2}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""What makes a state of the format after it."""
