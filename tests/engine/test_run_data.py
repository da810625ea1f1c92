"""Data and base that change under a run: noticed, told, and never in the way of the golden bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.control import Control
from engine.data.record import RECORD
from engine.errors import DataError, ModelError, RunError
from engine.events import Event, Saved, StepDone, Warned
from engine.runs import RunFolder
from engine.session import Session, create_run, stored_recipe
from engine.settings import Recipe
from tests.small_run import draw_pictures, small_recipe, tensor_bytes
from tests.tiny import write_tiny_sd1

Watch = Callable[[Event, Control], None]
PICTURES = "2_vexilo emblem"
NETWORK = {"algorithm": "lora", "rank": 1, "alpha": 1.0, "targets": "unet-up-blocks"}


def recipe_of(root: Path, **data: Any) -> Recipe:
    """A run of six steps in two epochs over three pictures."""
    if not (root / "pictures").exists():
        draw_pictures(root / "pictures" / PICTURES, 3)
    return small_recipe(
        root,
        data=data,
        network=NETWORK,
        optim={"te_lr": 0.0},
        train={"batch_size": 2, "epochs": 2},
    )


def run(recipe: Recipe, folder: Path, watch: Watch, *, resume: bool = False) -> Session:
    """Run a session to its end, `watch` seeing each event as it happens."""
    sessions: list[Session] = []
    session = Session(
        recipe,
        folder,
        cache=folder.parent / "cache",
        resume=resume,
        on_event=lambda event: watch(event, sessions[0].control),
    )
    sessions.append(session)
    session.start()
    assert session.wait(240)
    return session


def calmly(event: Event, control: Control) -> None:
    """Let the run go."""


def after_step(step: int, what: Callable[[], object]) -> Watch:
    """Do something as soon as a step was done."""

    def watch(event: Event, control: Control) -> None:
        if isinstance(event, StepDone) and event.step == step:
            what()

    return watch


def warnings_of(session: Session) -> list[str]:
    return [each.message for each in session.snapshot().log if isinstance(each, Warned)]


def golden(recipe: Recipe) -> str:
    folder = create_run(recipe)
    session = run(recipe, folder, calmly)
    assert session.error is None, session.error
    return tensor_bytes(RunFolder(folder).final)


@pytest.mark.slow
def test_what_was_read_at_the_start_is_trained_whatever_becomes_of_the_files(
    tmp_path: Path,
) -> None:
    recipe = recipe_of(tmp_path)
    base, pictures = tmp_path / "tiny.safetensors", tmp_path / "pictures" / PICTURES
    wanted = golden(recipe)

    def disturb() -> None:
        (pictures / "00.txt").write_text("something else")
        (pictures / "01.txt").write_text("something else")
        (pictures / "02.png").unlink()
        # In place: what was mapped from the file would be other weights, or kill the process.
        with base.open("r+b") as file:
            file.write(bytes(base.stat().st_size // 2))
            file.truncate()

    folder = create_run(recipe)
    session = run(recipe, folder, after_step(1, disturb))
    assert session.error is None, session.error
    assert tensor_bytes(RunFolder(folder).final) == wanted
    assert warnings_of(session) == [
        "Captions 00.txt, 01.txt were edited and picture 02.png was removed since the run began; "
        "it trains with what it read at its start.",
        "tiny.safetensors of the base model was changed since the run began; it trains with what it "
        "read at its start, and a resume needs the old file.",
    ]
    write_tiny_sd1(base, seed=5)
    resumed = run(stored_recipe(folder, ["train.epochs=3"]), folder, calmly, resume=True)
    assert isinstance(resumed.error, RunError)
    said = [problem.what for problem in resumed.error.problems]
    where = f"of {PICTURES}"
    assert said == [
        "The base model is another file than the one this run began with.",
        f"1 picture was removed since this run began: {PICTURES}/02.png.",
        f"2 captions were edited since this run began: {where}/00.png, {PICTURES}/01.png.",
    ]


def removed(picture: Path) -> None:
    picture.unlink()


def replaced(picture: Path) -> None:
    Image.new("RGB", (128, 128), "yellow").save(picture)


def half_written(picture: Path) -> None:
    with picture.open("r+b") as file:
        file.truncate(picture.stat().st_size // 2)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [removed, replaced, half_written], ids=lambda harm: harm.__name__)
def test_a_picture_that_is_needed_and_not_there_ends_the_run_with_its_state_saved(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    recipe = recipe_of(tmp_path, random_crop=True)
    wanted = golden(recipe) if harm is removed else ""
    pictures = tmp_path / "pictures"
    shutil.copytree(pictures, tmp_path / "kept")
    folder = create_run(recipe)

    def harm_all() -> None:
        for picture in pictures.rglob("*.png"):
            harm(picture)

    session = run(recipe, folder, after_step(1, harm_all))
    assert isinstance(session.error, DataError)
    assert session.exit_code == 4
    (problem,) = session.error.problems
    assert ".png" in problem.where
    assert problem.remedy == (
        f"The state of step 1 is saved. Put it back as it was, then go on with `lyctui resume "
        f"{RunFolder(folder).called}`."
    )
    refused = run(stored_recipe(folder), folder, calmly, resume=True)
    told = {removed: "3 pictures were removed", replaced: "3 pictures were replaced"}
    assert told.get(harm, "3 pictures were replaced") in str(refused.error)
    if harm is removed:
        shutil.rmtree(pictures)
        shutil.copytree(tmp_path / "kept", pictures)
        resumed = run(stored_recipe(folder), folder, calmly, resume=True)
        assert resumed.error is None, resumed.error
        assert tensor_bytes(RunFolder(folder).final) == wanted


def test_a_lost_cache_entry_whose_picture_is_gone_too_ends_the_run(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    folder = create_run(recipe)

    def lose() -> None:
        shutil.rmtree(folder.parent / "cache" / "latents")
        for picture in (tmp_path / "pictures").rglob("*.png"):
            picture.unlink()

    session = run(recipe, folder, after_step(1, lose))
    assert isinstance(session.error, DataError)
    assert "lyctui resume" in str(session.error)
    assert list(RunFolder(folder).states.glob("step-*"))


def test_a_run_without_a_record_of_its_data_says_what_it_can(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    folder = create_run(recipe)

    def stop(event: Event, control: Control) -> None:
        if isinstance(event, StepDone):
            control.ask("stop")

    run(recipe, folder, stop)
    record = json.loads((folder / RECORD).read_text())
    assert [one["path"] for one in record["pictures"]] == [
        f"{PICTURES}/{number:02d}.png" for number in range(3)
    ]
    assert "emblem," not in (folder / RECORD).read_text(), "captions' texts stay in the data set"
    (folder / RECORD).unlink()
    (tmp_path / "pictures" / PICTURES / "00.txt").write_text("something else")
    resumed = run(stored_recipe(folder), folder, calmly, resume=True)
    assert "Pictures or captions have changed since this run began." in str(resumed.error)


def test_a_base_that_changes_while_it_is_read_is_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded and what its hash says would be two things."""
    from engine import conduct

    recipe = recipe_of(tmp_path)
    assembled = conduct.assemble

    def changed_then(*given: Any) -> Any:
        training = assembled(*given)
        os.utime(tmp_path / "tiny.safetensors", ns=(1, 1))
        return training

    monkeypatch.setattr(conduct, "assemble", changed_then)
    session = run(recipe, create_run(recipe), calmly)
    assert isinstance(session.error, ModelError)
    assert "changed while it was being read" in str(session.error)
    assert not any(isinstance(event, Saved) for event in session.snapshot().log)
