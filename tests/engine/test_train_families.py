"""A step of training on SDXL: what is planned is what is written, and each encoder has its own rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.networks.files import read_network
from engine.networks.headers import read_header
from engine.plan import gather, plan
from engine.session import Session, create_run
from tests.small_run import small_recipe
from tests.tiny_families import write_tiny


@pytest.mark.parametrize(
    ("optim", "parts"),
    [({"te_lr": 0.0, "te2_lr": 1e-3}, {"lora_unet", "lora_te2"}), ({}, {"lora_unet"})],
    ids=["second encoder", "usual"],
)
def test_the_file_has_the_parts_that_were_trained(
    optim: dict[str, float], parts: set[str], tmp_path: Path
) -> None:
    write_tiny(tmp_path / "tiny.safetensors", "sdxl")
    rates = {"te_lr": None} | optim
    recipe = small_recipe(tmp_path, train={"max_steps": 1, "epochs": 1}, optim=rates)
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    folder = create_run(made.recipe)
    session = Session(made.recipe, folder)
    session.start()
    assert session.wait(240) and session.error is None

    path = folder / f"{folder.name}.safetensors"
    tensors = read_network(path).tensors
    assert {"_".join(name.split("_")[:2]) for name in tensors} == parts
    for part in parts:
        ups = [one for name, one in tensors.items() if name.startswith(part) and "lora_up" in name]
        assert any(bool(torch.any(up)) for up in ups), f"{part} learns"
    told = read_header(path).metadata
    assert told["ss_base_model_version"] == "sdxl_base_v1-0"
    assert told["ss_text_encoder_lr"] == ("[0.0, 0.001]" if optim else "[0.0, 0.0]")
    assert told["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    # All but the metadata, which a plan only guesses, is exact.
    assert made.sizes.file_bytes == pytest.approx(path.stat().st_size, abs=5000)
