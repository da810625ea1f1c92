"""Results on stdout, diagnostics on stderr, and one JSON object a line where that was asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from engine.errors import EngineError, Problem, UsageError
from lyctui import terminal, text

VERSION = 1
"""Of the machine interface: `v` in each object."""


def say(line: str = "") -> None:
    """One line of a result. A reader that has gone must not end the work."""
    _write(sys.stdout, line)


def tell(line: str) -> None:
    """One line for a person beside the result."""
    _write(sys.stderr, line)


def say_json(value: dict[str, Any]) -> None:
    """One object of the machine interface. ASCII only, so that every locale can carry it."""
    say(text.json_line({"v": VERSION, **value}, _plain_value))


def _plain_value(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    return str(value)


def _write(stream: Any, line: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # Whoever made the line did so already; here nothing can be forgotten.
    line = text.inert(line, lines=True)
    safe = line if encoding.lower().startswith("utf") else text.ascii_only(line)
    try:
        stream.write(safe.encode(encoding, "replace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        # Python flushes once more at its end and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn errors into words (or objects) and the exit code of their kind."""
    try:
        yield
    except EngineError as error:
        report(error.problems, as_json=as_json, kind=type(error).__name__)
        raise typer.Exit(error.exit_code) from None


def report(problems: Sequence[Problem], *, as_json: bool, kind: str = "error") -> None:
    """Say every problem: objects on stdout for programs, sentences on stderr for people."""
    for problem in problems:
        if as_json:
            say_json(
                {
                    "error": kind,
                    "what": problem.what,
                    "where": problem.where,
                    "remedy": problem.remedy,
                    "path": problem.path,
                }
            )
        else:
            _tell_problem(problem)


def _tell_problem(problem: Problem) -> None:
    where = problem.where if problem.where != problem.path else ""
    path = "" if problem.what.startswith(problem.path) else problem.path
    head = ": ".join(part for part in (path, where, problem.what) if part)
    tell(f"✗ {text.inert(head)}")
    if problem.remedy:
        tell(f"  {text.inert(problem.remedy)}")


def unforeseen(error: Exception, *, as_json: bool) -> int:
    """Say an error that nothing else caught, keep its traceback in the log; gives the exit code."""
    words = getattr(error, "format_message", None)
    if words is not None and getattr(error, "exit_code", 1) == 2:
        problem = Problem(str(words()), remedy="See --help.")
        report((problem,), as_json=as_json, kind="UsageError")
        return 2
    import traceback

    from lyctui.paths import add_to_log

    log = add_to_log("".join(traceback.format_exception(error)))
    first = str(error).splitlines()[0] if str(error) else ""
    what = f"Something unforeseen went wrong: {type(error).__name__} {first}".rstrip()
    report((Problem(what, remedy=f"The full report is in {log}."),), as_json=as_json)
    return 1


def can_ask() -> bool:
    """Whether a question would reach a person."""
    return not os.environ.get("CI") and terminal.is_terminal(sys.__stdin__, sys.__stdout__)


def cannot_ask(question: str, answer: str) -> UsageError:
    """The error for a question that nobody can answer here; `answer` names the flags."""
    return UsageError(Problem(f"{question} There is no terminal to ask on.", remedy=answer))


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> list[str]:
    """Rows as aligned lines, widths counted in cells."""
    every = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not every:
        return []
    widths = [max(text.cells(row[column]) for row in every) for column in range(len(every[0]))]
    return [
        "  ".join(text.pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in every
    ]
