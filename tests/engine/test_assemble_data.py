"""Every setting of the data reaches the batches; the plan counts what is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from engine.assemble_data import ReadData, build_loaders, read_data, text_source
from engine.data.loader import Batch
from engine.data.order import BatchPlan
from engine.data.text import LiveText, TextCache
from engine.errors import DataError, EnvironmentFault
from engine.hardware import Hardware
from engine.models.family import Conditioning
from engine.plan import Facts, Plan, gather, plan
from engine.settings import Recipe

torch.set_num_threads(1)

SIZES = [(64, 64), (140, 140), (140, 140), (70, 90), (130, 160), (64, 64)]


def vae(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    GROUPS.append(len(pixels_BCHW))
    mean_BCHW = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
    return mean_BCHW, torch.zeros_like(mean_BCHW)


GROUPS: list[int] = []
MODEL: Any = SimpleNamespace(encode_images=vae, vae_hash="v", inpaints=False)
CAPTION = "p, a {red|blue} dog ||| b;;;c, d\nshort"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures with captions and a mask each, and two to regularise."""
    root = tmp_path_factory.mktemp("data")
    for number, size in enumerate(SIZES):
        path = root / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.new("RGBA", size, (40 * number, 90, 200 - 30 * number, 255))
        image.paste((9, 9, 9, 0), (0, 0, 32, size[1]))
        image.save(path)
        path.with_suffix(".txt").write_text(CAPTION)
        (root / "masks").mkdir(exist_ok=True)
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, 40, size[1]))
        mask.save(root / "masks" / f"{number}.png")
    for number in range(2):
        (root / "reg").mkdir(exist_ok=True)
        Image.new("RGB", (140, 140), (number * 99, 5, 5)).save(root / "reg" / f"{number}.png")
    return root


def recipe_of(folder: Path, /, **data: Any) -> Recipe:
    usual = {
        "folder": folder / "pictures",
        "class_word": "dog",
        "resolution": (64, 64),
        "bucket_min": 32,
        "bucket_max": 256,
        "bucket_step": 32,
        "cache_latents": "ram",
        "keep_tokens": 0,
        "repeats": 2,
    }
    return Recipe.model_validate(
        {"data": usual | data, "train": {"batch_size": 2, "epochs": 3, "seed": 3, "threads": 1}}
    )


def read(folder: Path, **data: Any) -> ReadData:
    return read_data(recipe_of(folder, **data), lambda *_: None)


def first_batches(folder: Path, *, model: Any = MODEL, count: int = 6, **data: Any) -> list[Batch]:
    """Batches of the first steps."""
    recipe = recipe_of(folder, **data)
    found = read_data(recipe, lambda *_: None)
    loaders = build_loaders(recipe, found, model, "fp32 cpu", folder, lambda *_: None)
    return [
        loaders.training.batch(step.batches[0], epoch=1, step=number, first_sample=0)
        for number, step in enumerate(found.order.epoch(1)[:count], start=1)
    ]


def captions(folder: Path, **data: Any) -> set[str]:
    return {text for batch in first_batches(folder, **data) for text in batch.captions}


# Captions -----------------------------------------------------------------------------------------


def test_data_wildcards(folder: Path) -> None:
    first = CAPTION.splitlines()[0]
    assert captions(folder) == {first}
    texts = {first.replace("{red|blue}", word) for word in ("red", "blue")} | {"short"}
    assert captions(folder, wildcards=True) == texts


def test_data_keep_separator(folder: Path) -> None:
    assert captions(folder, keep_separator="|||") == {"p, a {red|blue} dog, b;;;c, d"}


