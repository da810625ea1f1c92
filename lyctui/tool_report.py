"""What a tool's report and a looked-into file say, as lines. Knows no screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from engine.tools.requests import ModuleReport, ToolReport
from lyctui import text
from lyctui.report import Line, folded
from lyctui.text import Signs
from lyctui.tool_check import in_words
from lyctui.tool_work import Looked, ToolWork

if TYPE_CHECKING:
    from engine.tools.info import Info

MOST_WORST = 8
MOST_LISTED = 40
MUCH_LOST = 0.1
ROUNDED = (
    "Much of the change is smaller than the model's numbers can tell apart. Numbers: fp32 keeps it."
)
CUT = "A good part of the change is not in the file. A higher rank or a smaller error keeps more."
VISIBLE_ERROR = 1e-6
"""Below it a module is not worth a row."""
LABEL = 12
BESIDE_MODULE = 38
ALPHA_CELLS = 11
FAMILY_TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}
BESIDE_NAME = 31
COMPONENTS = {"unet": "U-Net", "te": "text encoder", "te2": "second text encoder"}
LONG_METADATA = frozenset({"lyctui.recipe", "lyctui.tool"})
"""Entries that are files of their own."""


def share(number: float) -> str:
    """A relative error as people read it: "exact", "0.031 %"."""
    if number == 0:
        return "exact"
    percent = number * 100
    return f"{text.significant(percent, 2)} %" if percent >= 0.0001 else "below 0.0001 %"


def lines_of(work: ToolWork, signs: Signs, width: int) -> list[Line]:
    """What came of a tool, broken for `width` columns."""
    if isinstance(work.result, ToolReport):
        lines = report_lines(work.result, signs, work.reads, work.reasons, width=width)
    elif isinstance(work.result, Looked):
        lines = info_lines(work.result, signs, work.reads, work.reasons, width=width)
    else:
        lines = []
    return [part for line in lines for part in _hanging(line, width)]


def _hanging(line: Line, width: int) -> list[Line]:
    """A row's words go on below their beginning, not below the label."""
    if len(line) != 2 or text.cells(line[0][0]) > LABEL:
        return folded([line], width)
    (head, first), (words, role) = line
    indent = text.cells(head)
    parts = text.wrap(words, max(16, width - indent))
    heads = [(head, first)] + [(" " * indent, "")] * (len(parts) - 1)
    return [(start, (part, role)) for start, part in zip(heads, parts, strict=True)]


def report_lines(
    report: ToolReport,
    signs: Signs,
    reads: str = "",
    reasons: Iterable[str] = (),
    *,
    width: int = 76,
) -> list[Line]:
    """What was written, what it cost, what was left out, what to know."""
    size = text.filesize(report.bytes)
    lines: list[Line] = [
        ((f"{signs.done} {'Written':<{LABEL - 2}}", "done"), (text.home(report.output), "strong")),
        _row("Size", f"{size}, numbers {report.precision}"),
        _row("Modules", _modules(report)),
    ]
    if report.ranks:
        lines.append(_row("Ranks", _ranks(report.ranks)))
    lines.append(_row("Error", _error(report)))
    if reads:
        lines.append(_row("Read by", reads))
    lines += [_row("", reason, "dim") for reason in reasons]
    if report.error >= MUCH_LOST:
        remedy = ROUNDED if report.tool == "merge" else CUT
        lines.append(((f"{signs.warning} ", "warning"), (remedy, "")))
    for note in report.notes:
        lines.append(((f"{signs.warning} ", "warning"), (text.inert(in_words(note)), "")))
    lines += _worst(report, max(30, width - BESIDE_NAME))
    if report.skipped:
        lines += [
            (),
            ((f"Left out: {text.counted(len(report.skipped), 'entry', 'entries')}", "strong"),),
        ]
        lines += [((f"  {text.inert(one)}", ""),) for one in report.skipped[:MOST_LISTED]]
        if len(report.skipped) > MOST_LISTED:
            lines.append(((f"  and {len(report.skipped) - MOST_LISTED} more", "dim"),))
    return lines


def _row(label: str, words: str, role: str = "") -> Line:
    return ((f"  {label:<{LABEL - 2}}", "dim"), (words, role))


def _modules(report: ToolReport) -> str:
    counted: dict[str, int] = {}
    for module in report.modules:
        counted[module.algorithm] = counted.get(module.algorithm, 0) + 1
    every = ", ".join(
        f"{text.inert(name)} {text.grouped(count)}" for name, count in counted.items()
    )
    return f"{text.grouped(len(report.modules))}: {every}" if every else "0"


def _ranks(ranks: Mapping[int, int]) -> str:
    if len(ranks) == 1:
        return f"{next(iter(ranks))} everywhere"
    if len(ranks) <= 6:
        return ", ".join(f"{rank} ({count})" for rank, count in ranks.items())
    low, high = min(ranks), max(ranks)
    total = sum(ranks.values())
    mean = sum(rank * count for rank, count in ranks.items()) / total
    return f"{low} to {high}, {text.significant(mean)} on average"


def _error(report: ToolReport) -> str:
    if report.error == 0:
        return "none: every tensor is exact"
    return f"{share(report.error)} of the whole change, rounding included"


