"""One run from its recipe to its end: assemble, restore, train, and say what came out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from engine.assemble import Training, assemble
from engine.checkpoint.resume import Lineage, restore
from engine.checkpoint.state import Identity, Place, this_machine
from engine.control import Control
from engine.errors import DataError, OutOfMemory, Problem, RecipeError
from engine.events import Acknowledged, Ended, Event, Phase, Started, Warned
from engine.finished import FAULTY_EXIT, prove_finished
from engine.labels import file_metadata
from engine.loggers import open_loggers, require_loggers
from engine.memory import is_out_of_memory
from engine.optim.averaged import averaged_weights
from engine.outputs import Outputs, Tally
from engine.patience import Unsaved
from engine.previews import Previews, RunPrompts
from engine.prompt_files import all_prompts
from engine.prompts import parse_prompts
from engine.rollback import Rollback
from engine.run_data import RunData
from engine.runs import RunFolder, saved_step
from engine.sampling import Defaults, paint
from engine.settings import Recipe
from engine.settings.toml import portable
from engine.trainer import Stopped, train

if TYPE_CHECKING:
    from PIL import Image

    from engine.prompts import Prompt
    from engine.session import Examine

Emit = Callable[[Event], None]

STOPPED_EXIT = 130
"""Stopped by the user, state saved; a signal's own code is the process's affair."""


def conduct(
    recipe: Recipe,
    folder: RunFolder,
    cache: Path,
    control: Control,
    emit: Emit,
    *,
    resume: bool,
    from_step: int | None,
    examine: Examine | None,
) -> Ended:
    """Run a filled recipe in its folder; gives the last event. Errors rise as EngineError."""
    began, clock = time.time(), time.monotonic()
    require_loggers(recipe.run)
    _set_device_modes(recipe)
    loggers = open_loggers(recipe.run, folder, portable(recipe))
    emit = loggers.telling(emit)

    def progress(phase: str, done: int, total: int) -> None:
        emit(Phase(phase, done, total))
        if control.asked("stop"):
            raise StoppedEarly

    try:
        # Before anything dear: a wrong flag would end the run only at its first pictures.
        prompts = _prompts(recipe, folder, emit, resume=resume)
        data = RunData(recipe, folder)
        with data.explained(resume=resume):
            training = assemble(recipe, cache, progress, folder.path)
        identity = identify(recipe, training)
        data.read(training)
        place, lineage = Place(), Lineage()
        if resume:
            place, lineage = restore(
                folder, training, identity, from_step=from_step, changed_data=data.differences()
            )
        data.keep()
        tally = Tally(began, clock, seconds_before=lineage.seconds, lineage=lineage.hops)
        previews = Previews(
            training,
            folder,
            emit,
            sample=recipe.sample,
            prompts=prompts,
            defaults=_preview_defaults(recipe, training),
            stop_asked=lambda: control.asked("stop"),
        )
        outputs = _outputs(recipe, training, folder, emit, previews, identity, tally, control)
        outputs.news = data.news
        emit(_started(training, folder, place, lineage.notes))
        for warning in (*training.notices, *lineage.warnings):
            emit(Warned(warning))
        judge = Judge(examine, _painter(training, recipe, progress))

        def prove(at: Place) -> Problem | None:
            return prove_finished(
                recipe,
                training,
                folder.final,
                at,
                emit,
                prompts=prompts,
                defaults=_preview_defaults(recipe, training),
                stop_asked=lambda: control.asked("stop"),
            )

        return _train_to_end(training, outputs, control, emit, folder, place, judge, prove)
    except StoppedEarly:
        step = from_step or saved_step(folder) if resume else 0
        return _ended_early(folder, control, emit, step, time.monotonic() - clock)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        raise OutOfMemory(_device_memory(recipe, "GPU" if on_gpu else "machine")) from None
    finally:
        loggers.close()


def _outputs(
    recipe: Recipe,
    training: Training,
    folder: RunFolder,
    emit: Emit,
    previews: Previews,
    identity: Identity,
    tally: Tally,
    control: Control,
) -> Outputs:
    return Outputs(
        training,
        folder,
        folder.name,
        emit,
        save=recipe.save,
        previews=previews,
        identity=identity,
        metadata=lambda at: file_metadata(recipe, training, at, tally),
        tally=tally,
        control=control,
    )


class StoppedEarly(Exception):
    """The user asked to stop before the first step: nothing is lost by leaving."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges the network before and after training, and with whose pictures."""

    examine: Examine | None
    paint: Callable[[Sequence[str]], list[Image.Image]]

    def look(self, when: Literal["before", "after"], emit: Emit) -> None:
        """Emit the score, if anybody asked for one."""
        if self.examine is not None:
            emit(Phase("scoring"))
            emit(self.examine(when, self.paint))


