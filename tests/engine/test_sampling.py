"""Preview pictures equal those of the stock pipeline, and say how they were made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import engine.sampling
from engine.errors import OutOfMemory, TrainingError
from engine.models.load import load_model
from engine.picture_files import to_picture, write_picture
from engine.prompts import Prompt
from engine.sampling import Shot, paint, paint_one, sample_latents, shot_conditioning
from engine.sheet.grid import save_png
from engine.writing import OURS
from tests.faults.allocator import AllocatorLimit
from tests.tiny import write_tiny_sd1

SHOT = Shot("a photo of a cat", "blurry", 128, 96, seed=5, steps=6, guidance=7.5, clip_skip=1)


@pytest.fixture(scope="module", params=["epsilon", "v"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return load_model(write_tiny_sd1(path, seed=2, prediction=request.param))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return load_model(write_tiny_sd1(tmp_path_factory.mktemp("tiny") / "a.safetensors", seed=2))


def pipeline(model: Any, scheduler: Any = None) -> Any:
    """The stock pipeline, with DDIM unless another scheduler is given."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    made = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=scheduler
        or DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing="trailing",
            prediction_type="v_prediction" if model.prediction == "v" else "epsilon",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def of_the_pipeline(model: Any, shot: Shot, output: str, scheduler: Any = None) -> Any:
    """Clip skip goes in as embeddings: the pipeline leaves it out for the negative prompt."""
    return pipeline(model, scheduler)(
        prompt_embeds=model.encode_text([shot.prompt], shot.clip_skip).text_BTD,
        negative_prompt_embeds=model.encode_text([shot.negative], shot.clip_skip).text_BTD,
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        width=shot.width,
        height=shot.height,
        generator=torch.Generator().manual_seed(shot.seed),
        output_type=output,
    ).images


