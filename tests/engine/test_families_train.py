"""Runs on small bases of every family: what is trained, under which names, and what the file says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.control import Control
from engine.events import Event, StepDone
from engine.networks.files import read_network
from engine.session import Session, create_run, stored_recipe
from engine.settings import Recipe
from tests.small_run import small_recipe, tensor_bytes
from tests.tiny_families import Family, write_tiny

BOTH = {"optimizer": "adamw", "lr": 1e-3, "te_lr": 5e-4, "te2_lr": 2e-4}
ALONE = {"optimizer": "adamw", "lr": 1e-3, "te_lr": 0.0}


@dataclass(frozen=True)
class Case:
    """A base, what is answered besides it, and what its file is to say."""

    family: Family
    version: str
    modelspec: str
    base: dict[str, Any]
    optim: dict[str, Any]
    cache_text: bool = False
    objective: dict[str, Any] | None = None

    @property
    def predicts(self) -> str:
        return str(self.base.get("prediction", "epsilon"))


V: dict[str, Any] = {"prediction": "v"}
HOLE: dict[str, Any] = {"in_channels": 9}
SD1, SD2_V = "stable-diffusion-v1", "stable-diffusion-v2-768-v"
XL, XL_BASE = "stable-diffusion-xl-v1-base", "sdxl_base_v1-0"
CASES = {
    "sd2": Case("sd2", "sd_v2", "stable-diffusion-v2-512", {}, BOTH | {"te2_lr": None}),
    "sd2-v": Case("sd2", "sd_v2_v", SD2_V, V, BOTH | {"te2_lr": None}),
    "sdxl": Case("sdxl", XL_BASE, XL, {}, BOTH | {"te_stop_percent": 50}),
    "sdxl-text-cached": Case("sdxl", XL_BASE, XL, {}, ALONE | {"te2_lr": 0.0}, cache_text=True),
    "sdxl-v": Case(
        "sdxl", XL_BASE, XL, V, ALONE | {"te2_lr": 2e-4}, objective={"zero_terminal_snr": True}
    ),
    "sd1-hole": Case("sd1", "sd_v1", SD1, HOLE, ALONE),
    "sd2-hole": Case("sd2", "sd_v2", "stable-diffusion-v2-512", HOLE, ALONE),
    "sdxl-hole": Case("sdxl", XL_BASE, XL, HOLE, ALONE | {"te2_lr": 0.0}),
}
TRAINED = {
    "sd2": {"lora_unet": 1e-3, "lora_te": 5e-4},
    "sd2-v": {"lora_unet": 1e-3, "lora_te": 5e-4},
    "sdxl": {"lora_unet": 1e-3, "lora_te1": 5e-4, "lora_te2": 2e-4},
    "sdxl-v": {"lora_unet": 1e-3, "lora_te2": 2e-4},
}
"""Parts that a case trains, as their keys begin, with their rates; else the U-Net alone."""


@dataclass(frozen=True)
class Trained:
    """What a run left."""

    case: Case
    recipe: Recipe
    session: Session
    path: Path

    @property
    def tensors(self) -> dict[str, Tensor]:
        return dict(read_network(self.path).tensors)

    @property
    def metadata(self) -> dict[str, str]:
        return dict(read_network(self.path).metadata)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures with captions; the bases are written as they are needed."""
    root = tmp_path_factory.mktemp("families")
    folder = root / "pictures" / "2_vexilo emblem"
    folder.mkdir(parents=True)
    for number, colour in enumerate(("red", "blue")):
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste(colour, (10, 10, 50, 40 + 10 * number))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"vexilo emblem, {colour}")
    return root


def recipe_of(root: Path, name: str) -> Recipe:
    """Four steps of one picture each."""
    case = CASES[name]
    options = "-".join(f"{key}{value}" for key, value in case.base.items())
    base = root / f"{case.family}{options}.safetensors"
    if not base.exists():
        write_tiny(base, case.family, **case.base)
    return small_recipe(
        root,
        model={"path": str(base)},
        data={"resolution": [64, 64], "cache_text": case.cache_text},
        network={"algorithm": "lora", "rank": 2, "alpha": 1.0},
        optim=case.optim,
        objective=case.objective or {},
        train={"epochs": 1, "batch_size": 1},
        run={"name": name},
    )


def run(recipe: Recipe, folder: Path, *, resume: bool = False, stop_at: int = 0) -> Session:
    """A run to its end, or until it was asked to stop after a step."""
    holder: list[Control] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            holder[0].ask("stop")

    session = Session(recipe, folder, resume=resume, cache=folder.parent / "cache", on_event=watch)
    holder.append(session.control)
    session.start()
    assert session.wait(240)
    assert session.error is None, session.error
    return session


