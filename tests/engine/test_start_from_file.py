"""A run that starts from a network file: same pictures at step 0, a folder that needs nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.errors import RecipeError
from engine.events import Sampled
from engine.hardware import Hardware
from engine.models.load import load_model
from engine.networks.choice import Choice
from engine.networks.files import read_network, write_network
from engine.networks.network import build, from_file
from engine.plan import Facts, Origin, fill
from engine.prompts import parse_prompts
from engine.sampling import paint
from engine.session import Session, create_run, named_after, stored_recipe
from engine.settings import Recipe
from engine.settings.network import Lora
from tests.engine.networks.layers import stir
from tests.small_run import small_recipe

PROMPT = "vexilo emblem --s 3"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A network file of rank 4 and alpha 2 for the tiny base."""
    small_recipe(tmp_path)
    model = load_model(tmp_path / "tiny.safetensors")
    network = stir(build(model.components(), Choice("lora", 4, 2.0), seed=0), 0.05)
    path = tmp_path / "mine" / "first.safetensors"
    path.parent.mkdir()
    write_network(path, network.tensors(), {})
    return path


def from_weights(tmp_path: Path, start: Path, **network: Any) -> Recipe:
    return small_recipe(
        tmp_path,
        network={"algorithm": "lora", "rank": 4, "alpha": 2.0, "weights": str(start), **network},
        train={"epochs": 1},
        sample={"prompts": [PROMPT], "at_start": True, "every_epochs": 0},
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(recipe: Recipe, folder: Path, **options: Any) -> list[Any]:
    seen: list[Any] = []
    session = Session(recipe, folder, on_event=seen.append, **options)
    session.start()
    assert session.wait(120)
    assert session.error is None, session.error
    return seen


def test_step_0_equals_the_file_which_stays_as_it_is(tmp_path: Path, start: Path) -> None:
    recipe, before = from_weights(tmp_path, start), digest(start)
    folder = create_run(recipe)
    seen = run(recipe, folder, cache=tmp_path / "cache")
    assert digest(start) == before == digest(folder / "start-first.safetensors")

    model = load_model(tmp_path / "tiny.safetensors")
    (plain,) = paint_as_the_run(model, recipe)
    file = read_network(start)
    from_file(model.components(), file.tensors, file.metadata).inject()
    (expected,) = paint_as_the_run(model, recipe)
    first = next(event for event in seen if isinstance(event, Sampled))
    assert first.step == 0
    (picture,) = first.paths
    found = Image.open(folder / picture)
    assert found.tobytes() == expected.tobytes()
    assert found.tobytes() != plain.tobytes()
    final = read_network(folder / f"{folder.name}.safetensors")
    assert final.metadata["lyctui.parent"] == "first.safetensors"
    assert final.metadata["lyctui.parent_sha256"] == before


def paint_as_the_run(model: Any, recipe: Recipe) -> list[Image.Image]:
    sample = recipe.sample
    width, height = recipe.data.resolution or (128, 128)
    return paint(
        model,
        parse_prompts([PROMPT]),
        steps=sample.steps,
        guidance=sample.guidance,
        width=sample.width or width,
        height=sample.height or height,
        seed=recipe.train.seed or 0,
        negative=sample.negative,
    )


def test_the_run_goes_on_elsewhere_without_the_original(tmp_path: Path, start: Path) -> None:
    recipe = from_weights(tmp_path, start)
    folder = create_run(recipe)
    run(recipe, folder, cache=tmp_path / "cache")
    start.unlink()
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    folder.rename(moved)
    again = stored_recipe(moved, ["train.epochs=2"])
    assert again.network.weights == moved / "start-first.safetensors"
    seen = run(again, moved, resume=True, cache=tmp_path / "cache")
    assert seen[-1].state == "finished"
    assert seen[-1].steps == 12
    final = read_network(moved / f"{moved.name}.safetensors")
    assert final.metadata["lyctui.parent"] == "first.safetensors"


def test_a_file_whose_name_begins_like_a_copy(tmp_path: Path, start: Path) -> None:
    other = start.rename(start.with_name("start-first.safetensors"))
    recipe = from_weights(tmp_path, other)
    folder = create_run(recipe)
    own = folder / "start-start-first.safetensors"
    once = named_after(recipe, folder)
    assert once.network.weights == named_after(once, folder).network.weights == own


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"rank": 8}, "rank 4"), ({"alpha": 3.0}, "alpha 2"), ({"algorithm": "lokr"}, "lora")],
)
def test_what_the_file_contradicts_is_refused_before_there_is_a_folder(
    tmp_path: Path, start: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        create_run(from_weights(tmp_path, start, **wrong))
    assert {problem.path for problem in caught.value.problems} == {
        f"network.{key}" for key in wrong
    }
    assert not list((tmp_path / "runs").glob("*"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read") as caught:
        create_run(from_weights(tmp_path, tmp_path / "gone.safetensors"))
    assert caught.value.problems[0].path == "network.weights"


def machine() -> Facts:
    return Facts(Hardware(gpus=(), cores=2, ram_total=2**34, ram_free=2**33), drawn_seed=1)


def test_blank_answers_come_from_the_file(start: Path) -> None:
    filled = fill(Recipe(network=Lora(weights=start)), machine())
    network = filled.recipe.network
    assert (network.algorithm, network.rank, network.alpha) == ("lora", 4, 2.0)
    assert network.targets == "attn-mlp"
    assert filled.origins["network.rank"] == Origin("detected", "as in first.safetensors")


def test_a_presets_values_yield_to_the_file_and_typed_ones_do_not(start: Path) -> None:
    network = Lora(weights=start, rank=16, alpha=9.0)
    given = {"network.rank": Origin("preset", "style"), "network.alpha": Origin("you")}
    filled = fill(Recipe(network=network), machine(), given)
    assert (filled.recipe.network.rank, filled.recipe.network.alpha) == (4, 9.0)


def test_the_algorithm_comes_from_the_file_too(tmp_path: Path, start: Path) -> None:
    model = load_model(tmp_path / "tiny.safetensors")
    path = tmp_path / "kron.safetensors"
    network = build(model.components(), Choice("lokr", "full", 1.0, factor=4), seed=0)
    write_network(path, stir(network, 0.05).tensors(), {})
    filled = fill(Recipe(network=Lora(weights=path, dropout=0.1)), machine())
    found = filled.recipe.network
    assert (found.algorithm, found.rank, found.dropout) == ("lokr", "full", 0.1)
    assert found.weights == path
