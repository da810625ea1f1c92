"""What a run read at its start, its pictures, captions and base: kept, compared, and watched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from engine.assemble import Training
from engine.checkpoint.atomic import write_text
from engine.data.caption_files import extension_of
from engine.data.changed import DataWatch, FileWatch
from engine.data.findings import shown
from engine.data.record import (
    RECORD,
    differences,
    missing_or_replaced,
    read_records,
    records_of,
    to_text,
)
from engine.errors import DataError, ModelError, Problem
from engine.models.folder import model_files
from engine.runs import RunFolder
from engine.settings import Recipe


class RunData:
    """The files that a run was made from. To be made before any of them is read."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self._recipe = recipe
        self._folder = folder
        self._base = FileWatch(_base_files(recipe))
        self._data: DataWatch | None = None

    @contextlib.contextmanager
    def explained(self, *, resume: bool) -> Iterator[None]:
        """Within it a data set that is refused on a resume is told by what became of its files, too."""
        try:
            yield
        except DataError as error:
            before = read_records(self._folder.path) if resume else None
            if before is None:
                raise
            found = missing_or_replaced(before, self._pictures(), self._recipe.data.reg_folder)
            raise DataError(*found, *error.problems) from error

    def read(self, training: Training) -> None:
        """Everything was read and hashed; raises ModelError where the base changed meanwhile.

        What its hash says and what was loaded would be two things.
        """
        changed = self._base.changed()
        if changed:
            raise ModelError(
                Problem(
                    "The base model was changed while it was being read.",
                    where=shown(changed[0]),
                    remedy="Wait until it is whole, then start again.",
                    path="model.path",
                )
            )
        survey, data = training.survey, self._recipe.data
        masks = (item.mask.path for item in survey.items if item.mask is not None)
        self._data = DataWatch(
            [concept.path for concept in survey.concepts if concept.repeats > 0],
            [path.parent for path in masks if path is not None],
            (extension_of(data.caption_extension),),
        )
        self._records = records_of(survey.items, self._pictures(), data.reg_folder)

    def differences(self) -> list[Problem]:
        """What is not as it was when the run began; empty where nothing tells."""
        before = read_records(self._folder.path)
        if before is None:
            return []
        reg = self._recipe.data.reg_folder
        return differences(before, self._records, self._pictures(), reg)

    def keep(self) -> None:
        """Write down what the data is. Where that fails, a later resume can only tell less."""
        text, path = to_text(self._records), self._folder.path / RECORD
        with contextlib.suppress(OSError):
            if not path.exists() or path.read_text("utf-8", "replace") != text:
                write_text(path, text)

    def news(self) -> tuple[str, ...]:
        """What has changed on the disk since the run began, each file once, in sentences."""
        said = self._data.news() if self._data is not None else ""
        base = [
            f"{shown(path.name)} of the base model was changed since the run began; it trains with"
            " what it read at its start, and a resume needs the old file."
            for path in self._base.news()
        ]
        return (*filter(None, (said,)), *base)

    def _pictures(self) -> Path:
        assert self._recipe.data.folder is not None, "a data set was read from it"
        return self._recipe.data.folder


def _base_files(recipe: Recipe) -> list[Path]:
    """Files of the base, and of the VAE that is given beside it."""
    given = (recipe.model.path, recipe.model.vae)
    return [file for path in given if path is not None for file in model_files(path.expanduser())]
