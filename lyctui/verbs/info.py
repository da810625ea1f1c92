"""`lyctui info`: what a network file is and holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import NetworkFileError, Problem
from lyctui import text
from lyctui.verbs.output import reporting, say, say_json, table

if TYPE_CHECKING:
    from engine.tools.info import Info

EXIT_PROBLEMS = 3
FAMILIES = {"sd_v1": "sd1", "sd_v2": "sd2", "sdxl": "sdxl"}
LEVELS = {"yes": "loads in", "partly": "partly", "no": "not in"}
LONG = frozenset({"lyctui.recipe", "lyctui.tool"})


def show_info(file: Path, *, as_json: bool, norms: bool = False, base: Path | None = None) -> int:
    """Say algorithm, ranks, triggers, readers, problems and metadata of a network file."""
    with reporting(as_json):
        path = file.expanduser()
        if not path.is_file():
            what = "This is a folder." if path.is_dir() else "There is no such file."
            remedy = "Give a network file: .safetensors."
            raise NetworkFileError(Problem(what, where=str(file), remedy=remedy))
        found = info_object(path, base)
        if as_json:
            say_json({"path": str(file), **found})
        else:
            for line in info_lines(found, norms=norms):
                say(text.inert(line))
        return EXIT_PROBLEMS if found["problems"] else 0


def info_object(path: Path, base: Path | None = None) -> dict[str, Any]:
    """The object of `info --json`; raises NetworkFileError where the file is unreadable.

    With the base also norms of changes that depend on it.
    """
    from engine.networks.kinds import for_tools
    from engine.tools.info import describe
    from engine.tools.norms import change_norms

    info = describe(path)
    problems = [] if info.is_network else [for_tools(problem) for problem in info.problems]
    norms: dict[str, float] = {}
    if info.is_network:
        norms, weight_problems = change_norms(path, base)
        problems += weight_problems
    readers = info.readers if not problems else {}
    return {
        "kind": "network" if info.modules else "other",
        "family": _family(info),
        "algorithm": info.algorithm or None,
        "algorithms": info.algorithms,
        "bytes": info.bytes,
        "dtypes": info.dtypes,
        "modules": [
            {
                "name": module.name,
                "algorithm": module.algorithm,
                "rank": module.rank if module.rank is not None else "full",
                "alpha": module.alpha,
                "norm": norms.get(module.name),
            }
            for module in info.modules
        ],
        "components": info.components,
        "triggers": [word.strip() for word in info.trigger.split(",") if word.strip()],
        "training": info.training,
        "loads_in": [name for name, (level, _) in readers.items() if level == "yes"],
        "readers": {
            name: {"level": level, "reason": reason} for name, (level, reason) in readers.items()
        },
        "trainable": info.resumable,
        "left_out": list(info.left_out),
        "metadata": info.metadata,
        "problems": [str(problem) for problem in problems],
    }


def _family(info: Info) -> str | None:
    if info.family_of_tensors:
        return info.family_of_tensors
    told = info.family
    found = next((name for start, name in FAMILIES.items() if told.startswith(start)), told)
    return found or None


def info_lines(found: dict[str, Any], *, norms: bool = False) -> list[str]:
    """The same in words; the single modules only with `norms`."""
    modules = found["modules"]
    ranks = sorted({str(module["rank"]) for module in modules}, key=lambda rank: (len(rank), rank))
    alphas = sorted({module["alpha"] for module in modules if module["alpha"] is not None})
    counted = ", ".join(f"{name} {count}" for name, count in found["algorithms"].items())
    parts = ", ".join(f"{PARTS.get(name, name)} {n}" for name, n in found["components"].items())
    lines = [
        f"kind       {found['kind']}, {text.filesize(found['bytes'])}",
        f"family     {found['family'] or 'not told'}",
        f"algorithm  {counted or 'not known'}",
    ]
    if modules:
        lines += [f"modules    {len(modules)}: {parts}", f"ranks      {', '.join(ranks)}"]
    if alphas:
        lines.append(f"alphas     {', '.join(f'{alpha:g}' for alpha in alphas[:8])}")
    lines += _norm_lines(modules)
    lines.append(f"triggers   {', '.join(found['triggers']) or 'not told'}")
    lines += _reader_lines(found["readers"])
    lines += [f"{name}: {value}" for name, value in found["training"].items()]
    if modules and not found["trainable"]:
        lines.append("It cannot be trained on here.")
    lines += found["left_out"]
    if norms:
        lines += _module_lines(modules)
    metadata = {name: value for name, value in found["metadata"].items() if name not in LONG}
    lines += [f"{name}: {text.fit(value, 90)}" for name, value in sorted(metadata.items())]
    lines += [f"✗ {problem}" for problem in found["problems"]]
    return lines


PARTS = {"unet": "U-Net", "te": "text encoder", "te2": "second text encoder"}


def _norm_lines(modules: list[dict[str, Any]]) -> list[str]:
    norms = [module["norm"] for module in modules if module["norm"] is not None]
    if not norms:
        return []
    mean = text.significant(sum(norms) / len(norms))
    lines = [f"change     mean norm {mean}, largest {text.significant(max(norms))}"]
    if len(norms) < len(modules):
        unknown = len(modules) - len(norms)
        lines.append(
            f"           {unknown} modules change by what the base is: give it with --base"
        )
    return lines


def _reader_lines(readers: dict[str, dict[str, str]]) -> list[str]:
    if not readers:
        return ["loads in   not known"]
    lines = []
    for level, words in LEVELS.items():
        names = [name for name, verdict in readers.items() if verdict["level"] == level]
        if names:
            lines.append(f"{words:<10} {', '.join(names)}")
    lines += [
        f"           {name} {verdict['reason']}."
        for name, verdict in readers.items()
        if verdict["reason"] and verdict["level"] != "yes"
    ]
    return lines


def _module_lines(modules: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            text.fit(module["name"], 80),
            module["algorithm"],
            str(module["rank"]),
            "" if module["alpha"] is None else f"{module['alpha']:g}",
            "" if module["norm"] is None else text.significant(module["norm"]),
        )
        for module in modules
    ]
    return table(rows, header=("module", "algorithm", "rank", "alpha", "norm"))
