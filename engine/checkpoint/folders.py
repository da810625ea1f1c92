"""The folders that states lie in: which there are, what is wrong with one, which go, and what a kill left.

Everything here is read with distrust: a state may be cut off, have flipped bits, be another program's or
be written by a later version of this one.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.checkpoint.atomic import file_sha256, forget_cached, half_written, set_aside
from engine.checkpoint.tensors import Written
from engine.inert import inert

PREFIX = "step-"
FORMAT = 2
"""1: without what was learnt of numbers and memory going wrong, and without the optimizer's kind."""
NETWORK = "network.safetensors"
OPTIMIZER = "optimizer.safetensors"
AVERAGED = "averaged.safetensors"
NUMBERS = "state.json"
MANIFEST = "manifest.json"
REQUIRED = (NETWORK, OPTIMIZER, NUMBERS)
LARGEST_MANIFEST = 1 << 20

_NAME = re.compile(rf"{PREFIX}(\d{{8,12}})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOUND: dict[Path, tuple[tuple[str, int, int], ...]] = {}
"""States whose hashes this process has compared, with what their files looked like then."""


def folder_of(states: Path, step: int) -> Path:
    """Where the state of a step lies."""
    return states / f"{PREFIX}{step:08d}"


def step_of(path: Path) -> int:
    """The step of a state's folder."""
    return int(path.name[len(PREFIX) :])


def list_states(folder: Path) -> list[Path]:
    """State folders, the oldest first. Half-written ones, links and what is not ours are not listed."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted((path for path in found if _is_folder(path)), key=step_of)
    except OSError:
        return []


def newest_step(folder: Path) -> int:
    """Step of the newest state, whole or not; 0 without one."""
    return max(map(step_of, list_states(folder)), default=0)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def fault_of(path: Path) -> str:
    """Why a state cannot be read, as "is damaged: ..." or "was written by a newer version ...", or ""."""
    try:
        told = damage(path)
    except OSError as error:
        told = f"it cannot be read ({error.strerror or type(error).__name__})"
    return f"is damaged: {told}" if told else _foreign(path)


def damage(path: Path) -> str:
    """What is wrong with a state's files, or ""."""
    manifest = _manifest(path)
    if manifest is None:
        return "its manifest is missing or broken"
    for name, wanted in manifest.items():
        told = _file_fault(path / name, wanted)
        if told:
            return told
    if _foreign(path):
        return ""  # A later version may have other files.
    lacking = sorted({*REQUIRED, *_named(path)} - set(manifest))
    if lacking:
        return f"its manifest lacks {inert(lacking[0])}"
    strange = sorted(each.name for each in path.iterdir() if each.name not in {*manifest, MANIFEST})
    return f"{inert(strange[0])} is not in its manifest" if strange else ""


def _manifest(path: Path) -> dict[str, Written] | None:
    """What the files should be; None where that is not told as we tell it."""
    file = path / MANIFEST
    try:
        if file.is_symlink() or file.stat().st_size > LARGEST_MANIFEST:
            return None
        told: Any = json.loads(file.read_text(encoding="utf-8"))
        found = {name: Written(facts["bytes"], facts["sha256"]) for name, facts in told.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found if all(_plain(name, wanted) for name, wanted in found.items()) else None


def _plain(name: str, wanted: Written) -> bool:
    """Whether a manifest's line is of a file in the state's own folder, with a size and a hash."""
    inside = (
        name == Path(name).name and name not in ("", ".", "..", MANIFEST) and "\x00" not in name
    )
    size, digest = wanted.bytes, wanted.sha256
    hashed = isinstance(digest, str) and _SHA256.fullmatch(digest) is not None
    return inside and type(size) is int and hashed


def _file_fault(file: Path, wanted: Written) -> str:
    name = inert(file.name)
    try:
        if file.is_symlink() or not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != wanted.bytes:
            return f"{name} has another size than when it was written"
        if file_sha256(file) != wanted.sha256:
            return f"{name} has changed since it was written"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or type(error).__name__})"
    return ""


