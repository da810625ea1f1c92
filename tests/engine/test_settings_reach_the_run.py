"""What a recipe says is what the assembled run has: batches without a model, and one tiny training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from engine.assemble import Training, assemble
from engine.assemble_data import Loaders, build_loaders, read_data
from engine.data.loader import Batch
from engine.data.order import BatchPlan
from engine.errors import EnvironmentFault
from engine.settings import Recipe
from tests.small_run import small_recipe

NAMES = ("0_red.png", "1_clear.png", "2_split.png")
CAPTION = "a, b, c, d, e, f"


def average(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands for the VAE."""
    ENCODED.append(len(pixels_BCHW))
    mean_BCHW = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
    return mean_BCHW, torch.zeros_like(mean_BCHW)


ENCODED: list[int] = []
"""Pictures of each call."""
MODEL: Any = SimpleNamespace(encode_images=average, vae_hash="v", inpaints=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red picture, one with nothing but transparency, a half green one, and one to regularise."""
    root = tmp_path_factory.mktemp("reach")
    for folder in ("pictures/2_vexilo emblem", "reg/1_emblem"):
        (root / folder).mkdir(parents=True)
    for name in NAMES:
        path = root / "pictures" / "2_vexilo emblem" / name
        colour = (0, 0, 255, 0) if "clear" in name else (255, 0, 0, 255)
        picture = Image.new("RGBA", (64, 64), colour)
        if "split" in name:
            picture.paste((0, 255, 0, 255), (0, 0, 32, 64))
        picture.save(path)
        path.with_suffix(".txt").write_text(CAPTION)
    Image.new("RGB", (64, 64), "blue").save(root / "reg" / "1_emblem" / "r.png")
    return root


def recipe_of(root: Path, /, **data: Any) -> Recipe:
    usual = {"folder": root / "pictures", "resolution": (64, 64), "keep_tokens": 0}
    usual |= {"bucket_min": 64, "bucket_max": 128, "bucket_step": 32}
    return Recipe.model_validate(
        {"data": usual | data, "train": {"batch_size": 1, "seed": 3, "threads": 1}}
    )


def loaders_of(root: Path, cache: Path, /, **data: Any) -> Loaders:
    recipe = recipe_of(root, **data)
    found = read_data(recipe, lambda *_: None)
    return build_loaders(recipe, found, MODEL, "fp32 cpu", cache, lambda *_: None)


def batch_of(loaders: Loaders, item: int, step: int = 1) -> Batch:
    """A batch of one picture."""
    plan = BatchPlan((64, 64), (item,))
    return loaders.training.batch(plan, epoch=1, step=step, first_sample=0)


# Pictures and captions: no model ----------------------------------------------------------------


def test_transparency_has_the_background_of_the_recipe(root: Path, tmp_path: Path) -> None:
    loaders = loaders_of(root, tmp_path, background="red")
    red, clear = (batch_of(loaders, item).latents_BCHW for item in (0, 1))
    assert torch.equal(red, clear)


def test_tags_are_shuffled_but_those_that_are_kept(root: Path, tmp_path: Path) -> None:
    def captions(**data: Any) -> set[str]:
        loaders = loaders_of(root, tmp_path, shuffle_tags=True, **data)
        return {text for step in range(6) for text in batch_of(loaders, 0, step).captions}

    assert len(captions()) > 1
    assert {text[:10] for text in captions(keep_tokens=4)} == {"a, b, c, d"}
    assert captions(keep_tokens=6) == {CAPTION}


def test_half_of_the_draws_are_mirrored(root: Path, tmp_path: Path) -> None:
    loaders = loaders_of(root, tmp_path, flip=True)
    every = [batch_of(loaders, 2, step).latents_BCHW for step in range(8)]
    mirrored = [torch.equal(one, every[0]) for one in every]
    assert any(mirrored) and not all(mirrored)


@pytest.mark.parametrize("mode", ["disk", "ram", "off"])
def test_latents_are_kept_where_the_recipe_says(root: Path, tmp_path: Path, mode: str) -> None:
    loaders = loaders_of(root, tmp_path, cache_latents=mode)
    encoded = len(ENCODED)
    batch_of(loaders, 0)
    assert len(ENCODED) - encoded == (mode == "off")
    assert any((tmp_path / "latents").rglob("*.safetensors")) == (mode == "disk")


def test_the_limit_of_the_cache_is_that_of_the_recipe(root: Path, tmp_path: Path) -> None:
    assert loaders_of(root, tmp_path).notices == ()
    (notice,) = loaders_of(root, tmp_path, cache_gigabytes=0.0).notices
    assert "data.cache_gigabytes" in notice


def test_pictures_are_read_ahead_by_workers(root: Path, tmp_path: Path) -> None:
    loaders = loaders_of(root, tmp_path, workers=2)
    batch_of(loaders, 0)
    threads = {thread.name for thread in threading.enumerate()}
    loaders.training.close()
    assert any(name.startswith("loader") for name in threads)


def test_regularisation_comes_as_often_as_the_recipe_says(root: Path) -> None:
    # Three pictures twice an epoch.
    for ratio, samples in ((1.0, 6), (0.5, 3)):
        recipe = recipe_of(root, reg_folder=root / "reg", reg_ratio=ratio)
        assert read_data(recipe, lambda *_: None).order.reg_samples == samples


# One training with everything changed ------------------------------------------------------------


@pytest.fixture(scope="module")
def training(root: Path) -> Iterator[Training]:
    recipe = small_recipe(
        root,
        data={"folder": str(root / "pictures"), "validation": 0.34, "mask_mean": "picture"},
        optim={"lr": 1e-3, "unet_lr": 2e-3, "te_lr": 3e-4, "max_grad_norm": 0.7},
        network={"algorithm": "loha", "rank": 2, "alpha": 1.0, "max_norm": 0.9},
        train={
            "precision": "bf16", "checkpointing": True, "batch_size": 2, "accumulation": 2,
            "seed": 11, "epochs": 3, "validate_every_epochs": 4, "validate_every_steps": 5,
        },
    )  # fmt: skip
    made = assemble(recipe, root / "cache", lambda *_: None)
    yield made
    made.network.eject()


def test_the_base_computes_in_the_precision_of_the_recipe(training: Training) -> None:
    assert training.precision == torch.bfloat16
    assert {p.dtype for p in training.model.unet.parameters()} == {torch.bfloat16}  # type: ignore[attr-defined]


def test_activations_are_computed_twice_where_the_recipe_says(training: Training) -> None:
    assert training.checkpointing
    assert training.model.unet.is_gradient_checkpointing  # type: ignore[attr-defined]


def test_steps_have_the_batches_of_the_recipe(training: Training) -> None:
    # Two of three pictures are trained, each twice an epoch: two batches of two, in one step.
    (step,) = training.order.epoch(1)
    assert [len(batch.items) for batch in step.batches] == [2, 2]
    assert training.steps_per_epoch == (1, 1, 1) and training.total_steps == 3


def test_the_seed_of_the_recipe_draws_everything(training: Training, root: Path) -> None:
    assert training.seed == 11
    recipe = recipe_of(root, repeats=4)
    orders = [
        read_data(
            recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})}),
            lambda *_: None,
        ).order.epoch(1)
        for seed in (11, 12, 11)
    ]
    assert orders[0] != orders[1] and orders[0] == orders[2]


def test_each_part_has_the_rate_of_the_recipe(training: Training) -> None:
    assert training.rates == {"unet": 2e-3, "te": 3e-4}


def test_the_network_has_the_algorithm_of_the_recipe(training: Training) -> None:
    assert {name.rpartition(".")[2] for name in training.network.tensors()} >= {"hada_w1_a"}


def test_limits_are_those_of_the_recipe(training: Training) -> None:
    assert (training.max_grad_norm, training.max_norm) == (0.7, 0.9)


def test_a_mask_is_averaged_as_the_recipe_says(training: Training) -> None:
    assert training.mask_mean == "picture"


def test_it_is_measured_as_often_as_the_recipe_says(training: Training) -> None:
    assert training.validation is not None
    assert (training.validation.every_epochs, training.validation.every_steps) == (4, 5)


def test_the_device_is_that_of_the_recipe(root: Path) -> None:
    recipe = small_recipe(root, train={"device": "GPU-of-another-machine"})
    with pytest.raises(EnvironmentFault, match="GPU-of-another-machine"):
        assemble(recipe, root / "cache", lambda *_: None)
