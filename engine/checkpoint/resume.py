"""What a resume may change, and how a state is put back exactly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.checkpoint.folders import step_of
from engine.checkpoint.same_optimizer import not_of_this_run, refuse_other_optimizer
from engine.checkpoint.state import Identity, Place, State, list_states, mend, read_newest
from engine.errors import Problem, RunError
from engine.inert import inert
from engine.memory import is_out_of_memory
from engine.optim.named import NamedOptimizer, parts_of
from engine.runs import RunFolder, has_finished
from engine.settings import Recipe

MAY_CHANGE = (
    "train.epochs",
    "train.max_steps",
    "train.device",
    "train.threads",
    "train.rollbacks",
    "train.spike_limit",
    "sample.",
    "save.",
    "data.workers",
    "data.cache_gigabytes",
    "run.",
)
"""Settings that do not touch what was already learnt; the rest starts a new run."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs from the run's recipe."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"

    @property
    def allowed(self) -> bool:
        """Whether a resume may go on with it."""
        return self.path.startswith(MAY_CHANGE)


def changes(before: Recipe, after: Recipe) -> tuple[Change, ...]:
    """Every setting that differs, in the order of the recipe."""
    old, new = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    return tuple(
        Change(path, old.get(path), new.get(path))
        for path in dict.fromkeys((*old, *new))
        if old.get(path) != new.get(path)
    )


def refuse_forbidden(found: tuple[Change, ...]) -> None:
    """Raise RunError with every change that would make the run another one."""
    problems = [
        Problem(
            f"{change.path} was {change.before} in this run and cannot become {change.after}.",
            path=change.path,
            remedy="Leave it, or start a new run from the network file with `lyctui resume FILE`.",
        )
        for change in found
        if not change.allowed
    ]
    if problems:
        raise RunError(*problems)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class Restorable(Protocol):
    """What `restore` puts back."""

    network: Any
    optimizer: NamedOptimizer
    averages: Any
    guard: Any
    scaler: torch.amp.GradScaler
    steps_per_epoch: tuple[int, ...]
    total_steps: int

    def stop_parts(self, parts: Collection[str]) -> None:
        """Take parts of the model out of optimizer and graph."""


Hop = dict[str, Any]
"""One resume as JSON: of which run, from which step, and what of it was exact and what fresh."""


def hop(run: str, step: int, *notes: str) -> Hop:
    """The entry of one resume."""
    return {"run": run, "step": step, "notes": list(notes)}


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a resumed run comes from."""

    seconds: float = 0.0
    hops: tuple[Hop, ...] = ()
    """Every resume so far, the first one first."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def restore(
    folder: RunFolder,
    training: Restorable,
    identity: Identity,
    *,
    from_step: int | None,
    changed_data: Sequence[Problem] = (),
) -> tuple[Place, Lineage]:
    """Put the newest good state (or the one of `from_step`) into `training`.

    `changed_data` says what differs in the pictures, where that is known.
    """
    mended = mend(folder.states)
    if from_step is None and not list_states(folder.states):
        note = "fresh: nothing was saved yet, so the run begins at its first step again"
        hops = (hop(folder.name, 0, note),)
        return Place(), Lineage(hops=hops, notes=(note,), warnings=tuple(mended))
    state, skipped = read_newest(folder.states, step=from_step)
    warnings = (*mended, *skipped, *_left(folder, from_step))
    _check_identity(state.identity, identity, folder, changed_data)
    place = state.place
    # A process that died after its last step may still owe pictures, and the proof of its file.
    done = folder.final.is_file() and has_finished(folder)
    if place.step > training.total_steps or (place.step == training.total_steps and done):
        raise RunError(
            Problem(
                f"The run is finished: {place.step} of {training.total_steps} steps are done.",
                where=str(folder.path),
                remedy=f"Train on with `lyctui resume {folder.called} --set train.epochs=N`;"
                " where train.max_steps is set, raise that.",
            )
        )
    put_back(training, state)
    notes = (
        f"exact: weights, optimizer, learning-rate curve, order and draws from step {place.step}",
    )
    return place, Lineage(
        seconds=float(state.session["seconds"]),
        hops=(*state.session["lineage"], hop(folder.name, place.step, *notes)),
        notes=notes,
        warnings=(*warnings, *_soft_differences(state.identity, identity)),
    )


