"""What stands against a tool's answers, and what the files are: from paths and headers, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.errors import EngineError, Problem
from engine.networks.kinds import for_tools
from engine.tools import checks
from engine.tools.requests import (
    ConvertRequest,
    ExtractRequest,
    JoinRequest,
    MergeRequest,
    ResizeRequest,
)
from lyctui import text
from lyctui.tool_forms import InfoRequest, Request, ToolDraft

if TYPE_CHECKING:
    from engine.networks.content import Content

Level = Literal["done", "warning"]
WEIGHTS = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin"})
FAMILIES = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
IN_WORDS = {
    "Choose another name, or use --force to replace it.": "Choose another name, or set Overwrite to yes.",
    "--force": "Overwrite",
    "with --base": "as Base model (^T shows the field)",
    "Leave --to out": "Leave Becomes as it is",
    "--to diff": "Becomes: whole difference",
    "Add --to lora": "Let it become a LoRA",
    "lyctui convert --to lora --rank N": "the tool Convert, Becomes: LoRA",
    "--precision": "Numbers:",
    "--diff keeps": "whole differences keep",
    "--norms keeps": "the answer Norm layers: yes keeps",
}
"""Flags of the command line as this form calls them."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of a tool's answers before it runs."""

    problems: tuple[Problem, ...] = ()
    waiting: frozenset[str] = frozenset()
    """Fields that must be answered yet."""
    facts: tuple[tuple[Level, str], ...] = ()
    """What each file is."""
    writes: str = ""
    reads: str = ""
    """Which programs read the result."""

    @property
    def ready(self) -> bool:
        """Whether the tool may begin."""
        return not self.problems and not self.waiting


@dataclass(frozen=True, slots=True)
class _Network:
    path: Path
    family: str | None
    content: Content | None
    words: str = ""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Model:
    path: Path
    family: str | None
    words: str = ""
    problems: tuple[Problem, ...] = ()


def examine(draft: ToolDraft, wanted: Callable[[], None] = lambda: None) -> Findings:
    """Look at every file that is named so far; `wanted` may raise to end it early."""
    request, unread, missing = draft.request()
    problems = [*unread, *_of_request(request, missing)]
    bad = {(problem.path, problem.where) for problem in problems}
    facts: list[tuple[Level, str]] = []
    networks: list[_Network] = []
    models: list[_Model] = []
    for name, path in _inputs(request, missing):
        wanted()
        if (name, str(path)) in bad:
            continue
        found = _network(name, path) if name in ("source", "networks") else _model(name, path)
        (networks if isinstance(found, _Network) else models).append(found)  # type: ignore[arg-type]
        problems += found.problems
        if found.words:
            facts.append(("done", f"{text.inert(path.name)}: {found.words}"))
    if not problems:
        problems += _together(request, networks, models)
    if isinstance(request, InfoRequest):
        return Findings(tuple(problems), missing, tuple(facts))
    same = any(_same(request.output, path) for _, path in _inputs(request, missing))
    if same and request.force:
        facts.append(("warning", "The new file takes the place of one that is read."))
    writes = "" if "output" in missing else _writes(request)
    reads = _reads(request, networks) if not problems else ""
    return Findings(tuple(map(page_words, problems)), missing, tuple(facts), writes, reads)


def page_words(problem: Problem) -> Problem:
    """A problem with the form's names instead of the command line's."""
    return replace(problem, what=in_words(problem.what), remedy=in_words(problem.remedy))


def in_words(words: str) -> str:
    """A sentence with the form's names instead of the command line's."""
    for flag, name in IN_WORDS.items():
        words = words.replace(flag, name)
    return words


def _of_request(request: Request, missing: frozenset[str]) -> Iterable[Problem]:
    if isinstance(request, InfoRequest):
        for name, path in _inputs(request, missing):
            if not path.is_file():
                what = "This is a folder." if path.is_dir() else "There is no such file."
                yield Problem(what, where=str(path), path=name)
        return
    for problem in checks.problems_of(request):
        # A blank path is still to be answered, which is no mistake.
        if problem.path not in missing:
            yield _of_no_weights(problem)


def _of_no_weights(problem: Problem) -> Problem:
    """A picture, say, cannot be made a .safetensors file: another file is meant."""
    path = Path(problem.where)
    if problem.path == "output" or path.suffix.lower() in WEIGHTS or not path.is_file():
        return problem
    what = f"This is a {path.suffix} file, which holds no weights." if path.suffix else problem.what
    return replace(problem, what=what, remedy="Give a .safetensors file.")