def test_data_secondary_separator(folder: Path) -> None:
    assert captions(folder, secondary_separator=";;;") == {"p, a {red|blue} dog ||| b, c, d"}


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ({}, (75, False)),
        ({"max_tokens": 150}, (150, False)),
        ({"weighted_prompts": True}, (75, True)),
    ],
)
def test_model_max_tokens_and_weighted_prompts(folder: Path, tmp_path: Path, model, asked) -> None:
    seen: list[tuple[int, bool]] = []

    def encode_text(
        texts: Sequence[str], clip_skip: int, *, max_tokens: int, weighted: bool
    ) -> Conditioning:
        seen.append((max_tokens, weighted))
        return Conditioning(torch.zeros(len(texts), 2, 3))

    base, recipe = encoder_of(encode_text), recipe_of(folder)
    other = recipe.model_copy(update={"model": recipe.model.model_validate(model)})
    for _ in range(2):
        # The usual recipe fills the cache first: another length or reading must not take its entries.
        for each in (recipe, other):
            found = read(folder).survey
            text_source(each, base, found, tmp_path, lambda *_: None, live=False)
    wanted = [(75, False)] * 2 + ([asked] * 2 if model else [])
    assert seen == wanted


def encoder_of(encode_text: Callable[..., Conditioning]) -> Any:
    """What caching text needs of a base model."""
    return SimpleNamespace(
        encode_text=encode_text, te_hash="t", dtype=torch.float32, device=torch.device("cpu")
    )


def test_wildcards_of_few_forms_are_cached_and_of_many_are_not(
    folder: Path, tmp_path: Path
) -> None:
    def encode_text(texts: Sequence[str], *_: Any, **__: Any) -> Conditioning:
        return Conditioning(torch.zeros(len(texts), 2, 3))

    base = encoder_of(encode_text)
    found = read(folder, wildcards=True).survey
    many = {"prefix": "{a|b|c|d} {a|b|c|d}", "shuffle_tags": True}
    for more, kind in (({}, TextCache), (many, LiveText)):
        recipe = recipe_of(folder, wildcards=True, **more)
        source = text_source(recipe, base, found, tmp_path, lambda *_: None, live=False)
        assert type(source) is kind


# Pictures -----------------------------------------------------------------------------------------


def test_data_colour(folder: Path) -> None:
    plain = first_batches(folder, cache_latents="off", count=12)
    shifted = first_batches(folder, colour=True, count=12)
    pairs = list(zip(plain, shifted, strict=True))
    changed = [not torch.equal(one.latents_BCHW, other.latents_BCHW) for one, other in pairs]
    assert any(changed) and not all(changed)


@pytest.mark.parametrize("name", ["colour", "random_crop"])
def test_what_switches_the_cache_off_is_told(folder: Path, name: str) -> None:
    recipe = recipe_of(folder, **{name: True})
    found = read_data(recipe, lambda *_: None)
    loaders = build_loaders(recipe, found, MODEL, "fp32 cpu", folder, lambda *_: None)
    (notice,) = loaders.notices
    assert notice.startswith(f"data.{name} switches the latent cache off")
    assert notice in planned(folder, **{name: True}).notices
    assert notice not in planned(folder).notices


def test_data_masked_loss_and_mask_folder(folder: Path) -> None:
    for batch in first_batches(folder):
        assert batch.loss_mask_B1HW is None
    for batch in first_batches(folder, masked_loss="folder", mask_folder=folder / "masks"):
        assert batch.loss_mask_B1HW is not None
        assert (batch.loss_mask_B1HW[..., 0] == 1).all()
        assert (batch.loss_mask_B1HW[..., -1] == 0).all()
    for batch in first_batches(folder, masked_loss="alpha"):
        assert batch.loss_mask_B1HW is not None
        assert (batch.loss_mask_B1HW[..., 0] == 0).all()
        assert (batch.loss_mask_B1HW[..., -1] == 1).all()
    with pytest.raises(DataError, match="no such folder"):
        read(folder, masked_loss="folder", mask_folder=folder / "nowhere")


