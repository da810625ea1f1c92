"""From a configuration of kohya's to a checked recipe and a report of every key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import Problem, RecipeError
from engine.inert import inert
from engine.kohya import data, datasets, loop, network, rates, schedules
from engine.kohya.given import Given, Work, tree
from engine.kohya.gui import gui_arguments
from engine.kohya.report import Imported
from engine.kohya.source import KIND_WORDS, FileKind, Source, read_source
from engine.settings import Recipe
from engine.settings.check import parse

MOST_REFUSALS = 40


def import_file(path: Path, dataset_config: Path | None = None) -> Imported:
    """Read a configuration; raises UsageError or RecipeError with everything that is wrong with it.

    `dataset_config` replaces the data set file that the configuration names.
    """
    place = path.expanduser().absolute()
    source = read_source(place)
    work = _work(source)
    chosen = dataset_config.expanduser().absolute() if dataset_config is not None else None
    named = place if source.kind == "dataset" else chosen or work.path("dataset_config")
    problems = _translate(
        work, source.kind, named, asked=chosen is not None or source.kind == "dataset"
    )
    problems = [*work.problems, *problems]
    if problems:
        raise RecipeError(*(replace(one, where=str(path)) for one in problems))
    recipe = _checked(work, str(path))
    rows = sorted((*work.rows.values(), *work.extra), key=lambda row: row.status == "default")
    return Imported(recipe, tree(work.values), tuple(rows), KIND_WORDS[source.kind])


def _work(source: Source) -> Work:
    folder = source.path.parent
    if source.kind == "gui":
        return gui_arguments(source.data, folder)
    if source.kind == "dataset":
        return Work({}, folder)
    return Work({str(name): Given(value, str(name)) for name, value in source.data.items()}, folder)


def _translate(work: Work, kind: FileKind, dataset: Path | None, *, asked: bool) -> list[Problem]:
    """Every part in its turn; gives what a data set file that must be there has wrong."""
    problems: list[Problem] = []
    gui = kind == "gui"
    data.model(work)
    if dataset is not None:
        problems = datasets.read(work, dataset, asked=asked)
    data.fields(work)
    data.pictures(work)
    if kind == "dataset":
        _only_data(work)
        return problems
    network.network(work)
    rates.rates(work)
    rates.optimizer(work)
    schedules.schedule(work)
    samples = datasets.samples(work)
    loop.length(work, gui, samples)
    loop.precision(work)
    loop.saving(work, samples)
    loop.logging(work)
    loop.samples(work, gui)
    work.rest()
    return problems


def _only_data(work: Work) -> None:
    """A data set file says nothing of training: that stays as it is here."""
    said = {path for row in (*work.rows.values(), *work.extra) for path in row.settings}
    work.values = {
        path: value
        for path, value in work.values.items()
        if path.startswith("data.")
        or (path == "train.batch_size" and "train_batch_size" in work.given)
    }
    work.extra = [
        row for row in work.extra if row.status != "default" or set(row.settings) & set(work.values)
    ]
    # sd-scripts has caches and workers in the configuration of the training.
    for path in ("data.cache_latents", "data.vae_batch"):
        if path not in said:
            work.values.pop(path, None)


def _checked(work: Work, where: str) -> Recipe:
    """The recipe; values that no recipe can have are left out, and their rows say so."""
    for _ in range(MOST_REFUSALS):
        try:
            return parse(_plain(tree(work.values)), where=where)
        except RecipeError as error:
            # One at a time: dropping all at once would drop both sides of a contradiction.
            if not any(work.refuse(replace(one, where="")) for one in error.problems):
                raise
    raise RecipeError(Problem("Nothing usable is left of this file.", where=where))


def _plain(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Values as a recipe's file has them: text that no file can hold is made inert."""
    return {
        section: {
            key: inert(value, 4000) if isinstance(value, str) and not value.isprintable() else value
            for key, value in content.items()
        }
        for section, content in found.items()
    }