def _numbers(path: Path) -> Mapping[str, Any]:
    try:
        body: Any = json.loads((path / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _named(path: Path) -> list[str]:
    """Files that a state itself says it has, beside those that every one has."""
    files: Any = _numbers(path).get("files", [])
    return [name for name in files if isinstance(name, str)] if isinstance(files, list) else []


def _foreign(path: Path) -> str:
    """Words for a state that is whole, but not one that this version reads; "" for all others."""
    numbers = _numbers(path)
    if not numbers:
        return ""
    form: Any = numbers.get("format")
    if type(form) is not int or form < 1:
        return "is of a kind that this version of lyctui does not know"
    if form > FORMAT:
        return (
            f"was written by a newer version of lyctui; this one reads states up to format {FORMAT},"
            f" it has {form}. Update lyctui to go on from it"
        )
    return ""


def unlike(folder: Path, manifest: Mapping[str, Written]) -> str:
    """What is not on the disk as it was written, read from the disk where the system allows; or ""."""
    for name, wanted in manifest.items():
        forget_cached(folder / name)
        told = _file_fault(folder / name, wanted)
        if told:
            return told
    return ""


def is_sound(path: Path) -> bool:
    """Whether a state can be gone back to; hashes are compared once, then only sizes and times."""
    looks = _looks(path)
    if looks and _SOUND.get(path) == looks:
        return True
    if fault_of(path):
        _SOUND.pop(path, None)
        return False
    _SOUND[path] = looks
    return True


def note_sound(path: Path) -> None:
    """Remember that the hashes of a state were just compared."""
    _SOUND[path] = _looks(path)


def _looks(path: Path) -> tuple[tuple[str, int, int], ...]:
    try:
        facts = [(each.name, each.lstat()) for each in path.iterdir()]
    except OSError:
        return ()
    return tuple(sorted((name, one.st_size, one.st_mtime_ns) for name, one in facts))


def prune(folder: Path, newest: Path, *, keep: int) -> None:
    """Remove what is older than the last `keep` states that can be gone back to, of which `newest` is one.

    Damaged ones do not count, so that the last good one is never among those removed. States of later
    steps are of a past that was left, by going back to an earlier one: they would be taken for newer.
    Those of a later version of this program stay.
    """
    states = list_states(folder)
    line = [path for path in states if step_of(path) <= step_of(newest)]
    sound = [path for path in line if is_sound(path)]
    oldest = step_of(sound[-keep:][0]) if sound else step_of(newest)
    for path in states:
        if (step_of(path) < oldest or path not in line) and not _foreign(path):
            _SOUND.pop(path, None)
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a state. Its name goes first: one that is half removed would look damaged."""
    with contextlib.suppress(OSError):
        path = path.replace(_on_its_way_out(path))
    shutil.rmtree(path, ignore_errors=True)


def _on_its_way_out(path: Path) -> Path:
    return path.with_name(f".{path.name}.del")


def mend(folder: Path) -> list[str]:
    """Put back states whose replacement was cut off, remove half-written ones; gives each in words.

    Only for the process that owns the run.
    """
    told: list[str] = []
    try:
        hidden = sorted(path for path in folder.iterdir() if path.name.startswith(f".{PREFIX}"))
    except OSError:
        return told
    for path in hidden:
        target = path.with_name(path.name[1 : -len(".tmp")])
        if not _NAME.fullmatch(target.name) or not _is_folder(path):
            continue
        if path == half_written(target):
            shutil.rmtree(path, ignore_errors=True)
            told.append(f"The state {target.name} was half written and is not used.")
        elif path == set_aside(target):
            told += _put_back(path, target)
        elif path == _on_its_way_out(target):
            shutil.rmtree(path, ignore_errors=True)
    return told


def _put_back(old: Path, target: Path) -> list[str]:
    """A state that was set aside for a new one of its step: it stays unless the new one is whole."""
    if _is_folder(target) and (is_sound(target) or fault_of(old)):
        shutil.rmtree(old, ignore_errors=True)
        return []
    with contextlib.suppress(OSError):
        if _is_folder(target):
            shutil.rmtree(target)
        old.replace(target)
        return [f"The state {target.name} was being replaced; the one before it was put back."]
    return []