def test_inpainting_bases_get_holes_and_others_none(folder: Path) -> None:
    for batch in first_batches(folder):
        assert batch.hole_mask_B1HW is None and batch.hole_latents_BCHW is None
    painting = SimpleNamespace(encode_images=vae, vae_hash="v", inpaints=True)
    hidden = []
    for batch in first_batches(folder, model=painting):
        assert batch.hole_mask_B1HW is not None and batch.hole_latents_BCHW is not None
        seen_BCHW = batch.hole_latents_BCHW * batch.hole_mask_B1HW
        hidden.append(float(batch.hole_mask_B1HW.mean()))
        assert batch.hole_latents_BCHW.shape == batch.latents_BCHW.shape
        assert seen_BCHW.abs().mean() < batch.latents_BCHW.abs().mean()
    assert len(set(hidden)) > 3
    recipe = recipe_of(folder)
    found = read_data(recipe, lambda *_: None)
    loaders = build_loaders(recipe, found, painting, "p", folder, lambda *_: None)  # type: ignore[arg-type]
    assert any("latent cache does not cover" in notice for notice in loaders.notices)


def test_data_vae_batch(folder: Path) -> None:
    GROUPS.clear()
    first_batches(folder, count=0)
    alone = list(GROUPS)
    GROUPS.clear()
    first_batches(folder, count=0, vae_batch=3)
    assert set(alone) == {1} and len(alone) == 6
    assert max(GROUPS) == 3 and sum(GROUPS) == 6


# Held out -----------------------------------------------------------------------------------------


def trained_pictures(found: ReadData, epochs: int = 6) -> set[int]:
    return {
        found.items[n].index
        for epoch in range(1, epochs + 1)
        for step in found.order.epoch(epoch)
        for batch in step.batches
        for n in batch.items
    }


def test_data_validation_keeps_pictures_out_of_every_epoch(folder: Path) -> None:
    everything = read(folder)
    assert trained_pictures(everything) == set(range(6)) and everything.held_out == ()
    found = read(folder, validation=0.34, more_resolutions=(96,), reg_folder=folder / "reg")
    assert len(found.split.held_out) == 2
    assert trained_pictures(found) == {*found.split.trained, 6, 7}
    # Both placements of a held-out picture are measured, and their latents are cached.
    assert {found.items[n].index for n in found.held_out} == found.split.held_out
    assert not set(found.held_out) & set(found.trained)


def test_data_validation_seed(folder: Path) -> None:
    splits = {
        read(folder, validation=0.34, validation_seed=seed).split.held_out for seed in range(6)
    }
    assert len(splits) > 1


def test_held_out_pictures_are_cached_and_measured_as_they_are(folder: Path) -> None:
    recipe = recipe_of(folder, validation=0.34, flip=True, shuffle_tags=True, caption_dropout=0.9)
    found = read_data(recipe, lambda *_: None)
    loaders = build_loaders(recipe, found, MODEL, "fp32 cpu", folder, lambda *_: None)
    GROUPS.clear()
    for number in found.held_out:
        plan_of_one = BatchPlan(found.placements[number].bucket, (number,))
        batch = loaders.measuring.batch(plan_of_one, epoch=1, step=0, first_sample=number)
        assert batch.captions == (CAPTION.splitlines()[0],)
    assert GROUPS == []


def test_the_only_picture_is_never_held_out(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    recipe = recipe_of(tmp_path, folder=tmp_path, validation=0.5)
    found = read_data(recipe, lambda *_: None)
    loaders = build_loaders(recipe, found, MODEL, "p", tmp_path, lambda *_: None)
    assert trained_pictures(found) == {0}
    assert any("only one" in notice for notice in loaders.notices)


# Several resolutions ------------------------------------------------------------------------------


def planned(folder: Path, /, **data: Any) -> Plan:
    recipe = recipe_of(folder, **data)
    machine = Hardware(gpus=(), cores=2, ram_total=1 << 34, ram_free=1 << 33)
    found = gather(recipe.model_copy(), hardware=machine)
    return plan(recipe, Facts(hardware=machine, survey=found.survey, drawn_seed=3))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"more_resolutions": (96,)},
        {"more_resolutions": (96, 128), "no_upscale": False},
        {"more_resolutions": (96, 128), "buckets": False, "resolution": (64, 72)},
        {"more_resolutions": (96,), "validation": 0.34, "reg": True},
    ],
)
def test_the_plan_counts_the_steps_that_are_trained(folder: Path, data: dict[str, Any]) -> None:
    if data.pop("reg", False):
        data = data | {"reg_folder": folder / "reg"}
    made, found = planned(folder, **data), read(folder, **data)
    steps = [found.order.epoch(epoch) for epoch in (1, 2, 3)]
    assert made.steps_per_epoch == tuple(len(each) for each in steps)
    for each in steps:
        assert sum(step.samples for step in each) == made.samples_per_epoch
    assert made.images == len(found.split.trained)


