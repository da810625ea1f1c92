"""`lyctui info`: what a network file is and holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import NetworkFileError, Problem
from lyctui import text
from lyctui.verbs.output import reporting, say, say_json

EXIT_PROBLEMS = 3
EVERYWHERE = ("ComfyUI", "A1111", "Forge", "diffusers", "kohya")
FULL_READERS = ("ComfyUI", "A1111", "Forge")
FAMILIES = {"sd_v1": "sd1", "sd_v2": "sd2", "sdxl": "sdxl"}


def show_info(file: Path, *, as_json: bool) -> int:
    """Say algorithm, ranks, triggers, problems and metadata of a network file."""
    with reporting(as_json):
        path = file.expanduser()
        if not path.is_file():
            what = "This is a folder." if path.is_dir() else "There is no such file."
            remedy = "Give a network file: .safetensors."
            raise NetworkFileError(Problem(what, where=str(file), remedy=remedy))
        found = info_object(path)
        if as_json:
            say_json({"path": str(file), **found})
        else:
            for line in info_lines(found):
                say(text.inert(line))
        return EXIT_PROBLEMS if found["problems"] else 0


def info_object(path: Path) -> dict[str, Any]:
    """The object of `info --json`; raises NetworkFileError where the file is unreadable."""
    from engine.networks.content import read_content
    from engine.tools.norms import change_norms

    content = read_content(path)
    problems = [content.foreign] if content.foreign is not None else []
    norms: dict[str, float] = {}
    if not problems:
        norms, weight_problems = change_norms(path, content.modules)
        problems += weight_problems
    metadata = content.header.metadata
    return {
        "kind": "network" if content.modules else "other",
        "family": _family(metadata),
        "algorithm": next(iter(content.algorithms), None),
        "bytes": content.header.bytes,
        "modules": [
            {
                "name": module.name,
                "rank": module.rank if module.rank is not None else "full",
                "alpha": module.alpha,
                "norm": norms.get(module.name),
            }
            for module in content.modules
        ],
        "triggers": _triggers(metadata),
        "loads_in": _loads_in(content.header.shapes) if not problems else [],
        "metadata": metadata,
        "problems": [str(problem) for problem in problems],
    }


def _family(metadata: dict[str, str]) -> str | None:
    base = metadata.get("ss_base_model_version", "")
    found = next((name for start, name in FAMILIES.items() if base.startswith(start)), None)
    return metadata.get("lyctui.family", found)


def _triggers(metadata: dict[str, str]) -> list[str]:
    words = metadata.get("modelspec.trigger_phrase", "")
    return [word.strip() for word in words.split(",") if word.strip()]


def _loads_in(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Programs that load the file, by networks.md section 4."""
    suffixes = {key.partition(".")[2] for key in shapes}
    if "lokr_t2" in suffixes:
        return ["A1111"]
    lokr = any(suffix.startswith("lokr_") for suffix in suffixes)
    return list(FULL_READERS if lokr or "lora_mid.weight" in suffixes else EVERYWHERE)


def info_lines(found: dict[str, Any]) -> list[str]:
    """The same in words, without the single modules."""
    modules = found["modules"]
    ranks = sorted({str(module["rank"]) for module in modules})
    norms = [module["norm"] for module in modules if module["norm"] is not None]
    parts = {
        "U-Net": sum(module["name"].startswith("lora_unet_") for module in modules),
        "text encoder": sum(module["name"].startswith("lora_te") for module in modules),
    }
    lines = [
        f"kind       {found['kind']}, {text.filesize(found['bytes'])}",
        f"family     {found['family'] or 'not told'}",
        f"algorithm  {found['algorithm'] or 'not known'}",
        f"modules    {len(modules)}: {', '.join(f'{name} {n}' for name, n in parts.items() if n)}",
        f"ranks      {', '.join(ranks)}",
    ]
    if norms:
        mean = text.significant(sum(norms) / len(norms))
        lines.append(f"change     mean norm {mean}, largest {text.significant(max(norms))}")
    lines.append(f"triggers   {', '.join(found['triggers']) or 'not told'}")
    lines.append(f"loads in   {', '.join(found['loads_in']) or 'not known'}")
    metadata = {name: value for name, value in found["metadata"].items() if name != "lyctui.recipe"}
    lines += [f"{name}: {text.fit(value, 90)}" for name, value in sorted(metadata.items())]
    lines += [f"✗ {problem}" for problem in found["problems"]]
    return lines