@pytest.mark.parametrize("clip_skip", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@torch.no_grad()
def test_latents_equal_those_of_the_stock_pipeline(
    any_model: Any, guidance: float, clip_skip: int
) -> None:
    shot = replace(SHOT, guidance=guidance, clip_skip=clip_skip)
    expected = of_the_pipeline(any_model, shot, "latent")
    torch.testing.assert_close(sample_latents(any_model, shot), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_picture_from_plain_words_equals_the_stock_pipelines(model: Any) -> None:
    (expected,) = pipeline(model)(
        SHOT.prompt,
        negative_prompt=SHOT.negative,
        num_inference_steps=SHOT.steps,
        guidance_scale=SHOT.guidance,
        width=SHOT.width,
        height=SHOT.height,
        generator=torch.Generator().manual_seed(SHOT.seed),
    ).images
    found = paint_one(model, SHOT)
    difference = np.asarray(found, np.int16) - np.asarray(expected, np.int16)
    assert found.size == (128, 96) and np.abs(difference).max() <= 1


@torch.no_grad()
def test_long_prompts_are_read_whole_and_both_to_the_same_length(model: Any) -> None:
    long = " ".join(["cat"] * 80)
    windows: list[tuple[int, ...]] = []
    for shot in (SHOT, replace(SHOT, prompt=long), replace(SHOT, negative=long, max_tokens=225)):
        conditioning = shot_conditioning(model, shot, guided=True)
        windows.append(tuple(conditioning.text_BTD.shape[:2]))
    assert windows == [(2, 77), (2, 152), (2, 227)]
    ends_elsewhere = replace(SHOT, prompt=f"{long} dog", steps=1)
    latents = sample_latents(model, replace(ends_elsewhere, prompt=f"{long} bird"))
    assert not torch.equal(latents, sample_latents(model, ends_elsewhere))


@torch.no_grad()
def test_weights_in_prompts_count(model: Any) -> None:
    def latents(prompt: str) -> torch.Tensor:
        return sample_latents(model, replace(SHOT, prompt=prompt, steps=1))

    assert not torch.equal(latents("a (cat:1.4)"), latents("a cat"))
    assert torch.equal(latents("a (cat:1.0)"), latents("a cat"))


def test_a_prompts_own_values_win_and_seeds_count_on(model: Any) -> None:
    prompts = [
        Prompt("a"),
        Prompt("b", 64, 96, seed=7, steps=1, guidance=1.0, negative="n"),
        Prompt(""),
    ]
    done: list[int] = []
    pictures = paint(
        model,
        prompts,
        steps=2,
        guidance=4.0,
        width=128,
        height=64,
        seed=2**32 - 1,
        negative="all",
        on_picture=done.append,
    )
    told = [json.loads(picture.info["lyctui"]) for picture in pictures]
    assert done == [1, 2, 3]
    assert [picture.size for picture in pictures] == [(128, 64), (64, 96), (128, 64)]
    assert [one["seed"] for one in told] == [2**32 - 1, 7, 1]
    assert [one["negative"] for one in told] == ["all", "n", "all"]
    assert [(one["steps"], one["guidance"]) for one in told] == [(2, 4.0), (1, 1.0), (2, 4.0)]
    assert {one["sampler"] for one in told} == {"ddim"}


def test_a_picture_depends_on_nothing_but_its_own_values(model: Any) -> None:
    def pixels(prompts: list[Prompt], number: int) -> bytes:
        state = torch.random.get_rng_state()
        pictures = paint(model, prompts, steps=2, guidance=4, width=64, height=64, seed=1)
        assert torch.equal(state, torch.random.get_rng_state()), "training draws are not touched"
        return pictures[number].tobytes()

    wanted = Prompt("a cat", seed=9)
    alone = pixels([wanted], 0)
    torch.manual_seed(123)
    assert pixels([Prompt("x"), wanted], 1) == alone
    assert pixels([replace(wanted, seed=10)], 0) != alone


def test_no_graph_is_kept_even_where_a_weight_is_trained(model: Any) -> None:
    model.unet.conv_out.weight.requires_grad_(True)
    try:
        assert not sample_latents(model, replace(SHOT, steps=1)).requires_grad
        paint_one(model, replace(SHOT, steps=1))
    finally:
        model.unet.conv_out.weight.requires_grad_(False)


def test_a_broken_model_is_said_not_painted(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "decode_latents", lambda latents: latents.expand(1, 4, 8, 8) / 0)
    with pytest.raises(TrainingError, match="not made of numbers"):
        paint_one(model, replace(SHOT, width=64, height=64, steps=1))


# Memory going short -------------------------------------------------------------------------------


LEAST = 2_000_000
"""Bytes that text encoder and U-Net need for such a picture; decoding it takes 4.7 MB."""
SMALL = replace(SHOT, steps=2)


def parked(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is put on the host, in order."""
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(model, "park", lambda *parts: seen.append(parts))
    return seen


@pytest.mark.parametrize("limit_bytes", [100_000, LEAST])
def test_memory_in_pieces_costs_one_more_attempt_and_no_bit(
    model: Any, monkeypatch: pytest.MonkeyPatch, limit_bytes: int
) -> None:
    expected = paint_one(model, SMALL)
    seen = parked(model, monkeypatch)
    limit = AllocatorLimit(limit_bytes, only_first=1)
    with limit:
        found = paint_one(model, SMALL, spare=("te",))
    assert limit.refused == 1 and limit.live == 0
    assert found.tobytes() == expected.tobytes() and found.info == expected.info
    assert ("te",) in seen, "the second attempt has what the text encoder took"


def test_a_picture_that_cannot_be_decoded_whole_is_decoded_in_tiles_and_says_so(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.sampling, "TILES", (12, 8, 4))
    whole = paint_one(model, SMALL)
    limit = AllocatorLimit(LEAST)
    with limit:
        found = paint_one(model, SMALL)
    assert limit.refused == 3, "whole twice, in tiles of 12 once"
    assert "Decoded in tiles of 64 x 64" in found.info["note"] and "note" not in whole.info
    tiled = model.decode_latents(sample_latents(model, SMALL), 8)
    assert found.tobytes() == to_picture(tiled[0]).tobytes() != whole.tobytes()
    assert paint_one(model, SMALL).tobytes() == whole.tobytes(), "tiles are off again"


@pytest.mark.parametrize("limit_bytes", [10_000, 500_000, LEAST])
def test_a_picture_that_does_not_fit_is_said_in_words_and_holds_nothing(
    model: Any, limit_bytes: int
) -> None:
    limit = AllocatorLimit(limit_bytes)
    with limit:
        try:
            paint_one(model, SMALL)
        except OutOfMemory as error:
            assert "not enough memory for 128 x 96" in str(error) and error.exit_code == 5
            kept = 0 if limit_bytes < LEAST else 4 * 4 * 12 * 16
            assert limit.live == kept, "the latents, while the error is looked at"
        else:
            raise AssertionError("nothing was raised")
    assert limit.live == 0 and limit.refused == 2


def test_a_broken_request_is_not_tried_again(model: Any) -> None:
    seen: list[int] = []

    def stop(timestep: torch.Tensor) -> None:
        seen.append(int(timestep))
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        paint_one(model, SMALL, stop)
    assert len(seen) == 1


def test_files_are_named_after_step_prompt_and_seed_and_tell_all(
    tmp_path: Path, model: Any
) -> None:
    text = "Grüße \u2603 <lora:x:1>"
    (picture,) = paint(
        model, [Prompt(text)], steps=1, guidance=2, width=64, height=64, seed=42, negative="dark"
    )
    path = write_picture(tmp_path / "new", picture, prompt_index=3, step=120)
    assert path.name == "step-000120_3_42.png"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as read:
        assert read.text["parameters"] == (  # type: ignore[attr-defined]
            f"{text}\nNegative prompt: dark\n"
            "Steps: 1, Sampler: DDIM trailing, CFG scale: 2, Seed: 42, Size: 64x64, Clip skip: 1"
        )
        assert json.loads(read.text["lyctui"])["prompt"] == text  # type: ignore[attr-defined]
        assert read.tobytes() == picture.tobytes()


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, seen = Image.new("RGB", (8, 8)), []

    def broken(descriptor: int, data: Any) -> None:
        seen.extend(tmp_path.iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.writing.write_all", broken)
    for write in (
        lambda: write_picture(tmp_path, picture, prompt_index=0, step=1),
        lambda: save_png(picture, tmp_path / "strip.png"),
    ):
        with pytest.raises(OSError, match="No space"):
            write()
        assert list(tmp_path.iterdir()) == []
    assert len({path.name for path in seen}) == 2, "each has a temporary name of its own"
    assert all(OURS.fullmatch(path.name) for path in seen)
