"""Pictures while training: prompts read anew, failures told, a grid, and a word if nothing changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from engine.checkpoint.state import Place
from engine.conduct import _preview_defaults, _prompts
from engine.errors import RecipeError
from engine.events import Event, Sampled, Warned
from engine.models.load import load_model
from engine.networks.choice import Choice
from engine.networks.network import build
from engine.previews import Previews
from engine.prompts import Prompt, parse_prompts
from engine.runs import RunFolder
from engine.sampling import Defaults
from engine.session import Session, create_run
from engine.settings.sample import Sample
from tests.engine.networks.layers import stir
from tests.faults.allocator import AllocatorLimit
from tests.small_run import small_recipe, tensor_bytes
from tests.tiny import write_tiny_sd1

DEFAULTS = Defaults(steps=1, guidance=1.0, width=64, height=64, seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return load_model(write_tiny_sd1(tmp_path_factory.mktemp("tiny") / "a.safetensors", seed=2))


class Run:
    """Previews over a tiny base and what they tell."""

    def __init__(self, model: Any, root: Path, prompts: list[str], **sample: Any) -> None:
        self.network = build(model.components(), Choice("lora", 2, 2.0), seed=0)
        self.network.inject()
        self.folder = RunFolder(root)
        self.seen: list[Event] = []
        training: Any = SimpleNamespace(model=model, network=self.network, resting=("vae",))
        self.previews = Previews(
            training,
            self.folder,
            self.seen.append,
            sample=Sample(**sample),
            prompts=parse_prompts(prompts),
            defaults=DEFAULTS,
        )

    @property
    def file(self) -> Path:
        return self.folder.samples / "prompts.txt"

    def make(self, step: int) -> Sampled | None:
        """The pictures of a step."""
        self.seen.clear()
        self.previews.make(Place(step=step, epoch=step, epoch_step=0))
        return next((event for event in self.seen if isinstance(event, Sampled)), None)

    def warnings(self) -> list[str]:
        return [event.message for event in self.seen if isinstance(event, Warned)]


@pytest.fixture
def run_of(model: Any, tmp_path: Path) -> Any:
    made: list[Run] = []

    def make(prompts: list[str], **sample: Any) -> Run:
        made.append(Run(model, tmp_path / "run", prompts, **sample))
        return made[-1]

    yield make
    for run in reversed(made):
        run.network.eject()


def test_prompts_can_be_changed_while_it_runs(run_of: Any) -> None:
    run = run_of(["a cat", "a dog --d 5"])
    assert "a dog --d 5" in run.file.read_text()
    assert run.make(0).prompts == ("a cat", "a dog")
    run.file.write_text(run.file.read_text().replace("a cat", "a bird --ss euler --w 128"))
    sampled = run.make(1)
    assert sampled.prompts == ("a bird", "a dog")
    with Image.open(sampled.paths[0]) as picture:
        assert picture.size == (128, 64)
        assert "Sampler: Euler trailing" in picture.text["parameters"]  # type: ignore[attr-defined]
    run.file.write_text("a fish --q 1\nx --w 3")
    assert run.make(2).prompts == ("a bird", "a dog")
    (warning,) = run.warnings()
    assert "line 1, column 8" in warning and "line 2, column 3" in warning
    assert "from before are used" in warning


def test_changed_prompts_survive_a_resume_unless_the_recipe_changed(run_of: Any) -> None:
    run_of(["a cat"]).file.write_text("a bird\n")
    assert run_of(["a cat"]).make(1).prompts == ("a bird",)
    run = run_of(["a cat"])
    run.file.unlink()
    run = run_of(["a cat"])
    edited = run.file.read_text().replace("a cat", "a bird")
    run.file.write_text(edited)
    assert run_of(["a cat"]).make(1).prompts == ("a bird",)
    assert run_of(["a fish"]).make(1).prompts == ("a fish",)
    assert run.file.with_name("prompts.old.txt").read_text() == edited


def test_each_time_has_a_grid(run_of: Any) -> None:
    run = run_of(["a cat", "a dog"])
    run.make(3)
    with Image.open(run.folder.samples / "000003.png") as grid:
        assert grid.width > 2 * 64 and grid.height > 64
    assert not (run.folder.samples / "000003" / "grid.png").exists()


def test_pictures_that_equal_those_before_training_are_said_once(run_of: Any) -> None:
    run = run_of(["a cat"])
    run.make(0)
    run.make(1)
    assert "equal those before training" in run.warnings()[0]
    run.make(2)
    assert run.warnings() == []
    again = run_of(["a cat"])
    stir(again.network, 0.1)
    again.make(4)
    assert again.warnings() == []


def test_what_does_not_fit_or_is_no_picture_is_left_out(
    run_of: Any, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    run = run_of(["huge --w 128", "broken --w 72", "fine"])
    decode = type(model).decode_latents

    def decoded(latents: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        width = latents.shape[-1] * 8
        if width == 128:
            raise torch.OutOfMemoryError("out of memory")
        pixels: torch.Tensor = decode(model, latents)
        return pixels / 0 if width == 72 else pixels

    monkeypatch.setattr(model, "decode_latents", decoded)
    sampled = run.make(1)
    assert sampled.prompts == ("fine",) and len(sampled.paths) == 1
    assert Path(sampled.paths[0]).name.startswith("step-000001_2_")
    first, second = run.warnings()
    assert "prompt 1" in first and "not enough memory for 128 x 64" in first
    assert "prompt 2" in second and "not made of numbers" in second


def test_without_prompts_a_request_says_where_to_write_some(run_of: Any) -> None:
    run = run_of([])
    assert run.make(1) is None and "samples/prompts.txt" in run.warnings()[0]
    run.file.write_text("a cat")
    assert run.make(2).prompts == ("a cat",)


def test_every_so_many_minutes(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("engine.previews.time.monotonic", lambda: now[0])
    run = run_of(["a cat"], every_epochs=0, every_minutes=2.0)
    place = Place(step=5, epoch=1, epoch_step=5)

    def due() -> bool:
        found: bool = run.previews.due(place, ends_epoch=False, last=False)
        return found

    assert not due()
    now[0] += 120
    assert due()
    run.make(5)
    assert not due()


def test_pictures_are_made_as_the_recipe_says(tmp_path: Path) -> None:
    file = tmp_path / "more.json"
    file.write_text('[{"prompt": "b", "seed": 2}]')
    recipe = small_recipe(
        tmp_path,
        model={"clip_skip": 2, "max_tokens": 150},
        objective={"zero_terminal_snr": True},
        sample={
            "prompts": ["a"],
            "prompts_file": str(file),
            "sampler": "unipc",
            "steps": 7,
            "guidance": 3.0,
            "width": 72,
            "negative": "dark",
        },
    )
    training: Any = SimpleNamespace(resolution=(128, 96), seed=4, clip_skip=2)
    assert _preview_defaults(recipe, training) == Defaults(
        steps=7,
        guidance=3.0,
        width=72,
        height=96,
        seed=4,
        clip_skip=2,
        negative="dark",
        sampler="unipc",
        zero_terminal_snr=True,
        max_tokens=150,
    )
    seen: list[Event] = []
    folder = RunFolder(tmp_path / "run")
    assert _prompts(recipe, folder, seen.append, resume=False) == (Prompt("a"), Prompt("b", seed=2))
    file.unlink()
    with pytest.raises(RecipeError, match="No such file"):
        _prompts(recipe, folder, seen.append, resume=False)
    folder.samples.mkdir(parents=True)
    (folder.samples / "prompts.txt").write_text("a\nkept\n")
    assert [one.text for one in _prompts(recipe, folder, seen.append, resume=True)] == ["a", "kept"]
    assert isinstance(seen[0], Warned)


# Memory going short -------------------------------------------------------------------------------


def test_a_picture_that_does_not_fit_leaves_memory_as_it_was(
    run_of: Any, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    run = run_of(["a cat", "a dog"])
    parked: list[tuple[str, ...]] = []
    monkeypatch.setattr(model, "park", lambda *parts: parked.append(parts))
    limit = AllocatorLimit(500_000)
    with limit:
        assert run.make(1) is None
        assert limit.live == 0, "nothing that failed is held"
    assert limit.refused == 4, "each picture was tried twice"
    assert parked.count(("vae",)) == 3 and parked[-1] == ("vae",)
    assert all(adapter.training for adapter in run.network.adapters.values())
    first, second = run.warnings()
    assert "prompt 1 was left out: There is not enough memory for 64 x 64." in first
    assert "prompt 2" in second and not list(run.folder.samples.glob("0*"))


def test_a_picture_in_tiles_is_made_and_told(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.sampling.TILES", (4,))
    run = run_of(["a cat"])
    run.make(0)
    with AllocatorLimit(1_200_000):
        sampled = run.make(1)
    (warning,) = run.warnings()
    assert "prompt 1: Decoded in tiles of 32 x 32" in warning
    with Image.open(sampled.paths[0]) as picture:
        assert picture.text["note"] in warning  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory"),
        (KeyError("sampler"), "'sampler'"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_whatever_breaks_is_told_and_training_goes_on(
    run_of: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    run = run_of(["a cat"])

    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("engine.previews.write_picture", broken)
    assert run.make(1) is None
    (warning,) = run.warnings()
    assert warning.startswith("No pictures were made at step 1: ") and words in warning
    assert all(adapter.training for adapter in run.network.adapters.values())


@pytest.mark.slow
def test_pictures_that_fail_change_no_byte_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    shutil.copy(model.facts.path, tmp_path / "tiny.safetensors")

    def trained(name: str, *prompts: str) -> str:
        recipe = small_recipe(
            tmp_path,
            network={"algorithm": "lora", "rank": 4, "alpha": 2.0, "dropout": 0.1},
            optim={"te_lr": 0.0},
            data={"cache_text": True},
            train={"epochs": 1, "max_steps": 2},
            sample={"prompts": list(prompts), "every_steps": 1, "steps": 1},
            run={"name": name},
        )
        session = Session(recipe, create_run(recipe), cache=tmp_path / "cache")
        session.start()
        session.wait()
        assert session.exit_code == 0
        told[name] = [event for event in session.snapshot().log if isinstance(event, Warned)]
        return tensor_bytes(Path(session.snapshot().files[-1]))

    told: dict[str, list[Warned]] = {}
    expected = trained("plain")
    limit = AllocatorLimit(1_500_000)
    monkeypatch.setattr(Previews, "_painted", limit.around(Previews._painted))
    assert trained("short", "a cat") == expected
    assert limit.refused == 4, "a prompt after each of two steps, tried twice"
    assert sum("was left out" in event.message for event in told["short"]) == 2
    assert not told["plain"]
