"""A recipe from its parts: preset, file, flags and `--set`, the later over the earlier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import Problem, RecipeError, UsageError
from engine.plan import Origin
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.toml import absolute_path, apply_sets, read_toml
from engine.settings.walk import setting
from lyctui.draft import flattened, network_keys
from lyctui.verbs.flags import Asked

Tree = dict[str, Any]
SIZES = frozenset({"rank", "alpha", "conv_rank", "conv_alpha"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked recipe, what it was made from, and who said each value."""

    recipe: Recipe
    data: Tree
    """The values that were given, by section."""
    given: dict[str, Origin] = field(default_factory=dict)


def load(recipe_file: Path | None, asked: Asked, preset: str | None = None) -> Loaded:
    """Put a recipe together and check it; raises RecipeError with every mistake."""
    own = read_toml(_readable(recipe_file)) if recipe_file is not None else {}
    return combine(own, asked, preset, where=str(recipe_file or ""))


def combine(own: Tree, asked: Asked, preset: str | None = None, *, where: str = "") -> Loaded:
    """Values of a file over those of a preset, flags and `--set` over both.

    Raises RecipeError with every mistake, those of the command line and of the file together.
    """
    problems: list[Problem] = []
    for change in set_texts(asked):
        try:
            own = apply_sets(own, [change])
        except RecipeError as error:
            problems += error.problems
    given = {path: Origin("you") for path in flattened(own) if path != "version"}
    data = own
    if preset is not None:
        below = preset_values(preset, own)
        for path in flattened(below):
            given.setdefault(path, Origin("preset", preset))
        data = merged(below, own)
    try:
        recipe = parse(data, where=where)
    except RecipeError as error:
        raise RecipeError(*problems, *error.problems) from None
    if problems:
        raise RecipeError(*problems)
    return Loaded(recipe, data, given)


def set_texts(asked: Asked) -> list[str]:
    """Flags and `--set` as `section.key=value`.

    A path on the command line is meant from where it was typed, not from the recipe's folder.
    """
    texts = [f"{path}={value}" for path, value in asked.flags.items()] + list(asked.sets)
    return [_with_path(text) for text in texts]


def _with_path(text: str) -> str:
    name, equals, value = text.partition("=")
    row = setting(name.strip())
    bare = value.strip().strip("\"'")
    if not equals or row is None or row.kind != "path" or bare in ("", "auto", "none"):
        return text
    return f"{name}={absolute_path(bare, Path.cwd())}"


def preset_values(name: str, above: Tree) -> Tree:
    """A preset's values, without settings that the algorithm chosen above it lacks."""
    from lyctui.paths import paths
    from lyctui.presets import load_preset

    values: Tree = load_preset(name, own=paths().config / "presets").values
    algorithm = above.get("network", {}).get("algorithm")
    known = network_keys(str(algorithm)) if algorithm is not None else None
    if known is None or "network" not in values:
        return values
    network = {key: value for key, value in values["network"].items() if key in known}
    if known != network_keys(str(values["network"].get("algorithm", "lora"))):
        # A rank means another size in another kind of network.
        network = {key: value for key, value in network.items() if key not in SIZES}
    return {**values, "network": network}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Sections of both; values of `above` win."""
    tree: Tree = {**below}
    for section, values in above.items():
        if isinstance(values, Mapping) and isinstance(tree.get(section), Mapping):
            tree[section] = {**tree[section], **values}
        else:
            tree[section] = values
    return tree


def _readable(recipe_file: Path) -> Path:
    path = recipe_file.expanduser()
    if path.is_dir() and (path / "run.toml").is_file():
        return path / "run.toml"
    if not path.is_file():
        raise UsageError(
            Problem(
                "There is no such recipe.",
                where=str(recipe_file),
                remedy="Write one with `lyctui new --write run.toml --no-start`.",
            )
        )
    return path
