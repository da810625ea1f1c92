"""From runs and network files to a sheet's request: what they tell is the default. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.errors import EngineError, ModelError, NetworkFileError, Problem, UsageError
from engine.inert import inert
from engine.models.detect import inspect_model
from engine.models.facts import ModelFacts
from engine.networks.content import Content, read_content
from engine.networks.kinds import for_tools
from engine.networks.layout_family import wrong_family
from engine.networks.metadata import recipe_in
from engine.prompt_files import all_prompts
from engine.prompts import LARGEST_GUIDANCE, LARGEST_SEED, MOST_STEPS, Prompt, parse_prompts
from engine.runs import RunFolder
from engine.settings import Recipe
from engine.settings.toml import read_recipe
from engine.sheet.values import SheetFile, SheetRequest, Wishes

LARGEST_STRENGTH = 10.0
MOST_STRENGTHS = 12
MOST_PICTURES = 400


def request_for_run(folder: Path, wishes: Wishes) -> SheetRequest:
    """A sheet of a run's saved files; raises EngineError with everything that is wrong."""
    files = spread(run_files(RunFolder(folder)), wishes.most_files)
    if not files:
        remedy = "Wait for its first epoch to end, or give a network file."
        raise UsageError(Problem("The run has no network file yet.", str(folder), remedy))
    return _request(files, wishes, _run_recipe(folder), folder)


def request_for_files(
    paths: Sequence[Path], wishes: Wishes, run: Path | None = None
) -> SheetRequest:
    """A sheet of network files; raises EngineError with everything that is wrong.

    Answers come from `run`, or from the run in whose folder the first file lies, or from the file.
    """
    files = [SheetFile(path, path.stem) for path in paths]
    beside = paths[0].absolute().parent
    if run is None and (beside / "run.toml").is_file():
        run = beside
    return _request(files, wishes, None if run is None else _run_recipe(run), run)


def run_files(folder: RunFolder) -> list[SheetFile]:
    """The network files of a run that are still there, in the order of their steps."""
    try:
        entries = json.loads(folder.manifest.read_text("utf-8"))
        listed = sorted(entries, key=lambda entry: int(entry["step"]))
        places = [(folder.path / str(one["file"]), int(one.get("epoch", 0))) for one in listed]
    # What a run's folder says of itself may be damaged, or made up.
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ):
        return []
    found = []
    for entry, (path, epoch) in zip(listed, places, strict=True):
        if path.parent == folder.path and path.is_file():
            by_step = "-step" in path.stem
            label = f"step {entry['step']}" if by_step else f"epoch {epoch}"
            found.append(SheetFile(path, label, epoch))
    return found


def spread(files: Sequence[SheetFile], most: int) -> list[SheetFile]:
    """At most so many, spread evenly, the last always among them; 0 takes all."""
    if most <= 0 or len(files) <= most:
        return list(files)
    return [files[math.ceil(len(files) * (place + 1) / most) - 1] for place in range(most)]


def _run_recipe(folder: Path) -> Recipe | None:
    try:
        return read_recipe(folder / "run.toml")
    except EngineError:  # Of a later version, say: the files tell what they can.
        return None


def _request(
    files: Sequence[SheetFile], wishes: Wishes, recipe: Recipe | None, run: Path | None
) -> SheetRequest:
    problems = list(_wish_problems(wishes, len(files)))
    contents, unreadable = _contents(files)
    told = recipe or (_recipe_inside(contents[0].header.metadata) if contents else None)
    prompts = wishes.prompts or (_prompts(told, run) if told is not None else ())
    if not prompts:
        remedy = 'Give --prompt "..." at least once.'
        problems.append(Problem("There is no prompt to paint.", remedy=remedy, path="prompts"))
    base = wishes.model or (recipe.model.path if recipe is not None else None)
    if base is None:
        remedy = "Give --model FILE: any base of the family."
        what = "The file does not tell where its base model is."
        problems.append(Problem(what, where=str(files[0].path), remedy=remedy, path="model"))
    if problems:
        raise UsageError(*problems)
    if unreadable:
        raise NetworkFileError(*unreadable)
    assert base is not None
    facts = _base_facts(base.expanduser())
    _check_families(contents, files, facts)
    made = SheetRequest(
        title=run.name if run is not None else ", ".join(inert(file.label) for file in files[:3]),
        files=tuple(files),
        base=base.expanduser(),
        prompts=tuple(prompts),
        strengths=wishes.strengths,
        steps=30,
        guidance=7.5,
        seed=0,
        zero_terminal_snr=facts.zero_terminal_snr,
    )
    if told is not None:
        made = _as_trained(made, told, own_base=wishes.model is None)
    elif contents:
        made = replace(made, **_kohya_values(contents[0].header.metadata))
    prediction = _prediction(told, contents[0].header.metadata, facts)
    return _as_wished(replace(made, prediction=prediction), wishes)


def _prediction(recipe: Recipe | None, metadata: Mapping[str, str], facts: ModelFacts) -> str:
    """What the file was trained with, where the base itself does not tell."""
    if not facts.prediction_assumed:
        return "auto"
    if recipe is not None and recipe.model.prediction != "auto":
        return recipe.model.prediction
    told = metadata.get("modelspec.prediction_type", "")
    return told if told in ("epsilon", "v") else "auto"


