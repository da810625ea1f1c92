"""manifest.json of a run: its network files with size and sha256, and which of them are not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.checkpoint.atomic import file_sha256, write_text
from engine.checkpoint.state import Place
from engine.runs import RunFolder


class NetworkList:
    """The list, which only the owner of the run writes."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._entries = listed_files(folder)

    @property
    def files(self) -> list[str]:
        """Network files of the run, the oldest first."""
        return [str(self._folder.path / name) for name in self._entries]

    def add(self, path: Path, place: Place, *, final: bool, keep: int | None) -> int:
        """List a file, then remove all but the last `keep` of those written on the way; gives its bytes.

        The list is written before anything goes, and may be written again after an OSError.
        """
        size = path.stat().st_size
        self._entries.pop(path.name, None)
        self._entries[path.name] = {
            "file": path.name,
            "bytes": size,
            "sha256": file_sha256(path),
            "step": place.step,
            "epoch": place.epoch,
            "final": final,
        }
        self._write()
        on_the_way = [name for name, entry in self._entries.items() if not entry["final"]]
        too_many = on_the_way[:-keep] if keep is not None else []
        for name in too_many:
            (self._folder.path / name).unlink(missing_ok=True)
            del self._entries[name]
        if too_many:
            self._write()
        return size

    def _write(self) -> None:
        write_text(self._folder.manifest, json.dumps(list(self._entries.values()), indent=1))


def listed_files(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Entries of a run's manifest by file name; only of files that are in its folder."""
    try:
        told: Any = json.loads(folder.manifest.read_text("utf-8"))
        entries = {str(entry["file"]): {"final": False, **entry} for entry in told}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {name: entry for name, entry in entries.items() if _ours(folder.path, name)}


def _ours(folder: Path, name: str) -> bool:
    plain = name == Path(name).name and "\x00" not in name and name.endswith(".safetensors")
    return plain and (folder / name).is_file()
