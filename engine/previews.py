"""Preview pictures of a run: when they are due, with which prompts, and what becomes of failures."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from engine.assemble import Training
from engine.checkpoint.atomic import write_text
from engine.checkpoint.state import Place
from engine.errors import EngineError, OutOfMemory, RecipeError, TrainingError
from engine.events import Event, Phase, Sampled, Warned
from engine.memory import is_out_of_memory
from engine.picture_files import NOTE_FIELD, SETTINGS_FIELD, write_picture
from engine.prompts import line_of, parse_prompts
from engine.runs import RunFolder
from engine.sampling import Defaults, Shot, paint_one
from engine.sheet.grid import draw_strip, save_png

if TYPE_CHECKING:
    from engine.prompts import Prompt
    from engine.settings.sample import Sample

Emit = Callable[[Event], None]
LARGEST_PROMPTS = 1_000_000
"""Bytes of the prompts file that are read."""
HEAD = (
    "# The prompts of this run, read again before each set of pictures: change them at any time.",
)
MARK = "# Written for the recipe's prompts "
MARKED = re.compile(rf"^{MARK}\w+\.$", re.MULTILINE)


class Interrupted(Exception):
    """The user waits for the run to stop; pictures can be made again."""


class RunPrompts:
    """`samples/prompts.txt` of a run: written at its start, read again before each set of pictures.

    Changes survive a resume, unless the recipe's own prompts were changed meanwhile.
    """

    def __init__(self, samples: Path, prompts: Sequence[Prompt]) -> None:
        self.path = samples / "prompts.txt"
        self.prompts = tuple(prompts)
        lines = [line_of(prompt) for prompt in prompts]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        self._mark = f"{MARK}{digest}."
        self._text = "\n".join([*HEAD, self._mark, *lines, ""])

    def write(self) -> None:
        """Put the recipe's prompts there, unless a file for them, or a file of the user's own, is there.

        What was made for other prompts is kept beside it. Where nothing can be written the run has
        other worries, and the prompts are known.
        """
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                marks = MARKED.findall(self.path.read_text("utf-8", "replace"))
                if not marks or self._mark in marks:
                    return
                self.path.replace(self.path.with_name("prompts.old.txt"))
            write_text(self.path, self._text)

    def read(self) -> str:
        """Take what the file says now; gives what is wrong, in words, and then keeps the last ones."""
        try:
            with self.path.open("rb") as file:
                text = file.read(LARGEST_PROMPTS).decode("utf-8-sig")
            self.prompts = parse_prompts([text])
        except OSError:
            return ""
        except UnicodeDecodeError:
            return f"{self.path.name} is not UTF-8; the prompts from before are used."
        except RecipeError as error:
            wrong = "; ".join(
                f"{one.where.partition(', ')[2]}: {one.what}" for one in error.problems
            )
            return f"{self.path.name}: {wrong} The prompts from before are used."
        return ""


class Previews:
    """Makes the preview pictures of a run. `emit` hears of them and of what went wrong."""

    def __init__(
        self,
        training: Training,
        folder: RunFolder,
        emit: Emit,
        *,
        sample: Sample,
        prompts: Sequence[Prompt],
        defaults: Defaults,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self._training = training
        self._folder = folder
        self._emit = emit
        self._sample = sample
        self._defaults = defaults
        self._stop_asked = stop_asked
        self._prompts = RunPrompts(folder.samples, prompts)
        self._prompts.write()
        self._made_at = time.monotonic()
        self._told_equal = False

    def due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether preview pictures are due after this step."""
        sample = self._sample
        if not self._prompts.prompts:
            return False
        if place.step == 0:
            return sample.at_start
        by_epoch = ends_epoch and every(place.epoch, sample.every_epochs)
        return by_epoch or every(place.step, sample.every_steps) or last or self._overdue()

    def _overdue(self) -> bool:
        minutes = self._sample.every_minutes
        return minutes > 0 and time.monotonic() - self._made_at >= minutes * 60

    def make_if_missing(self, place: Place, *, last: bool) -> bool:
        """Pictures of this place, unless all were made before the run was interrupted."""
        made = (self._folder.samples / f"{place.step:06d}").glob("step-*.png")
        due = self.due(place, ends_epoch=True, last=last)
        if not due or sum(1 for _ in made) >= len(self._prompts.prompts):
            return False
        self.make(place)
        return True

    def make(self, place: Place) -> None:
        """Make the preview pictures; a failure here is told and training goes on."""
        self._made_at = time.monotonic()
        wrong = self._prompts.read()
        if wrong:
            self._emit(Warned(wrong))
        prompts = self._prompts.prompts
        if not prompts:
            where = f"{self._folder.samples.name}/{self._prompts.path.name}"
            self._emit(Warned(f"No pictures were made: there are no prompts in {where}."))
            return
        self._emit(Phase("sampling", 0, len(prompts)))
        try:
            made = self._paint(prompts)
            paths = self._write(made, place) if made else []
        except Interrupted:
            self._emit(Warned(f"The pictures of step {place.step} were left out: stop was asked."))
            return
        # Whatever broke: pictures can be made of the saved files too, training cannot be had again.
        except Exception as error:
            self._emit(Warned(f"No pictures were made at step {place.step}: {_told(error)}"))
            return
        if paths:
            texts = tuple(prompts[number].text for number in made)
            self._emit(Sampled(place.step, place.epoch, tuple(map(str, paths)), texts))

    def _paint(self, prompts: Sequence[Prompt]) -> dict[int, Image.Image]:
        """Pictures by the number of their prompt; what cannot be made is told and left out."""
        network = self._training.network
        network.eval()
        made: dict[int, Image.Image] = {}
        try:
            for number, shot in enumerate(self._defaults.shots(prompts)):
                picture = self._painted(shot, number)
                if picture is not None:
                    made[number] = picture
                self._emit(Phase("sampling", number + 1, len(prompts)))
        finally:
            network.at_timesteps(None)
            network.train()
            self._training.model.park(*self._training.resting)
        return made

    def _painted(self, shot: Shot, number: int) -> Image.Image | None:
        training = self._training
        try:
            picture = paint_one(training.model, shot, self._at_timestep, spare=training.resting)
        except (OutOfMemory, TrainingError) as error:
            why = "; ".join(f"{one.what} {one.remedy}".strip() for one in error.problems)
            self._emit(Warned(f"The picture of prompt {number + 1} was left out: {why}"))
            return None
        if NOTE_FIELD in picture.info:
            self._emit(Warned(f"The picture of prompt {number + 1}: {picture.info[NOTE_FIELD]}"))
        return picture

    def _at_timestep(self, timestep: torch.Tensor) -> None:
        if self._stop_asked():
            raise Interrupted
        self._training.network.at_timesteps(timestep.reshape(1))

    def _write(self, made: dict[int, Image.Image], place: Place) -> list[Path]:
        # Made only now, so that pictures which were broken off are made after a resume.
        folder = self._folder.samples / f"{place.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._compare(made, place)
        paths = [
            write_picture(folder, picture, prompt_index=number, step=place.step)
            for number, picture in made.items()
        ]
        if len(made) > 1:
            title = f"{self._folder.name}, step {place.step}, epoch {place.epoch}"
            words = [self._prompts.prompts[number].text for number in made]
            save_png(draw_strip(title, list(made.values()), words), folder.with_suffix(".png"))
        return paths

    def _compare(self, made: dict[int, Image.Image], place: Place) -> None:
        """Tell once if the network leaves every picture as it was before training."""
        if place.step == 0 or self._told_equal:
            return
        before = [first_picture(self._folder.samples, number) for number in made]
        pairs = [
            (old, new)
            for old, new in zip(before, made.values(), strict=True)
            if old is not None
            and all(old.info.get(one) == new.info.get(one) for one in (SETTINGS_FIELD, NOTE_FIELD))
        ]
        if pairs and all(old.tobytes() == new.tobytes() for old, new in pairs):
            self._told_equal = True
            self._emit(
                Warned(
                    f"The pictures of step {place.step} equal those before training: the network "
                    "changes nothing yet. Is a learning rate too low, or the warmup long?"
                )
            )


def _told(error: Exception) -> str:
    """What went wrong, in words; what nobody foresaw goes to the log with its place."""
    if is_out_of_memory(error):
        return "there is not enough memory. Lower sample.width and sample.height."
    if not isinstance(error, EngineError | OSError):
        logging.getLogger("engine").error("%s", traceback.format_exc())
    return str(error) or type(error).__name__


def first_picture(samples: Path, number: int) -> Image.Image | None:
    """The picture of a prompt from before the first step, with its text fields; None without one."""
    for path in (samples / f"{0:06d}").glob(f"step-{0:06d}_{number}_*.png"):
        try:
            with Image.open(path) as picture:
                picture.load()
                picture.info = dict(getattr(picture, "text", {}))
                return picture.copy()
        except (OSError, ValueError):
            return None
    return None


def every(number: int, interval: int) -> bool:
    """Whether a count has come to a multiple of an interval; 0 is never."""
    return interval > 0 and number > 0 and number % interval == 0