def _wish_problems(wishes: Wishes, files: int) -> Iterable[Problem]:
    strengths = wishes.strengths
    if not 1 <= len(strengths) <= MOST_STRENGTHS:
        yield Problem(f"Give 1 to {MOST_STRENGTHS} strengths.", path="strengths")
    for strength in strengths:
        if not abs(strength) <= LARGEST_STRENGTH:
            yield Problem(f"The strength cannot be {strength:g}.", path="strengths")
    if wishes.steps is not None and not 1 <= wishes.steps <= MOST_STEPS:
        yield Problem(f"steps must be from 1 to {MOST_STEPS}.", path="steps")
    if wishes.guidance is not None and not 0 <= wishes.guidance <= LARGEST_GUIDANCE:
        yield Problem(f"guidance must be from 0 to {LARGEST_GUIDANCE:g}.", path="guidance")
    if wishes.seed is not None and not 0 <= wishes.seed <= LARGEST_SEED:
        yield Problem(f"seed must be from 0 to {LARGEST_SEED}.", path="seed")
    for name, side in (("width", wishes.width), ("height", wishes.height)):
        if side is not None and not (64 <= side <= 4096 and side % 8 == 0):
            yield Problem(f"{name} must be a multiple of 8 from 64 to 4096.", path=name)
    count = files * len(strengths) * max(1, len(wishes.prompts))
    if count > MOST_PICTURES:
        remedy = "Give fewer files, strengths or prompts."
        yield Problem(f"That would be {count} pictures.", remedy=remedy)


def _contents(files: Iterable[SheetFile]) -> tuple[list[Content], list[Problem]]:
    contents: list[Content] = []
    problems: list[Problem] = []
    for file in files:
        if not file.path.is_file():
            what = "This is a folder." if file.path.is_dir() else "There is no such file."
            problems.append(Problem(what, where=str(file.path)))
            continue
        try:
            content = read_content(file.path)
        except NetworkFileError as error:
            problems += error.problems
            continue
        if content.foreign is not None:
            problems.append(replace(for_tools(content.foreign), where=str(file.path)))
        contents.append(content)
    return contents, problems


def _base_facts(base: Path) -> ModelFacts:
    facts = inspect_model(base)
    if facts.problems:
        raise ModelError(*facts.problems)
    return facts


def _check_families(
    contents: Sequence[Content], files: Sequence[SheetFile], facts: ModelFacts
) -> None:
    """A file of another family is refused before the base is loaded, where the headers tell."""
    if facts.family is None:
        return
    problems = [
        replace(stranger, where=str(file.path), path="")
        for content, file in zip(contents, files, strict=True)
        if (stranger := wrong_family(content.family, facts.family)) is not None
    ]
    if problems:
        raise NetworkFileError(*problems)


def _recipe_inside(metadata: Mapping[str, str]) -> Recipe | None:
    """The recipe that a file of ours carries, of whatever version as long as it can be read."""
    try:
        data = recipe_in(metadata)
        return Recipe.model_validate(data) if data else None
    except (NetworkFileError, ValidationError):
        return None


def _prompts(recipe: Recipe, run: Path | None) -> tuple[Prompt, ...]:
    """The prompts of the run as they were used last, else the recipe's, else the trigger words."""
    kept = None if run is None else RunFolder(run).samples / "prompts.txt"
    try:
        if kept is not None and kept.is_file():
            return parse_prompts([kept.read_text("utf-8")])
        found = all_prompts(recipe.sample.prompts, recipe.sample.prompts_file if run else None)
    except (EngineError, OSError, UnicodeDecodeError):
        found = ()
    words = " ".join(word for word in (recipe.data.trigger, recipe.data.class_word) if word)
    return found or ((Prompt(words),) if words else ())


def _as_trained(request: SheetRequest, recipe: Recipe, *, own_base: bool) -> SheetRequest:
    """How the run made its own pictures: schedule, clip skip, size, seed."""
    sample, model = recipe.sample, recipe.model
    across, down = recipe.data.resolution or (None, None)
    vae = model.vae if own_base and model.vae is not None and model.vae.exists() else None
    return replace(
        request,
        steps=sample.steps,
        guidance=sample.guidance,
        seed=sample.seed if sample.seed is not None else recipe.train.seed or 0,
        negative=sample.negative,
        sampler=sample.sampler,
        width=sample.width or across,
        height=sample.height or down,
        clip_skip=model.clip_skip or 1,
        zero_terminal_snr=recipe.objective.zero_terminal_snr or request.zero_terminal_snr,
        max_tokens=model.max_tokens,
        vae=vae,
        precision=recipe.train.precision,
    )


def _kohya_values(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file of kohya's tools says of clip skip and schedule."""
    found: dict[str, Any] = {}
    skip = metadata.get("ss_clip_skip", "")
    if skip.isdecimal() and 1 <= int(skip) <= 12:
        found["clip_skip"] = int(skip)
    if metadata.get("ss_zero_terminal_snr") == "True":
        found["zero_terminal_snr"] = True
    return found


def _as_wished(request: SheetRequest, wishes: Wishes) -> SheetRequest:
    names = ("negative", "seed", "steps", "sampler", "guidance", "width", "height", "device")
    asked = {name: getattr(wishes, name) for name in names}
    return replace(request, **{name: value for name, value in asked.items() if value is not None})