def _train_to_end(
    training: Training,
    outputs: Outputs,
    control: Control,
    emit: Emit,
    folder: RunFolder,
    place: Place,
    judge: Judge,
    prove: Callable[[Place], Problem | None],
) -> Ended:
    began = time.monotonic()
    state: Literal["finished", "stopped"] = "finished"
    message, fault = "", None
    training.network.eval()
    if place.step == 0:
        judge.look("before", emit)
    emit(Phase("training"))
    try:
        rollback = Rollback(training, outputs, folder, emit, place)
        place = train(training, outputs, control, emit, place, rollback)
    except Stopped as asked:
        state, place = "stopped", asked.place
    except Unsaved as left:
        state, place, message = "stopped", left.place, left.message
    except DataError as error:
        raise _not_there(error, max(outputs.saved_states, default=place.step), folder) from error
    else:
        training.network.eval()
        fault = prove(place)
        with contextlib.suppress(StoppedEarly):
            judge.look("after", emit)
    finally:
        training.loader.close()
    training.network.eject()
    faulty = () if fault is None else (asdict(fault),)
    exit_code = FAULTY_EXIT if faulty else 0
    return Ended(
        state=state,
        run=str(folder.path),
        files=tuple(outputs.files),
        steps=place.step,
        exit=exit_code if state == "finished" else STOPPED_EXIT,
        seconds=time.monotonic() - began,
        message=message if fault is None else fault.what,
        problems=faulty,
    )


def _not_there(error: DataError, saved: int, folder: RunFolder) -> DataError:
    """A picture that training needs and that is not there, or is not what it was."""
    kept = f"The state of step {saved} is saved. " if saved else ""
    go_on = f"{kept}Put it back as it was, then go on with `lyctui resume {folder.called}`."
    return DataError(*(replace(problem, remedy=go_on) for problem in error.problems))


def _ended_early(
    folder: RunFolder, control: Control, emit: Emit, step: int, seconds: float
) -> Ended:
    for request in control.take():
        emit(Acknowledged(request, step))
    return Ended(
        state="stopped",
        run=str(folder.path),
        files=(),
        steps=step,
        exit=STOPPED_EXIT,
        seconds=seconds,
    )


def identify(recipe: Recipe, training: Training) -> Identity:
    """What this run's states belong to."""
    versions, machine = this_machine()
    return Identity(
        recipe=portable(recipe),
        data_fingerprint=training.survey.fingerprint(),
        base_sha256=training.model.sha256,
        threads=torch.get_num_threads(),
        versions=versions,
        machine=machine,
        vae_sha256=training.model.vae_hash,
    )


def _started(
    training: Training, folder: RunFolder, place: Place, notes: tuple[str, ...]
) -> Started:
    total = None
    if training.device.type == "cuda":
        total = torch.cuda.get_device_properties(training.device).total_memory
    return Started(
        run=folder.name,
        total_steps=training.total_steps,
        steps_per_epoch=training.steps_per_epoch,
        batch_size=training.order.batch_size,
        samples_per_epoch=training.order.samples_per_epoch,
        step=place.step,
        device=str(training.device),
        vram_total_bytes=total,
        pid=os.getpid(),
        rate_factor=training.guard.rate_factor,
        notes=notes,
    )


def _set_device_modes(recipe: Recipe) -> None:
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    if recipe.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def _prompts(recipe: Recipe, folder: RunFolder, emit: Emit, *, resume: bool) -> tuple[Prompt, ...]:
    """The recipe's prompts; a resume does with those of the run where the recipe's file is gone."""
    try:
        return all_prompts(recipe.sample.prompts, recipe.sample.prompts_file)
    except RecipeError as error:
        if not resume:
            raise
        emit(Warned(f"{error} The prompts of the run's own folder are used."))
        kept = RunPrompts(folder.samples, ())
        kept.read()
        return kept.prompts


def _preview_defaults(recipe: Recipe, training: Training) -> Defaults:
    """How the pictures are made: prediction type, schedule, clip skip and tokens as in training."""
    sample = recipe.sample
    return Defaults(
        steps=sample.steps,
        guidance=sample.guidance,
        width=sample.width or training.resolution[0],
        height=sample.height or training.resolution[1],
        seed=training.seed if sample.seed is None else sample.seed,
        clip_skip=training.clip_skip,
        negative=sample.negative,
        sampler=sample.sampler,
        zero_terminal_snr=recipe.objective.zero_terminal_snr,
        max_tokens=recipe.model.max_tokens,
    )


def _painter(
    training: Training, recipe: Recipe, progress: Callable[[str, int, int], None]
) -> Callable[[Sequence[str]], list[Image.Image]]:
    def paint_prompts(texts: Sequence[str]) -> list[Image.Image]:
        prompts = parse_prompts(texts)
        network = training.network
        with averaged_weights(training):
            pictures = paint(
                training.model,
                prompts,
                steps=recipe.sample.steps,
                guidance=recipe.sample.guidance,
                width=training.resolution[0],
                height=training.resolution[1],
                seed=0,
                clip_skip=training.clip_skip,
                negative="",
                zero_terminal_snr=recipe.objective.zero_terminal_snr,
                max_tokens=recipe.model.max_tokens,
                on_picture=lambda done: progress("scoring", done, len(prompts)),
                at_timestep=lambda timestep: network.at_timesteps(timestep.reshape(1)),
                spare=training.resting,
            )
        network.at_timesteps(None)
        training.model.park(*training.resting)
        return pictures

    return paint_prompts


def _device_memory(recipe: Recipe, where: str) -> Problem:
    steps = []
    if not recipe.train.checkpointing:
        steps.append("switch train.checkpointing on")
    if (recipe.train.batch_size or 1) > 1:
        steps.append(f"lower train.batch_size from {recipe.train.batch_size}")
    if (recipe.optim.te_lr or 0) > 0:
        steps.append("set optim.te_lr to 0")
    steps.append("lower data.resolution")
    return Problem(
        f"The {where} ran out of memory.",
        remedy=f"To save memory, in this order: {'; '.join(steps)}. Then start again.",
    )
