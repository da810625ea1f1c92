"""A command as text: one option a line, quoted for a shell, with comments above it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.inert import inert

WIDTH = 98


@dataclass(frozen=True, slots=True)
class Option:
    """`--name`, `--name=value`, or `--name value value`."""

    name: str
    values: tuple[str, ...] = ()

    def text(self) -> str:
        """As it stands in the command."""
        quoted = [shlex.quote(value) for value in self.values]
        if len(quoted) == 1 and not self.values[0].startswith("-"):
            return (
                f"--{self.name}={quoted[0]}"
                if "\n" not in quoted[0]
                else f"--{self.name} {quoted[0]}"
            )
        if len(quoted) == 1:
            return f"--{self.name}={quoted[0]}"
        return " ".join([f"--{self.name}", *quoted])


def command_text(script: str, options: Sequence[Option], comments: Iterable[str]) -> str:
    """The whole script file."""
    lines = ["#!/bin/sh"]
    for comment in comments:
        lines += [f"# {line}" for line in textwrap.wrap(inert(comment, 600), WIDTH - 2)] or ["#"]
    lines.append("")
    parts = [f"accelerate launch {script}", *(f"  {option.text()}" for option in options)]
    return "\n".join(lines) + "\n" + " \\\n".join(parts) + "\n"
