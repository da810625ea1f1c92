"""What a run leaves behind follows its settings: one run with all of them, and one with the defaults."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from engine.events import Event, Sampled, Saved
from engine.runs import RunFolder
from engine.session import Session, create_run
from tests.small_run import small_recipe

NEVER = 1e-9
"""Minutes that have passed after every step."""


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path
    events: list[Event]
    copies: Path

    def saved(self, what: str) -> list[int]:
        """Steps at which something was written."""
        return [one.step for one in self.events if isinstance(one, Saved) and one.what == what]

    @property
    def sampled(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, Sampled)]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.safetensors"))

    def metadata(self) -> dict[str, str]:
        with safe_open(self.folder / f"{self.folder.name}.safetensors", framework="pt") as file:
            found: dict[str, str] = file.metadata()
            return found


def trained(root: Path, **sections: dict[str, Any]) -> Run:
    """A run of four steps in two epochs."""
    recipe = small_recipe(root, **sections)
    folder = create_run(recipe)
    seen: list[Event] = []
    session = Session(recipe, folder, on_event=seen.append)
    session.start()
    assert session.wait(240)
    assert session.error is None, session.error
    return Run(folder, seen, root / "copies")


SHORT = {"batch_size": 6, "epochs": 2}
"""Twelve samples in three shapes: three steps an epoch."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("full")
    return trained(
        root,
        train=SHORT,
        save={
            "precision": "bf16", "every_epochs": 0, "every_steps": 2, "keep_last": 1,
            "state_minutes": NEVER, "keep_states": 3, "copy_to": str(root / "copies"),
            "comment": "my comment", "title": "My title", "author": "Me",
            "description": "What it is", "license": "CC0",
        },
        sample={
            "prompts": ["a circle --s 1"], "at_start": True, "every_epochs": 0, "every_steps": 4,
            "width": 64, "height": 72, "seed": 41,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("plain")
    return trained(
        root,
        train=SHORT,
        save={"every_epochs": 1, "every_minutes": NEVER, "metadata": "private", "comment": "mine"},
        sample={
            "prompts": ["a circle --s 1"], "at_start": False, "every_epochs": 0,
            "every_minutes": NEVER, "width": 64, "height": 64,
        },
    )  # fmt: skip


def test_files_by_steps_and_none_by_epochs(full: Run) -> None:
    assert full.saved("network") == [2, 4, 6]


def test_the_last_files_on_the_way_are_kept_and_the_final_one_always(full: Run) -> None:
    assert full.files() == ["small-step00000004.safetensors", "small.safetensors"]
    manifest = json.loads((full.folder / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest] == full.files()


def test_files_by_epochs_and_by_minutes(plain: Run) -> None:
    assert "small-000001.safetensors" in plain.files()
    assert set(plain.saved("network")) == {1, 2, 3, 4, 5, 6}


def test_states_by_minutes_and_how_many_are_kept(full: Run, plain: Run) -> None:
    assert full.saved("state") == [1, 2, 3, 4, 5, 6]
    assert plain.saved("state") == [3, 6], "ten minutes do not pass: epochs only"
    assert len(list(RunFolder(full.folder).states.glob("*"))) == 3
    assert len(list(RunFolder(plain.folder).states.glob("*"))) == 2


def test_weights_have_the_precision_of_the_file_and_alpha_keeps_fp32(full: Run) -> None:
    with safe_open(full.folder / "small.safetensors", framework="pt") as file:
        kinds = {key.rpartition(".")[2]: str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118
    assert kinds["weight"] == "torch.bfloat16" and kinds["alpha"] == "torch.float32"


def test_the_finished_file_is_copied(full: Run, plain: Run) -> None:
    (copy,) = full.copies.iterdir()
    assert copy.read_bytes() == (full.folder / "small.safetensors").read_bytes()
    assert not plain.copies.exists()


def test_what_is_told_in_the_file(full: Run) -> None:
    told = full.metadata()
    assert told["ss_training_comment"] == "my comment"
    wanted = {
        "title": "My title", "author": "Me", "description": "What it is", "license": "CC0"
    }  # fmt: skip
    assert {key: told.get(f"modelspec.{key}") for key in wanted} == wanted


def test_private_metadata_leave_the_comment_out(plain: Run) -> None:
    assert "mine" not in plain.metadata().values()


def test_pictures_before_the_start_and_by_steps(full: Run) -> None:
    assert full.sampled == [0, 4, 6], "and at the end"


def test_pictures_by_minutes(plain: Run) -> None:
    assert plain.sampled == [1, 2, 3, 4, 5, 6]


def test_pictures_have_the_size_and_the_seed_that_are_set(full: Run) -> None:
    paths = [path for one in full.events if isinstance(one, Sampled) for path in one.paths]
    assert paths and all("41" in Path(path).stem for path in paths)
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (64, 72)
