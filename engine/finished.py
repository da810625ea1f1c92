"""After the last step: the finished file is loaded into a clean base and compared, and what came out told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.assemble import Training
from engine.checkpoint.state import Place
from engine.errors import Problem
from engine.events import Event, Phase, Proved, Warned
from engine.optim.averaged import averaged_weights
from engine.proof import Painter, Proof, prove
from engine.runs import RunFolder
from engine.sampling import Defaults, Shot

if TYPE_CHECKING:
    from engine.prompts import Prompt
    from engine.settings import Recipe

Emit = Callable[[Event], None]

FAULTY_EXIT = 1
"""The run is finished, and its file does not do what was trained."""
STEPS = {"cpu": 2}
"""Of the picture that is compared; more of them where they cost nothing."""
USUAL_STEPS = 6
LONGEST_SIDE = 256
GRID = 64
"""Sides that every U-Net halves without a rest."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LeftOut(Exception):
    """The user asked to stop while the file was being checked."""


def prove_finished(
    recipe: Recipe,
    training: Training,
    path: Path,
    place: Place,
    emit: Emit,
    *,
    prompts: Sequence[Prompt],
    defaults: Defaults,
    stop_asked: Callable[[], bool],
) -> Problem | None:
    """Check the finished file, and emit Proved; gives what is wrong with it, or None.

    The network is in front of the base, in evaluation mode, and stays so.
    """

    def look() -> None:
        if stop_asked():
            raise LeftOut

    emit(Phase("checking the file"))
    shot = proof_shot(recipe, training, prompts, defaults)
    painter = Painter(training.model, shot, training.resting, look)
    dtype = DTYPES[recipe.save.precision]
    try:
        with averaged_weights(training):
            proof = prove(path, training.network, painter, dtype=dtype)
    except LeftOut:
        emit(Warned("The finished file was not checked to the end: stop was asked."))
        return None
    if proof.left_out:
        emit(Warned(f"The finished file was not checked to the end. {proof.left_out}"))
    if proof.findings or proof.faults:
        findings, faults = tuple(proof.findings), tuple(proof.faults)
        emit(Proved(str(path), place.step, proof.good, findings, faults))
    if proof.good:
        return None
    problem = _problem(proof, path)
    emit(Warned(str(problem)))
    return problem


def proof_shot(
    recipe: Recipe, training: Training, prompts: Sequence[Prompt], defaults: Defaults
) -> Shot:
    """A small picture in few steps: the first prompt, or the words that were trained."""
    words = " ".join(filter(None, (recipe.data.trigger, recipe.data.class_word)))
    first = prompts[0].text if prompts else words
    width, height = smallest_bucket(training)
    return Shot(
        prompt=first,
        negative="",
        width=width,
        height=height,
        seed=training.seed,
        steps=STEPS.get(training.device.type, USUAL_STEPS),
        guidance=1.0,
        clip_skip=defaults.clip_skip,
        zero_terminal_snr=defaults.zero_terminal_snr,
        max_tokens=defaults.max_tokens,
    )


def smallest_bucket(training: Training) -> tuple[int, int]:
    """The smallest size that was trained, no side of it longer than needed."""
    plans = training.order.epoch(1)
    sizes = {batch.bucket for plan in plans for batch in plan.batches}
    smallest = min(sizes, key=lambda size: size[0] * size[1])
    width, height = (max(GRID, min(side, LONGEST_SIDE) // GRID * GRID) for side in smallest)
    return width, height


def _problem(proof: Proof, path: Path) -> Problem:
    return Problem(
        f"The finished file does not do what was trained: {'; '.join(proof.faults)}.",
        where=path.name,
        remedy="The state is saved, and earlier files may be sound. Check disk and memory of this"
        " machine, then write it again from an earlier state with"
        f" `lyctui resume {RunFolder(path.parent).called} --from-step N`.",
    )