def _worst(report: ToolReport, cells: int) -> list[Line]:
    erring = sorted(
        (module for module in report.modules if module.error >= VISIBLE_ERROR),
        key=lambda module: -module.error,
    )
    if not erring:
        return []
    lines: list[Line] = [(), (("Largest errors", "strong"),)]
    cells = min(cells, max(text.cells(text.inert(one.name)) for one in erring[:MOST_WORST]))
    for module in erring[:MOST_WORST]:
        lines.append(
            (
                (f"  {text.pad_left(share(module.error), 15)}  ", ""),
                (text.pad(text.fit_middle(text.inert(module.name), cells), cells), ""),
                (f"  {_kind(module)}", "dim"),
            )
        )
    return lines


def _kind(module: ModuleReport) -> str:
    return f"{module.algorithm}{'' if module.rank is None else f' {module.rank}'}"


# A file that was looked into ------------------------------------------------------------------


def info_lines(
    found: Looked,
    signs: Signs,
    reads: str = "",
    reasons: Iterable[str] = (),
    *,
    width: int = 76,
) -> list[Line]:
    """What a network file is and holds."""
    info = found.info
    sign, role = (signs.warning, "warning") if found.problems else (signs.done, "done")
    lines: list[Line] = [
        ((f"{sign} {'File':<{LABEL - 2}}", role), (text.home(info.path), "strong")),
        _row("Size", f"{text.filesize(info.bytes)}, {text.grouped(info.parameters)} parameters"),
        _row("Algorithm", _told(info.algorithms) or "not known"),
        _row("Family", _family(info)),
        _row("Modules", _components(info)),
        _row("Ranks", _told(info.ranks)),
        _row("Alphas", _told(info.alphas)),
        _row("Strength", _told(info.scales) + "  (alpha / rank)"),
        _row("Numbers", ", ".join(f"{name} {count}" for name, count in info.dtypes.items())),
        *_norm_rows(found),
        _row("Trigger", text.inert(info.trigger) or "not told"),
    ]
    if reads:
        lines.append(_row("Read by", reads))
    lines += [_row("", reason, "dim") for reason in reasons]
    resume = "a new run can start from it" if info.resumable else "no run here can start from it"
    recipe = "its recipe is inside" if info.has_recipe else "it carries no recipe"
    lines.append(_row("Training", f"{resume}; {recipe}"))
    told = (f"{name}: {value}" for name, value in info.training.items())
    lines += [_row("", text.inert(words)) for words in told]
    lines += [
        ((f"{signs.error} ", "error"), (text.inert(in_words(str(problem))), ""))
        for problem in found.problems
    ]
    lines += [((f"{signs.warning} ", "warning"), (text.inert(one), "")) for one in info.left_out]
    return lines + _module_table(found, max(30, width - BESIDE_MODULE)) + _metadata(info)


def _family(info: Info) -> str:
    told = info.family_of_tensors or info.family
    return FAMILY_TITLES.get(told, text.inert(told)) or "not told"


def _norm_rows(found: Looked) -> list[Line]:
    norms = list(found.norms.values())
    if not norms:
        return []
    mean = text.significant(sum(norms) / len(norms))
    words = f"norm {mean} on average, {text.significant(max(norms))} at most"
    unknown = len(found.info.modules) - len(norms)
    if unknown > 0:
        words += f"; that of {text.grouped(unknown)} hangs on the base model: give it (^T)"
    return [_row("Change", words)]


def _module_table(found: Looked, cells: int) -> list[Line]:
    modules = sorted(found.info.modules, key=lambda one: -found.norms.get(one.name, 0.0))
    if not modules:
        return []
    lines: list[Line] = [(), (("Modules, the largest change first", "strong"),)]
    # Told above where it is the same everywhere.
    alphas = len(found.info.alphas) > 1
    cells += 0 if alphas else ALPHA_CELLS
    cells = min(cells, max(text.cells(text.inert(one.name)) for one in modules))
    for module in modules:
        norm = found.norms.get(module.name)
        kind = f"{module.algorithm}{'' if module.rank is None else f' {module.rank}'}"
        alpha = f"alpha {module.alpha:g}" if alphas and module.alpha is not None else ""
        lines.append(
            (
                (f"  {text.pad_left('-' if norm is None else text.significant(norm), 8)}  ", ""),
                (text.pad(text.fit_middle(text.inert(module.name), cells), cells), ""),
                (f"  {text.pad(kind, 9)} {alpha}", "dim"),
            )
        )
    return lines


def _metadata(info: Info) -> list[Line]:
    entries = {key: told for key, told in info.metadata.items() if key not in LONG_METADATA}
    if not entries:
        return []
    count = text.counted(len(entries), "entry", "entries")
    lines: list[Line] = [(), ((f"Metadata: {count}", "strong"),)]
    for key, told in sorted(entries.items()):
        words = text.fit(text.inert(" ".join(told.split())), 300)
        lines.append(((f"  {text.inert(key)}  ", "dim"), (words, "")))
    return lines


def _components(info: Info) -> str:
    parts = [f"{COMPONENTS.get(name, name)} {n}" for name, n in info.components.items()]
    every = f"{text.counted(len(info.modules), 'module')}, {text.counted(info.tensors, 'tensor')}"
    return f"{every}: {', '.join(parts)}" if parts else every


def _told(counted: Mapping[str, int]) -> str:
    if not counted:
        return "none"
    if len(counted) == 1:
        return text.inert(next(iter(counted)))
    return text.listed((f"{text.inert(value)} ({count})" for value, count in counted.items()), 5)
