"""A run that had to encode its pictures alone is killed; resumed with memory and no cache it ends the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.assemble_data import ALONE
from engine.events import Event, StepDone, Warned
from engine.models.stable_diffusion import StableDiffusion
from engine.runs import RunFolder
from engine.session import Session, create_run, stored_recipe
from engine.settings import Recipe
from tests.one_thread import one_thread as one_thread
from tests.small_run import draw_pictures, small_recipe, tensor_bytes

NOT_SAVED = 3
"""Steps until the process dies; its last state is of an earlier one."""


class Killed(BaseException):
    """The thread ends with it as with its process: nothing is saved, nobody is told."""


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many pictures fit at once; their latents tell how many they were encoded with."""
    encode, fitting = StableDiffusion.encode_images, {"pictures": 1}

    def limited(self: StableDiffusion, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        if len(pixels_BCHW) > fitting["pictures"]:
            raise torch.OutOfMemoryError("out of memory by a test")
        mean_BCHW, std_BCHW = encode(self, pixels_BCHW)
        return mean_BCHW + 1e-4 * len(pixels_BCHW), std_BCHW

    monkeypatch.setattr(StableDiffusion, "encode_images", limited)
    return fitting


def recipe_of(root: Path) -> Recipe:
    if not (root / "pictures").exists():
        draw_pictures(root / "pictures" / "2_vexilo emblem", 4)
    return small_recipe(
        root,
        data={"vae_batch": 2, "cache_latents": "disk"},
        network={"algorithm": "lora", "rank": 1, "alpha": 1.0, "targets": "unet-up-blocks"},
        optim={"te_lr": 0.0},
        train={"epochs": 1},
        save={"every_steps": 2},
    )


def run(folder: Path, *, resume: bool = False, kill: bool = False) -> list[Event]:
    told: list[Event] = []
    session = Session(stored_recipe(folder), folder, cache=folder.parent / "cache", resume=resume)
    emit = session.emit

    def emitted(event: Event) -> None:
        emit(event)
        told.append(event)
        if kill and isinstance(event, StepDone) and event.step == NOT_SAVED:
            raise Killed

    session.emit = emitted  # type: ignore[method-assign]
    if not kill:
        session.start()
        assert session.wait(120)
        assert session.error is None, session.error
        return told
    with pytest.raises(Killed):
        session._run()
    return told


@pytest.mark.slow
def test_the_last_bits_do_not_tell_when_memory_was_short(
    memory: dict[str, int], tmp_path: Path
) -> None:
    golden = create_run(recipe_of(tmp_path))
    run(golden)
    wanted = tensor_bytes(RunFolder(golden).final)

    folder = create_run(recipe_of(tmp_path))
    shutil.rmtree(tmp_path / "runs" / "cache")
    run(folder, kill=True)
    assert (folder / ALONE).exists()
    memory["pictures"] = 2
    shutil.rmtree(tmp_path / "runs" / "cache")
    told = run(folder, resume=True)
    assert any(
        isinstance(one, Warned) and "one at a time, as before" in one.message for one in told
    )
    assert tensor_bytes(RunFolder(folder).final) == wanted