def test_data_more_resolutions(folder: Path) -> None:
    found = read(folder, more_resolutions=(96,))
    # Two of the six pictures have 64 x 64 pixels, and one too few for 96 x 96.
    assert len(found.items) == 6 + 3
    made = planned(folder, more_resolutions=(96,))
    assert made.exposures == (2 * 3, 2 * 2 * 3)
    assert made.images == 6 and len(made.items) == 6
    sizes = {row.width * row.height for row in made.buckets}
    assert max(sizes) > 64 * 64 >= min(sizes)
    skipped = [one for one in made.findings if one.check == "resolution skipped"]
    assert len(skipped) == 1 and len(skipped[0].files) == 3


def test_a_wrong_further_resolution_is_a_problem_of_the_plan(folder: Path) -> None:
    made = planned(folder, more_resolutions=(512,))
    assert any("bucket side" in problem.what for problem in made.problems)
    made = planned(folder, more_resolutions=(64,))
    assert any("listed twice" in problem.what for problem in made.problems)


def test_captions_that_are_cut_are_findings_of_the_plan(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("dog " * 75 + "cat")
    (finding,) = [
        one for one in planned(tmp_path, folder=tmp_path).findings if one.check == "caption cut"
    ]
    assert finding.details == ("76 tokens, lost: cat",)


# Memory going short -------------------------------------------------------------------------------


def test_a_run_that_had_to_encode_pictures_alone_does_so_when_it_is_resumed(
    folder: Path, tmp_path: Path
) -> None:
    recipe, fits = recipe_of(folder, vae_batch=3, cache_latents="disk"), {1}

    def encode(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(pixels_BCHW) not in fits:
            raise torch.OutOfMemoryError("out of memory")
        mean_BCHW, std_BCHW = vae(pixels_BCHW)
        return mean_BCHW + 1e-6 * len(pixels_BCHW), std_BCHW  # As those of a real one may be.

    def begun(run: str, cache: str) -> tuple[torch.Tensor, str]:
        """Latents of the first batch, and what is told."""
        model: Any = SimpleNamespace(encode_images=encode, vae_hash="v", inpaints=False)
        found = read_data(recipe, lambda *_: None)
        (tmp_path / run).mkdir(exist_ok=True)
        loaders = build_loaders(
            recipe, found, model, "p", tmp_path / cache, lambda *_: None, tmp_path / run
        )
        plan = found.order.epoch(1)[0].batches[0]
        batch = loaders.training.batch(plan, epoch=1, step=1, first_sample=0)
        return batch.latents_BCHW, " ".join(loaders.notices)

    first, told = begun("short", "cache")
    assert "3 pictures at once do not fit into memory" in told
    fits |= {2, 3}
    # Also where the cache is gone, and memory is there again.
    for cache in ("cache", "another cache"):
        resumed, told = begun("short", cache)
        assert torch.equal(resumed, first)
        assert "one at a time, as before: 3 did not fit" in told
    other, told = begun("other", "cache")
    assert not torch.equal(other, first) and "did not fit" not in told


def test_a_run_that_cannot_note_it_does_not_begin(folder: Path, tmp_path: Path) -> None:
    def encode(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(pixels_BCHW) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return vae(pixels_BCHW)

    model: Any = SimpleNamespace(encode_images=encode, vae_hash="v", inpaints=False)
    recipe = recipe_of(folder, vae_batch=3)
    found = read_data(recipe, lambda *_: None)
    gone = tmp_path / "gone" / "run"
    with pytest.raises(EnvironmentFault, match=r"What a resume has to know.*data\.vae_batch"):
        build_loaders(recipe, found, model, "p", tmp_path, lambda *_: None, gone)
