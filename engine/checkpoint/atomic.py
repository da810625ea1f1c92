"""Files that are either whole or not there: temporary name, fsync, rename.

Who may read them: what tells about its owner (recipe, origins, events, log, states, drafts, the program's
own settings) is for the owner alone, 0600 in folders of 0700 where those hold nothing else; what is made to
be given away (network files, their list, preview pictures, exports) is as open as the umask has it. Keys and
tokens are in none of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.writing import create, temporary_beside, write_synced

CHUNK_BYTES = 1 << 20


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk, so that a rename in it survives a power cut."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file whole or not at all; for its owner alone where it is `private`."""
    write_whole(path, text.encode("utf-8"), private=private)


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file of these bytes, whole or not at all; raises OSError."""
    temporary = temporary_beside(path)
    try:
        write_synced(temporary, [data], private=private)
        temporary.replace(path)
    except BaseException:
        _drop(temporary)
        raise
    sync_folder(path.parent)


def copy_new(source: Path, folder: Path, name: str | None = None, *, private: bool = False) -> Path:
    """Copy a file into a folder under a name that is free there (its own, or the one given).

    What was written is read again; raises OSError where the copy is another, or cannot be made.
    """
    named = folder / (name or source.name)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(named)
    try:
        write_synced(temporary, _chunks(source), private=private)
        if file_sha256(temporary) != file_sha256(source):
            raise OSError(errno.EIO, "the copy is not what was written", str(named))
        target = _put_new(temporary, folder, named)
    except BaseException:
        _drop(temporary)
        raise
    sync_folder(folder)
    return target


def _drop(temporary: Path) -> None:
    """Remove what was not finished; where that fails too, the first error is the one to tell."""
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def _put_new(temporary: Path, folder: Path, wanted: Path) -> Path:
    """Give a finished file the first free name; never replaces a file, also not one made meanwhile."""
    number = 1
    while True:
        name = wanted.name if number == 1 else f"{wanted.stem}_{number}{wanted.suffix}"
        try:
            _name(temporary, folder / name)
        except FileExistsError:
            number += 1
        else:
            return folder / name


def _name(temporary: Path, target: Path) -> None:
    """Rename, but only where there is no such name; raises FileExistsError else."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):
        # A file system without second names: the name is taken first, by an empty file.
        os.close(create(target))
        try:
            temporary.replace(target)
        except BaseException:
            _drop(target)
            raise
    else:
        temporary.unlink()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, streamed."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def forget_cached(path: Path) -> None:
    """Ask the system to read this file from the disk next time, not from memory; it may decline."""
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def half_written(target: Path) -> Path:
    """Under which name a folder is written."""
    return target.with_name(f".{target.name}.tmp")


def set_aside(target: Path) -> Path:
    """Under which name the folder before it waits until the new one has its name."""
    return target.with_name(f".{target.name}.old")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ended well and all is on disk.

    One that has the name already is kept until then: a kill between the two renames leaves it set aside.
    """
    temporary = half_written(target)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            sync_file(path)
        sync_folder(temporary)
        replaced = target.exists()
        if replaced:
            _exchange(temporary, target)
        else:
            temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)
    if replaced:
        # Only now: until the renames are on the disk, a power cut may bring the old names back.
        shutil.rmtree(set_aside(target), ignore_errors=True)


def _exchange(temporary: Path, target: Path) -> None:
    old = set_aside(target)
    if old.exists():
        shutil.rmtree(old)
    target.replace(old)
    try:
        temporary.replace(target)
    except BaseException:
        old.replace(target)
        raise
