"""An uninterrupted run, and the comparison of a run that died and was resumed with it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import engine.assemble
from engine.assemble import PRECISIONS
from engine.checkpoint.atomic import file_sha256
from engine.checkpoint.state import damage, list_states
from engine.runs import RunFolder
from engine.session import create_run
from engine.settings import Recipe
from tests.faults.victim import Job, nothing
from tests.small_run import tensor_bytes

Patch = Callable[[], None]
Numbers = tuple[Any, ...]
"""Epoch, loss, learning rates, gradient norm and samples of a step."""


def lines_of(events: Path) -> Iterator[dict[str, Any] | bytes]:
    """Each line of events.jsonl as its object, or as bytes where it is torn."""
    for line in events.read_bytes().splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            yield line
        else:
            assert isinstance(found, dict)
            yield found


def steps_of(events: Path) -> dict[int, list[Numbers]]:
    """What was told of each step, once for each time that it was computed."""
    told: dict[int, list[Numbers]] = {}
    for line in lines_of(events):
        if isinstance(line, dict) and line["event"] == "step":
            keys = ("epoch", "loss", "lr", "grad_norm", "samples")
            told.setdefault(line["step"], []).append(tuple(repr(line[key]) for key in keys))
    return told


def validations_of(events: Path) -> dict[int, set[tuple[float, float]]]:
    """What was measured after each step, every time that it was."""
    told: dict[int, set[tuple[float, float]]] = {}
    for line in lines_of(events):
        if isinstance(line, dict) and line["event"] == "validated":
            told.setdefault(line["step"], set()).add((line["held_out"], line["trained"]))
    return told


def networks_of(folder: Path) -> dict[str, str]:
    """sha256 of the tensors of each network file, by its name without that of the run."""
    return {
        path.stem.removeprefix(folder.name): tensor_bytes(path)
        for path in folder.glob("*.safetensors")
    }


def pictures_of(folder: Path) -> dict[str, bytes]:
    """Pixels of each preview picture."""
    from PIL import Image

    found = {}
    for path in sorted((folder / "samples").glob("*/*.png")):
        with Image.open(path) as picture:
            found[f"{path.parent.name}/{path.name}"] = picture.tobytes()
    return found


LEFT_OUT = re.compile(r"(?:The pictures of|No pictures were made at) step (\d+)")


def pictures_left_out(events: Path) -> set[int]:
    """Steps whose pictures were given up for a stop, or could not be written, and who was told so."""
    found = (
        LEFT_OUT.match(line.get("message", ""))
        for line in lines_of(events)
        if isinstance(line, dict)
    )
    return {int(match[1]) for match in found if match is not None}


_BASES: dict[str, object] = {}


def kept_base(recipe: Recipe) -> object:
    """The base model of a recipe, read once for all children of this process. Nothing may train it here."""
    key = f"{recipe.model} {recipe.train.precision} {recipe.train.attention}"
    if key not in _BASES:
        precision = PRECISIONS[recipe.train.precision or "no"]
        _BASES[key] = engine.assemble._load_base(recipe, precision, torch.device("cpu"))
    return _BASES[key]


@dataclass(slots=True)
class Golden:
    """A recipe, where its runs lie, and what an uninterrupted one left."""

    recipe: Recipe
    root: Path
    keep_base: bool = False
    """Whether children get the base as this process has loaded it, which saves a second of each."""
    prove: bool = True
    """Whether every finished file is proved, not the golden one alone: the others have the same bytes."""
    folder: Path = field(init=False)
    seconds: float = field(init=False)
    """How long the uninterrupted run took."""
    base: object = None

    def __post_init__(self) -> None:
        if self.keep_base:
            self.base = kept_base(self.recipe)
        began = time.monotonic()
        self.folder = self.new_run()
        end = self.job(self.folder, prove=True).run()
        assert end.code == 0, end.said()
        self.seconds = time.monotonic() - began
        assert steps_of(RunFolder(self.folder).events)

    @property
    def cache(self) -> Path:
        """Where runs keep what they encode."""
        return self.root / "cache"

    def new_run(self) -> Path:
        """A folder for another run of the recipe."""
        return create_run(self.recipe)

    def job(self, folder: Path, patch: Patch = nothing, **more: Any) -> Job:
        """A process that trains a run of the recipe."""
        given = {"cache": self.cache, "base": self.base, "patch": patch, "prove": self.prove}
        return Job(folder, **{**given, **more})

    def resumed(self, folder: Path, **more: Any) -> None:
        """Resume in a fresh process, to the end."""
        end = self.job(folder, resume=True, **more).run()
        assert end.code == 0, end.said()

    def differences(
        self, folder: Path, *, deaths: int = 1, same: bool = True, asked: bool = False
    ) -> list[str]:
        """What a finished run has lost against the golden one, in words; nothing is hoped for.

        `deaths` may each have torn one line of the events. `same` is False where the numbers cannot be
        those of the golden run: then only what it left behind is looked at. `asked` allows the network
        files of requests to save or stop, and that pictures were left out where that was said: for a stop,
        or on a disk that did not take them.
        """
        found = list(_leftovers(folder)) + list(_broken(folder, deaths))
        if not same:
            return found
        golden, events = RunFolder(self.folder), RunFolder(folder).events
        mine, theirs = networks_of(folder), networks_of(self.folder)
        if asked:
            mine = {name: sha for name, sha in mine.items() if not name.startswith("-step")}
        differ = {
            name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
        }
        if differ:
            found.append(f"tensors differ: {', '.join(sorted(name or 'final' for name in differ))}")
        wanted, told = steps_of(golden.events), steps_of(events)
        if wanted.keys() != told.keys():
            found.append(f"steps {sorted(told)} instead of {sorted(wanted)}")
        found += [
            f"step {step} was {sorted(set(each))}, not {wanted[step][-1]}"
            for step, each in sorted(told.items())
            if step in wanted and set(each) != {wanted[step][-1]}
        ]
        measured, once = validations_of(golden.events), validations_of(events)
        if measured != once:
            found.append(f"validations {once} instead of {measured}")
        mine_p, theirs_p = pictures_of(folder), pictures_of(self.folder)
        left_out = pictures_left_out(events) if asked else set()
        theirs_p = {
            name: pixels
            for name, pixels in theirs_p.items()
            if name in mine_p or int(name.partition("/")[0]) not in left_out
        }
        if mine_p != theirs_p:
            found.append(f"pictures: {sorted(mine_p)} instead of {sorted(theirs_p)}")
        return found


def _leftovers(folder: Path) -> Iterator[str]:
    """Files that a finished run does not leave."""
    for path in sorted(folder.rglob("*")):
        temporary = path.name.startswith(".") or path.suffix in (".tmp", ".old")
        if temporary or path.name in ("control.sock", "control"):
            yield f"left behind: {path.relative_to(folder)}"
    if RunFolder(folder).lock.read_bytes():
        yield "the lock still names an owner"


def _broken(folder: Path, deaths: int) -> Iterator[str]:
    """Files that are not what they should be."""
    paths = RunFolder(folder)
    listed = json.loads(paths.manifest.read_text("utf-8"))
    for entry in listed:
        file = folder / entry["file"]
        if not file.is_file():
            yield f"{file.name} is listed and missing"
        elif (file.stat().st_size, file_sha256(file)) != (entry["bytes"], entry["sha256"]):
            yield f"{file.name} is not what the manifest says"
    names = [entry["file"] for entry in listed]
    if len(set(names)) != len(names):
        yield f"the manifest lists a file twice: {names}"
    for file in folder.glob("*.safetensors"):
        if file.name not in names and not file.name.startswith("start-"):
            yield f"{file.name} is not listed"
    states = list_states(paths.states)
    yield from (f"{path.name}: {damage(path)}" for path in states if damage(path))
    lines = list(lines_of(paths.events))
    torn = [line for line in lines if isinstance(line, bytes)]
    if len(torn) > deaths:
        yield f"{len(torn)} broken lines of events after {deaths} deaths"
    yield from (f"events lost in {line[:80]!r}" for line in torn if line.count(b'{"v"') > 1)
    if not lines or not isinstance(lines[-1], dict) or lines[-1]["event"] != "finished":
        yield "the events do not end with the end of the run"
