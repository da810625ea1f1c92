"""A file tool at work, in a thread of its own that outlives the screens: it finishes or leaves nothing."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from engine.errors import EngineError, OutOfMemory, Problem
from engine.sheet.values import Sheet
from engine.tools.info import Info, describe
from engine.tools.requests import (
    Cancelled,
    ConvertRequest,
    ExtractRequest,
    JoinRequest,
    MergeRequest,
    Progress,
    ResizeRequest,
    ToolReport,
)
from lyctui import text
from lyctui.paths import add_to_log
from lyctui.tool_check import page_words
from lyctui.tool_forms import InfoRequest, Request
from lyctui.tool_readers import reasons_of, words_of

SHEET = "contact sheet"


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found in a file."""

    info: Info
    norms: Mapping[str, float]
    """Module to the size of its change, where it can be told."""
    problems: tuple[Problem, ...] = ()


Result: TypeAlias = ToolReport | Looked | Sheet


class Writing(Protocol):
    """A request of another kind that ends in a file."""

    @property
    def output(self) -> Path: ...


def run_tool(request: Request, progress: Progress) -> Result:
    """Do what is asked; torch comes with the import, so this runs in a thread of its own."""
    match request:
        case InfoRequest():
            return look_into(request)
        case ConvertRequest():
            from engine.tools.convert import convert

            return convert(request, progress)
        case MergeRequest():
            from engine.tools.merge import merge

            return merge(request, progress)
        case JoinRequest():
            from engine.tools.join import join

            return join(request, progress)
        case ExtractRequest():
            from engine.tools.extract import extract

            return extract(request, progress)
        case ResizeRequest():
            from engine.tools.resize import resize

            return resize(request, progress)


def look_into(request: InfoRequest) -> Looked:
    """Header, metadata and the size of each module's change."""
    from engine.tools.norms import change_norms

    info = describe(request.source)
    if not info.is_network:
        return Looked(info, {}, info.problems)
    norms, problems = change_norms(request.source, request.base)
    return Looked(info, norms, tuple(problems))


@dataclass(frozen=True, slots=True)
class Stand:
    """How far the work is."""

    done: int = 0
    total: int = 0
    name: str = ""
    """Of the tensor or module that is worked on; as the file has it."""
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """0 to 1; full only when all is done."""
        return min(1.0, self.done / self.total) if self.total else 0.0


class ToolWork:
    """One run of a tool. The thread is no daemon: a lost terminal does not end it."""

    def __init__(
        self,
        tool: str,
        request: Request | Writing,
        run: Callable[[Any, Progress], Result] | None = None,
    ) -> None:
        self.tool = tool
        self.request = request
        self.result: Result | None = None
        self.problems: tuple[Problem, ...] = ()
        self.report: Path | None = None
        """Where the traceback of something unforeseen is."""
        self.cancelled = False
        self.seen = False
        """Whether a screen has told its end."""
        self.exit_code = 0
        self.reads = ""
        """Which programs read the network file that was written or looked into."""
        self.reasons: list[str] = []
        """Why some of them do not."""
        self._run: Callable[[Any, Progress], Result] = run or run_tool
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._stand = Stand()
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"tool {tool}", daemon=False)

    def start(self) -> None:
        """Begin."""
        self._begun = time.monotonic()
        self._thread.start()

    @property
    def unit(self) -> str:
        """What is done one after the other, in words."""
        if self.tool == SHEET:
            return "picture"
        return "tensor" if self.tool.startswith("merge") else "module"

    @property
    def live(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    @property
    def output(self) -> Path | None:
        """The file that is written."""
        return None if isinstance(self.request, InfoRequest) else self.request.output

    def cancel(self) -> None:
        """Stop before the next tensor; what was begun is removed."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; whether it has come."""
        self._thread.join(seconds)
        return not self.live

    def stand(self) -> Stand:
        """How far it is."""
        with self._lock:
            now = self._stand
        seconds = time.monotonic() - self._begun
        return Stand(now.done, now.total, now.name, seconds)

    def closing_line(self) -> str:
        """What came of it, in one line for a terminal or the log."""
        if self.cancelled:
            return f"{self.tool}: stopped; nothing was written."
        if self.problems:
            return f"{self.tool}: {self.problems[0]} Nothing was written."
        if isinstance(self.result, ToolReport):
            size = text.filesize(self.result.bytes)
            return f"{self.tool}: wrote {text.home(self.result.output)}, {size}."
        if isinstance(self.result, Sheet) and self.result.page is not None:
            return f"{self.tool}: wrote {text.home(self.result.page)}."
        return f"{self.tool}: done."

    # In the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self.result = self._run(self.request, self._progress)
            self._find_readers()
        except Cancelled:
            self.cancelled = True
            self.exit_code = 130
        except EngineError as error:
            self._failed(error)
        except MemoryError:
            what = "There is not enough memory."
            remedy = "Close other programs, or use a machine with more memory."
            self._failed(OutOfMemory(Problem(what, remedy=remedy)))
        except Exception as error:
            what = f"Something unforeseen went wrong: {type(error).__name__}: {error}"
            self.report = add_to_log("".join(traceback.format_exception(error)))
            self._failed(EngineError(Problem(what)))
        if self.output is not None:
            add_to_log(self.closing_line())

    def _find_readers(self) -> None:
        if isinstance(self.result, Looked):
            self._said(self.result.info)
        elif isinstance(self.result, Sheet):
            return
        elif isinstance(self.request, MergeRequest):
            self.reads = "every program that loads the base model"
        elif self.output is not None:
            # The file is there, whatever can be told of it.
            with contextlib.suppress(EngineError, OSError):
                self._said(describe(self.output))

    def _said(self, info: Info) -> None:
        if info.is_network:
            self.reads, self.reasons = words_of(info.readers), reasons_of(info.readers)

    def _failed(self, error: EngineError) -> None:
        self.problems = tuple(page_words(problem) for problem in error.problems)
        self.exit_code = error.exit_code

    def _progress(self, done: int, total: int, name: str) -> None:
        if self._stop.is_set():
            raise Cancelled
        with self._lock:
            self._stand = Stand(done, total, name)