def _inputs(request: Request, missing: frozenset[str]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path | None]] = []
    match request:
        case ResizeRequest():
            found = [("source", request.source)]
        case InfoRequest() | ConvertRequest():
            found = [("source", request.source), ("base", request.base)]
        case MergeRequest() | JoinRequest():
            found = [("base", request.base)]
            found += [("networks", one.path) for one in request.networks]
        case ExtractRequest():
            found = [("base", request.base), ("tuned", request.tuned)]
    return [(name, path) for name, path in found if path is not None and name not in missing]


# One file -------------------------------------------------------------------------------------


def _network(name: str, path: Path) -> _Network:
    from engine.networks.content import read_content

    try:
        content = read_content(path)
    except (EngineError, OSError) as error:
        return _Network(path, None, None, problems=_named(name, path, error))
    if content.foreign is not None and not content.modules:
        problem = replace(for_tools(content.foreign), where=str(path), path=name)
        return _Network(path, None, None, problems=(problem,))
    unknown = tuple(replace(one, path=name) for one in content.unknown)
    return _Network(path, content.family, content, _network_words(content), unknown)


def _network_words(content: Content) -> str:
    ranks = sorted({module.rank for module in content.modules if module.rank is not None})
    parts = [", ".join(content.algorithms)]
    if ranks:
        span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        parts[0] += f" rank {span}"
    parts.append(text.counted(len(content.modules), "module"))
    if content.family:
        parts.append(FAMILIES.get(content.family, content.family))
    parts.append(text.filesize(content.header.bytes))
    return text.inert(" · ".join(parts))


def _model(name: str, path: Path) -> _Model:
    from engine.models.detect import inspect_model

    try:
        facts = inspect_model(path)
    except (EngineError, OSError) as error:
        return _Model(path, None, problems=_named(name, path, error))
    if facts.family is None:
        what = facts.problems[0].what if facts.problems else "This is no base model."
        remedy = "Give a whole base model: one .safetensors file."
        return _Model(path, None, problems=(Problem(what, str(path), remedy, name),))
    parts = [facts.title, facts.dtype, text.filesize(facts.bytes)]
    return _Model(path, facts.family, " · ".join(part for part in parts if part))


def _named(name: str, path: Path, error: Exception) -> tuple[Problem, ...]:
    if isinstance(error, EngineError):
        return tuple(
            replace(one, where=one.where or str(path), path=name) for one in error.problems
        )
    return (Problem(f"It cannot be read: {error}.", where=str(path), path=name),)


# Files together -------------------------------------------------------------------------------


def _together(
    request: Request, networks: list[_Network], models: list[_Model]
) -> Iterable[Problem]:
    from engine.networks.layout_family import wrong_family

    name = "networks" if isinstance(request, MergeRequest | JoinRequest) else "source"
    for network in networks:
        for model in models[:1]:
            stranger = wrong_family(network.family, model.family)
            if stranger is not None:
                yield replace(stranger, where=str(network.path), path=name)
    families = {network.family for network in networks if network.family}
    if len(families) > 1 and not models:
        shown = " and ".join(sorted(FAMILIES.get(one, one) for one in families))
        yield Problem(
            f"The networks are of different families: {shown}.",
            remedy="Join networks of one family only.",
            path="networks",
        )
    if isinstance(request, ExtractRequest) and len({model.family for model in models}) > 1:
        shown = " and ".join(FAMILIES.get(str(model.family), "") for model in models)
        yield Problem(
            f"The two models are of different families: {shown}.",
            remedy="Give the base that the model was made from.",
            path="tuned",
        )


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _writes(request: checks.Request) -> str:
    try:
        size = request.output.stat().st_size if request.output.is_file() else None
    except OSError:
        size = None
    if size is None:
        return f"Writes {text.home(request.output)}, a new file."
    if request.force:
        return f"Replaces {text.home(request.output)} ({text.filesize(size)})."
    return f"Writes nothing: {text.home(request.output)} is there already."


def _reads(request: checks.Request, networks: list[_Network]) -> str:
    from lyctui.tool_readers import after_conversion, words_of

    if isinstance(request, MergeRequest):
        return "Read by every program that loads the base model."
    contents = [network.content for network in networks if network.content is not None]
    if not isinstance(request, ConvertRequest) or len(contents) != 1:
        return ""
    return f"Read by {words_of(after_conversion(contents[0], request))}."
