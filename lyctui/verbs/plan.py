"""`lyctui plan`: what a recipe will do before it does it."""

from __future__ import annotations

from pathlib import Path

from engine.plan import Plan, arithmetic_line, gather, plan
from engine.planning.family import how_told
from lyctui import text
from lyctui.readers import loading_words
from lyctui.verbs.flags import Asked
from lyctui.verbs.output import reporting, say, say_json, table
from lyctui.verbs.recipes import load
from lyctui.verbs.start import require_answers

SHOWN_ORIGINS = ("detected", "drawn", "preset")


def show_plan(recipe_file: Path, asked: Asked, *, preset: str | None, as_json: bool) -> int:
    """Say steps, buckets, memory and files of a recipe."""
    with reporting(as_json):
        loaded = load(recipe_file, asked, preset)
        require_answers(loaded.recipe)
        made = plan(loaded.recipe, gather(loaded.recipe), loaded.given)
        made.raise_errors()
        if as_json:
            say_json(made.to_dict())
        else:
            for line in plan_lines(made):
                say(text.inert(line))
        return 0


def plan_lines(made: Plan) -> list[str]:
    """The plan as lines of text."""
    recipe, sizes = made.recipe, made.sizes
    lines = [arithmetic_line(made), _epochs(made), ""]
    rows = [
        (
            f"{row.width}×{row.height}",
            text.grouped(row.images),
            text.grouped(row.samples),
            text.grouped(row.batches),
            f"{row.last_batch} of {recipe.train.batch_size}",
        )
        for row in made.buckets
    ]
    lines += table(rows, header=("bucket", "pictures", "samples", "batches", "last batch"))
    lines += [
        "",
        *_base(made),
        f"Device    {made.device.name}: {made.device.reason}",
        _memory(made),
    ]
    parts = [f"{name} {text.memory(size)}" for name, size in made.memory.parts.items() if size]
    lines.append(f"          {' · '.join(parts)}")
    lines.append("Time      not known before the first steps")
    file_words = "known after loading the model"
    if sizes.file_bytes is not None:
        file_words = f"{text.filesize(sizes.file_bytes)} each, {sizes.files} of them"
    lines.append(f"Files     {file_words}")
    lines.append(f"Loads in  {loading_words(sizes.network.readers)}")
    lines.append(f"Disk      about {text.filesize(sizes.disk_bytes)} in all")
    lines += ["", *_origins(made)]
    lines += [f"! {notice}" for notice in made.notices]
    lines += [f"! {f.message}" for f in made.findings if f.level == "warning"]
    return lines


def _base(made: Plan) -> list[str]:
    """What the base is, and what told it."""
    base, wanted = made.base, made.recipe.model.prediction
    if base is None:
        return []
    if base.family is None:
        return [f"Base      {base.title}"]
    side = f", made for {base.native_resolution} px" if base.native_resolution else ""
    chosen = made.filled.origins["model.prediction"].source != "detected"
    prediction = wanted if wanted != "auto" else base.prediction
    why = "your choice" if chosen and wanted != "auto" else base.prediction_source
    return [
        f"Base      {base.title}, told by {how_told(base)}{side}",
        f"          predicts {prediction} ({why})",
    ]


def _epochs(made: Plan) -> str:
    steps = set(made.steps_per_epoch)
    each = text.grouped(steps.pop()) if len(steps) == 1 else "see --json"
    seen = made.exposures
    exposures = ""
    if seen is not None and seen[0] == seen[1]:
        exposures = f"; {text.grouped(seen[0])} exposures an image"
    return f"{text.counted(len(made.steps_per_epoch), 'epoch')}, steps in each: {each}{exposures}"


def _memory(made: Plan) -> str:
    memory = made.memory
    low, high = text.memory(memory.low), text.memory(memory.high)
    return f"Memory    {low} to {high} (estimate) of {text.memory(made.sizes.memory_free)} free"


def _origins(made: Plan) -> list[str]:
    rows = []
    for path, origin in made.filled.origins.items():
        if origin.source in SHOWN_ORIGINS or (origin.source == "default" and origin.reason):
            section, key = path.split(".")
            value = getattr(getattr(made.recipe, section), key)
            rows.append((path, _shown(value), origin.source, origin.reason))
    return table(rows, header=("proposed", "value", "from", "because")) if rows else []


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return text.fit(str(value), 40)
