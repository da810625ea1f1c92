"""Questions and answers as lines of text, and how an answer leads elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from lyctui import text

EXIT_USAGE = 2


class Quit(Exception):
    """The person leaves; `code` is the exit code."""

    def __init__(self, code: int = 0) -> None:
        super().__init__()
        self.code = code


class Back(Exception):
    """One question back."""


class More(Exception):
    """All settings of this page."""


@dataclass(slots=True)
class Talk:
    """Two streams: questions out, answers in."""

    stdin: TextIO
    stdout: TextIO

    def say(self, words: str = "") -> None:
        """One line, or several; nothing in it is obeyed by a terminal."""
        self.stdout.write(text.inert(words, lines=True).encode("utf-8", "replace").decode() + "\n")
        self.stdout.flush()

    def ask(self, question: str) -> str:
        """One answer; the end of the input leaves the wizard."""
        self.stdout.write(text.inert(question, lines=True) + " ")
        self.stdout.flush()
        line = self.stdin.readline()
        if not line:
            self.say()
            self.say("The input ended before all questions were answered.")
            raise Quit(EXIT_USAGE)
        answer = line.rstrip("\r\n")
        if answer.strip().lower() in ("quit", "exit"):
            raise Quit
        return answer

    def choose(self, question: str, rows: Sequence[str], default: int | None = None) -> int:
        """The place of one row, by its number."""
        for number, row in enumerate(rows, 1):
            self.say(f"  {number}. {row}")
        shown = f" [{default + 1}]" if default is not None else ""
        while True:
            answer = self.ask(f"{question}{shown}:").strip()
            if not answer and default is not None:
                return default
            if answer == "<":
                raise Back
            if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(rows):
                return int(answer) - 1
            self.say(f"Please give a number from 1 to {len(rows)}, or quit.")