@pytest.fixture(scope="module")
def trained(root: Path) -> Callable[[str], Trained]:
    """Every case is run once."""
    done: dict[str, Trained] = {}

    def one(name: str) -> Trained:
        if name not in done:
            recipe = recipe_of(root, name)
            folder = create_run(recipe)
            session = run(recipe, folder)
            file = folder / f"{folder.name}.safetensors"
            done[name] = Trained(CASES[name], stored_recipe(folder), session, file)
        return done[name]

    return one


def rates_of(name: str) -> dict[str, float]:
    return TRAINED.get(name, {"lora_unet": 1e-3})


def largest(tensors: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Of every part and layer the largest value of what begins at zero."""
    found: dict[str, dict[str, float]] = {}
    for key, tensor in tensors.items():
        layer, _, rest = key.partition(".")
        if rest == "lora_up.weight":
            part = "_".join(layer.split("_")[:2])
            found.setdefault(part, {})[layer] = float(tensor.abs().max())
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_is_trained_moves_under_kohyas_names(
    name: str, trained: Callable[[str], Trained]
) -> None:
    done = trained(name)
    moved = largest(done.tensors)
    assert moved.keys() == rates_of(name).keys()
    # SDXL reads its first encoder at the last layer but one: what is behind it gets no gradient.
    unread = "lora_te1_text_model_encoder_layers_2_"
    for part, layers in moved.items():
        still = {layer for layer, value in layers.items() if not value}
        assert still == {layer for layer in layers if layer.startswith(unread)}, part
    original = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    diffusers = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    wanted = original if done.case.family == "sdxl" else diffusers
    assert wanted in moved["lora_unet"]
    texts = {part for part in moved if part != "lora_unet"}
    assert all("_text_model_encoder_layers_0_mlp_fc1" in " ".join(moved[text]) for text in texts)


@pytest.mark.parametrize("name", CASES)
def test_the_file_says_what_it_was_trained_on(name: str, trained: Callable[[str], Trained]) -> None:
    done = trained(name)
    case, metadata = done.case, done.metadata
    wanted = {
        "ss_base_model_version": case.version,
        "ss_v2": str(case.family == "sd2"),
        "ss_zero_terminal_snr": str(case.objective is not None),
        "modelspec.architecture": f"{case.modelspec}/lora",
        "modelspec.prediction_type": case.predicts,
        "modelspec.resolution": "64x64",
        "lyctui.family": case.family,
        "lyctui.prediction": case.predicts,
        "lyctui.inpainting": str("in_channels" in case.base),
    }
    assert {key: metadata.get(key) for key in wanted} == wanted
    text = [rate for part, rate in rates_of(name).items() if part != "lora_unet"]
    told = json.loads(metadata["ss_text_encoder_lr"])
    if case.family == "sdxl":
        assert told == [rates_of(name).get(part, 0.0) for part in ("lora_te1", "lora_te2")]
    else:
        assert told == (text[0] if text else 0.0)


def test_both_encoders_of_sdxl_have_rates_of_their_own(
    trained: Callable[[str], Trained],
) -> None:
    """AdamW's first steps are as long as the rate, whatever the gradient."""
    moved = largest(trained("sdxl").tensors)
    far = {part: max(layers.values()) for part, layers in moved.items()}
    assert far["lora_te1"] / far["lora_te2"] == pytest.approx(5 / 2, rel=0.15)
    # The encoders stop after half of the steps.
    assert far["lora_unet"] / far["lora_te1"] > 2.2


def test_a_run_of_both_encoders_goes_on_exactly_where_it_was(
    root: Path, trained: Callable[[str], Trained]
) -> None:
    """Stopped before and at the step after which the encoders are no longer trained."""
    whole = trained("sdxl")
    folder = create_run(recipe_of(root, "sdxl"))
    assert run(stored_recipe(folder), folder, stop_at=1).exit_code == 130
    assert run(stored_recipe(folder), folder, resume=True, stop_at=2).exit_code == 130
    run(stored_recipe(folder), folder, resume=True)
    assert tensor_bytes(folder / f"{folder.name}.safetensors") == tensor_bytes(whole.path)


def test_cached_text_trains_the_same(root: Path, trained: Callable[[str], Trained]) -> None:
    cached = trained("sdxl-text-cached")
    recipe = cached.recipe.model_copy(
        update={"data": cached.recipe.data.model_copy(update={"cache_text": False})}
    )
    folder = create_run(recipe)
    run(recipe, folder)
    path = folder / f"{folder.name}.safetensors"
    torch.testing.assert_close(
        dict(read_network(path).tensors), cached.tensors, rtol=1e-4, atol=1e-6
    )