def _left(folder: RunFolder, from_step: int | None) -> list[str]:
    """What becomes of the states after the one that was asked for."""
    if from_step is None:
        return []
    later = [str(at) for path in list_states(folder.states) if (at := step_of(path)) > from_step]
    if not later:
        return []
    return [
        f"The run goes on from step {from_step} as asked: states of later steps"
        f" ({', '.join(later)}) go when it next saves its own."
    ]


def put_back(training: Restorable, state: State) -> None:
    """Make a freshly assembled training what it was when `state` was taken.

    Raises RunError or NetworkFileError where the state is of another network or optimizer.
    """
    refuse_other_optimizer(training.optimizer, state)
    try:
        _put_back(training, state)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        told = inert(str(error).partition("\n")[0])
        raise RunError(not_of_this_run(state, f"{type(error).__name__}: {told}")) from error


def _put_back(training: Restorable, state: State) -> None:
    training.network.load_training_state(state.network)
    # Text encoders that had left stay out, also where more epochs move the step at which they do.
    training.stop_parts(parts_of(training.optimizer.state_dict()) - parts_of(state.optimizer))
    training.optimizer.load_state_dict(_for_device(state.optimizer))
    training.averages.load_state(state.averaged)
    if state.scaler:  # else it was saved on a device that needs none, and begins anew on this one
        training.scaler.load_state_dict(state.scaler)
    training.guard.load_state(state.guard)


def _for_device(state: dict[str, Any]) -> dict[str, Any]:
    # torch moves tensors of `state` to their parameters' device itself; groups may hold some too.
    return {
        "state": state["state"],
        "param_groups": [
            {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in group.items()
            }
            for group in state["param_groups"]
        ],
    }


def _check_identity(
    then: Identity, now: Identity, folder: RunFolder, changed_data: Sequence[Problem]
) -> None:
    problems = []
    if then.base_sha256 != now.base_sha256:
        problems.append(
            Problem(
                "The base model is another file than the one this run began with.",
                path="model.path",
                where=str(folder.path),
                remedy="Put the old file back, or start a new run with `lyctui resume FILE`.",
            )
        )
    elif then.vae_sha256 and then.vae_sha256 != now.vae_sha256:
        # The base's own VAE is part of its file: what is left is one that was given beside it.
        problems.append(
            Problem(
                "The VAE is another one than this run began with.",
                path="model.vae",
                where=str(folder.path),
                remedy="Put the old file back, or start a new run with `lyctui resume FILE`.",
            )
        )
    if then.data_fingerprint != now.data_fingerprint and changed_data:
        problems += changed_data
    elif then.data_fingerprint != now.data_fingerprint:
        problems.append(
            Problem(
                "Pictures or captions have changed since this run began.",
                path="data.folder",
                where=str(folder.path),
                remedy="Put them back as they were, or start a new run with `lyctui resume FILE`.",
            )
        )
    if problems:
        raise RunError(*problems)


def _soft_differences(then: Identity, now: Identity) -> list[str]:
    """What may change the last bits of the result, though not its meaning."""
    found = []
    if then.threads != now.threads:
        found.append(f"CPU threads {then.threads} -> {now.threads}")
    found += [
        f"{name} {old} -> {now.versions.get(name, 'missing')}"
        for name, old in then.versions.items()
        if now.versions.get(name) != old
    ]
    if then.machine != now.machine:
        found.append(f"processor {then.machine} -> {now.machine}")
    if not found:
        return []
    return [f"The last bits may differ from an uninterrupted run: {', '.join(found)}."]
