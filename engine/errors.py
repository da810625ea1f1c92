"""What can go wrong, drawn as a tree.

EngineError                 anything this program reports instead of a traceback
├── UsageError              a wrong call: exit 2
│   └── RecipeError         wrong settings, all of them at once: exit 2
├── EnvironmentFault        this machine or a file on it cannot do what is asked: exit 3
│   ├── ModelError          a base model that cannot be read: exit 3
│   └── NetworkFileError    a network file that cannot be read or used: exit 3
├── DataError               the pictures or captions: exit 4
├── OutOfMemory             the device or the host ran out of memory: exit 5
├── RunError                a run folder that cannot be used as asked: exit 2
└── TrainingError           training itself failed: exit 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from engine.inert import without_controls


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, in words: what is wrong, where, and what to do about it."""

    what: str
    where: str = ""
    remedy: str = ""
    path: str = ""
    """Dotted path of the setting it belongs to ("optim.lr"), or empty."""

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        # Names in it come from files: this also ends in logs, which are read in terminals.
        return without_controls(f"{head} {self.remedy}".strip())


class EngineError(Exception):
    """Anything this program reports instead of a traceback; carries every problem found."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            problem if isinstance(problem, Problem) else Problem(problem) for problem in problems
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(EngineError):
    """A wrong call."""

    exit_code = 2


class RecipeError(UsageError):
    """Wrong settings, all of them at once."""


class RunError(EngineError):
    """A run folder that cannot be used as asked."""

    exit_code = 2


class EnvironmentFault(EngineError):
    """This machine, or a file on it, cannot do what is asked."""

    exit_code = 3


class ModelError(EnvironmentFault):
    """A base model that cannot be read."""


class NetworkFileError(EnvironmentFault):
    """A network file that cannot be read or used."""


class DataError(EngineError):
    """The pictures or captions."""

    exit_code = 4


class OutOfMemory(EngineError):
    """The device or the host ran out of memory."""

    exit_code = 5


class TrainingError(EngineError):
    """Training itself failed."""
