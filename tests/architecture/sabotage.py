"""Makes the engine ignore a setting, and tells whether the test named in `docs/proof.md` notices.

`python -m tests.architecture.sabotage data.flip train.seed` tries the two, and without names all settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.settings import Recipe
from engine.settings.ask import Section
from engine.settings.network import NetworkSection
from tests.architecture.test_proof import PROOF, ROOT

USES = ("engine.", "lyctui.monitor")
"""Where a run is made: the beginnings of its modules' names."""
TELLS = frozenset(
    f"engine.settings.{name}"
    for name in ("ask", "check", "idle", "optim_rules", "refusals", "rules", "toml", "walk")
)
"""Modules that check a setting or tell of it: they see what was set. No run depends on them."""


def ignored(owner: Section, key: str) -> Any:
    """What a run has where nobody sets this."""
    if key == "algorithm":
        return "lora"  # The tag of its own class: nothing else could be its default.
    return type(owner).model_fields[key].get_default(call_default_factory=True)


@contextmanager
def sabotaged(*paths: str) -> Iterator[None]:
    """While it lasts, code that reads one of these settings (`section.key`) for a run gets its default."""
    chosen: dict[str, list[Any]] = {}
    for path in paths:
        section, key = path.split(".")
        annotation: Any = Recipe.model_fields[section].annotation
        chosen.setdefault(key, []).append(NetworkSection if section == "network" else annotation)

    def read(self: Section, name: str) -> Any:
        if name in chosen and isinstance(self, tuple(chosen[name])):
            reader = sys._getframe(1).f_globals.get("__name__", "")
            if reader.startswith(USES) and reader not in TELLS:
                return ignored(self, name)
        return object.__getattribute__(self, name)

    Section.__getattribute__ = read  # type: ignore[assignment]
    try:
        yield
    finally:
        del Section.__getattribute__


def noticed(path: str, tests: tuple[str, ...]) -> bool:
    """Whether one of the tests fails, in a process of its own, where the setting is ignored."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, sys.stdout.fileno())
        os.dup2(silent, sys.stderr.fileno())
        with sabotaged(path):
            code = pytest.main(
                ["-x", "-q", "-p", "no:cacheprovider", *(f"{ROOT}/{t}" for t in tests)]
            )
        os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == pytest.ExitCode.TESTS_FAILED


def main(paths: list[str]) -> int:
    """Print a line for each setting; 1 where a proof does not notice."""
    found = True
    for path in paths or list(PROOF):
        this = noticed(path, PROOF[path])
        found &= this
        print("noticed " if this else "SURVIVES", path, *PROOF[path], flush=True)
    return int(not found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
