"""`lyctui export`: a recipe as the nearest command of kohya's sd-scripts, and what differs there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError, Problem, UsageError
from lyctui import text
from lyctui.verbs.flags import Asked
from lyctui.verbs.output import reporting, say, say_json

if TYPE_CHECKING:
    from engine.data.folders import ConceptFolder
    from engine.kohya.export import Exported
    from engine.models.detect import ModelFacts
    from engine.settings import Recipe


def export_recipe(recipe_file: Path, *, output: Path | None, as_json: bool) -> int:
    """Say or write the command with the files it needs; files that are there are left alone."""
    with reporting(as_json):
        from engine.kohya.export import export
        from lyctui.verbs.recipes import load

        recipe, family, prediction = filled(load(recipe_file, Asked()).recipe)
        made = export(recipe, family=family, prediction=prediction, concepts=concepts_of(recipe))
        names = beside(output)
        if output is not None:
            _write(made, output, names)
        if as_json:
            _say_object(made, output, names)
        elif output is None:
            _say(made, names)
        else:
            for path in _files(made, output, names):
                say(f"{text.inert(str(path))} is written.")
            say(f"{len(made.differences)} differences stand at its head.")
        return 0


def filled(recipe: Recipe) -> tuple[Recipe, str, str]:
    """The recipe with its open values, and what the base's file tells of itself."""
    from engine.hardware import read_hardware
    from engine.plan import Facts, fill

    model = _model_facts(recipe)
    facts = Facts(read_hardware(), model=model)
    family = str(model.family or "") if model is not None else ""
    prediction = str(model.prediction or "") if model is not None else ""
    return fill(recipe, facts).recipe, family, prediction


def _model_facts(recipe: Recipe) -> ModelFacts | None:
    from engine.models.detect import inspect_model

    if recipe.model.path is None:
        return None
    try:
        return inspect_model(recipe.model.path)
    except EngineError:
        # A base on another machine: the recipe still says most of it.
        return None


def concepts_of(recipe: Recipe) -> tuple[ConceptFolder, ...]:
    """The folders as they are on disk; none where they cannot be read."""
    from engine.data.folders import FolderOverride, read_folders
    from engine.data.names import class_text

    data = recipe.data
    if data.folder is None or not data.folder.expanduser().is_dir():
        return ()
    overrides = {one.name: FolderOverride(one.repeats, one.text, one.flip) for one in data.folders}
    found = read_folders(
        data.folder.expanduser(),
        layout=data.layout,
        overrides=overrides,
        default_repeats=data.repeats,
        default_text=class_text(data.trigger, data.class_word),
    ).concepts
    if data.reg_folder is None or not data.reg_folder.expanduser().is_dir():
        return found
    reg = read_folders(data.reg_folder.expanduser(), overrides=overrides, is_reg=True)
    return (*found, *reg.concepts)


def beside(output: Path | None) -> tuple[str, str]:
    """Where the data set and prompt files are: beside the command, which runs in another folder."""
    if output is None:
        return "kohya-dataset.toml", "kohya-prompts.txt"
    place = output.expanduser().absolute()
    names = (f"{place.stem}-dataset.toml", f"{place.stem}-prompts.txt")
    return str(place.with_name(names[0])), str(place.with_name(names[1]))


def _files(made: Exported, output: Path, names: tuple[str, str]) -> list[Path]:
    paths = [output]
    paths += [Path(names[0])] * bool(made.dataset)
    return paths + [Path(names[1])] * bool(made.prompts)


def _write(made: Exported, output: Path, names: tuple[str, str]) -> None:
    from engine.checkpoint.atomic import write_text

    paths = _files(made, output.expanduser(), names)
    taken = [path for path in paths if path.exists()]
    if taken:
        problems = [
            Problem("The file exists already.", where=str(path), remedy="Give another name.")
            for path in taken
        ]
        raise UsageError(*problems)
    texts = [made.text(*names), *filter(None, (made.dataset, made.prompts))]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, texts, strict=True):
            write_text(path, content)
    except OSError as error:
        what = f"The command cannot be written: {error.strerror or error}."
        raise UsageError(Problem(what, where=str(output))) from None


def _say(made: Exported, names: tuple[str, str]) -> None:
    for name, content in zip(
        ("", *names), (made.text(*names), made.dataset, made.prompts), strict=True
    ):
        if content:
            if name:
                say(f"\n# {name}")
            for line in content.rstrip("\n").splitlines():
                say(text.inert(line))


def _say_object(made: Exported, output: Path | None, names: tuple[str, str]) -> None:
    say_json(
        {
            "command": made.text(*names),
            "dataset": {"name": names[0], "text": made.dataset} if made.dataset else None,
            "prompts": {"name": names[1], "text": made.prompts} if made.prompts else None,
            "differences": made.differences,
            "written": None if output is None else str(output),
        }
    )
