"""The demo as a job: the embedded base, its pictures, the recipe, and the judge of the result."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.events import Scored
from engine.runs import default_cache_folder, default_runs_folder

if TYPE_CHECKING:
    from PIL import Image

    from engine.session import Examine, Paint
    from engine.settings import Recipe
    from lyctui.monitor import LiveRun

BASE_PROMPTS_JUDGED = 24
"""Every second of the 48 prompts: pictures cost time, and the demo is to end in minutes."""
TRIGGER_PICTURES = 16
GRID_PICTURES = 8


def demo_recipe(runs: Path | None = None, *, quick: bool = False) -> Recipe:
    """The recipe of the demo, its base model unpacked; what the machine decides is still unset.

    `quick` trains a fraction of the steps: it shows the way, not the result.
    """
    from engine.settings.check import parse
    from lyctui.demo.asset import unpack_base
    from presets import DEMO_PATH, PRESETS_PATH

    values: dict[str, Any] = tomllib.loads((PRESETS_PATH / "demo.toml").read_text("utf-8"))
    values.pop("about")
    base = unpack_base(default_cache_folder() / "demo")
    values.setdefault("model", {})["path"] = str(base)
    values["data"] |= {"folder": str(DEMO_PATH / "img"), "reg_folder": str(DEMO_PATH / "reg")}
    values.setdefault("run", {})["folder"] = str(runs or default_runs_folder())
    if quick:
        values["train"]["epochs"] = 1
    return parse(values)


def open_demo(*, quick: bool = False) -> LiveRun:
    """The demo as a run in a folder of its own, not yet started."""
    from engine.plan import gather, plan
    from lyctui.monitor import open_run

    recipe = demo_recipe(quick=quick)
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    origins = {path: origin.to_dict() for path, origin in made.filled.origins.items()}
    folder: list[Path] = []
    run = open_run(made.recipe, origins, examine=examiner(lambda: folder[0]))
    folder.append(run.folder)
    return run


def examiner(folder: Callable[[], Path]) -> Examine:
    """Judge before and after: the concept by the trigger's prompts, the base by its own.

    The pictures of each time go to `folder()` as before.png and after.png.
    """

    def examine(when: Literal["before", "after"], paint: Paint) -> Scored:
        from lyctui.demo.prompts import base_prompts, trigger_prompts
        from lyctui.demo.score import score_base, score_concept

        prompts = base_prompts()[:: 48 // BASE_PROMPTS_JUDGED]
        with_trigger = paint(trigger_prompts(TRIGGER_PICTURES))
        without = paint(prompts)
        concept, base = score_concept(with_trigger), score_base(without, prompts)
        half = GRID_PICTURES // 2
        grid([*with_trigger[:half], *without[:half]], half).save(folder() / f"{when}.png")
        return Scored(
            when=when,
            concept=concept.recognised,
            base_shape=base.shape,
            base_background=base.background,
            base_colour=base.colour,
        )

    return examine


def grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size in rows of `columns`."""
    from PIL import Image as Images

    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Images.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def verdict(before: Scored, after: Scored) -> str:
    """What the two scores mean, in one line."""
    return (
        f"The emblem was recognised in {before.concept:.0%} of the pictures that ask for it before "
        f"training and in {after.concept:.0%} after; pictures that do not ask for it kept their "
        f"shape in {after.base_shape:.0%} and their background in {after.base_background:.0%}."
    )
