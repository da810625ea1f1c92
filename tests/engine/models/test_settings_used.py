"""Settings of the base model reach what is trained: each of these would fail if its setting were ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.assemble import Training, assemble
from engine.errors import EngineError, EnvironmentFault, RecipeError
from engine.hardware import Hardware
from engine.models.load import load_model
from engine.models.stable_diffusion import StableDiffusion
from engine.plan import Facts, plan
from tests.engine.models.test_family_files import same
from tests.small_run import small_recipe
from tests.tiny_families import Family, family_modules

CAPTION = "a (red:1.4) circle"


@pytest.fixture(scope="module")
def trainings(
    tmp_path_factory: pytest.TempPathFactory, family_files: dict[Family, Path]
) -> dict[str, Any]:
    """One run on SDXL with everything usual, one with everything changed."""
    root = tmp_path_factory.mktemp("settings")
    family_modules("sdxl", 5).vae.save_pretrained(root / "vae")
    base = {"path": str(family_files["sdxl"]), "clip_skip": 1}
    changed = {
        "family": "sdxl",
        "prediction": "v",
        "vae": str(root / "vae"),
        "max_tokens": 150,
        "weighted_prompts": True,
    }
    still = {"unet_lr": 1e-3, "te_lr": 0.0}
    parked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        real = StableDiffusion.park
        patch.setattr(
            StableDiffusion, "park", lambda self, *x: (parked.extend(x), real(self, *x))[1]
        )
        live = {"cache_text": False, "cache_latents": "off"}
        usual = run_of(root, model=base, optim=still, data=live)
        assert parked == [], "what is used in every step stays where it is"
        other = run_of(
            root,
            model=base | changed,
            optim=still,
            train={"attention": "math"},
            data={"cache_text": True},
        )
    return {"usual": usual, "changed": other, "parked": parked}


def run_of(root: Path, **sections: dict[str, Any]) -> Training:
    return assemble(small_recipe(root, **sections), root / "cache", lambda *_: None)


def test_family(tmp_path: Path, family_files: dict[Family, Path]) -> None:
    model = {"path": str(family_files["sd2"]), "family": "sd1"}
    with pytest.raises(EngineError, match="not Stable Diffusion 1"):
        run_of(tmp_path, model=model)


def test_prediction(trainings: dict[str, Any]) -> None:
    assert trainings["usual"].model.prediction == "epsilon"
    assert trainings["changed"].model.prediction == "v"


def test_vae(trainings: dict[str, Any]) -> None:
    usual, changed = trainings["usual"].model, trainings["changed"].model
    assert same(changed.vae, family_modules("sdxl", 5).vae) and not same(usual.vae, changed.vae)
    assert changed.latent_scale == 0.13025


def test_longest_caption(trainings: dict[str, Any]) -> None:
    assert trainings["usual"].text.encode([CAPTION]).text_BTD.shape[1] == 77
    assert trainings["changed"].text.encode([CAPTION]).text_BTD.shape[1] == 152


def test_weights_in_captions(trainings: dict[str, Any]) -> None:
    model = trainings["usual"].model
    plain = trainings["usual"].text.encode([CAPTION]).text_BTD
    assert torch.equal(plain, model.encode_text([CAPTION]).text_BTD)
    found = trainings["changed"].text.encode([CAPTION]).text_BTD
    weighted = model.encode_text([CAPTION], max_tokens=150, weighted=True).text_BTD
    torch.testing.assert_close(found, weighted, rtol=0, atol=1e-4)
    unread = model.encode_text([CAPTION], max_tokens=150).text_BTD
    assert not torch.allclose(found, unread, atol=1e-2)


def test_attention(trainings: dict[str, Any]) -> None:
    kinds = {
        name: {type(x).__name__ for x in trainings[name].model.unet.attn_processors.values()}
        for name in ("usual", "changed")
    }
    assert kinds == {"usual": {"AttnProcessor2_0"}, "changed": {"AttnProcessor"}}


def test_what_was_cached_leaves_the_device(trainings: dict[str, Any]) -> None:
    assert trainings["parked"] == ["vae", "te"]


def test_clip_skip(tmp_path: Path, family_files: dict[Family, Path]) -> None:
    training = run_of(tmp_path, model={"path": str(family_files["sd2"]), "clip_skip": 2})
    one, two = (training.model.encode_text(["a cat"], skip).text_BTD for skip in (1, 2))
    found = training.text.encode(["a cat"]).text_BTD
    assert torch.equal(found, two) and not torch.allclose(found, one, atol=1e-2)


def test_xformers_is_asked_for_before_anything_loads(
    tmp_path: Path, family_files: dict[Family, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(
        tmp_path, model={"path": str(family_files["sd1"])}, train={"attention": "xformers"}
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    facts = Facts(
        hardware=Hardware(gpus=(), cores=2, ram_total=1 << 34, ram_free=1 << 33), drawn_seed=1
    )
    with pytest.raises(RecipeError, match="xformers is not installed"):
        plan(recipe, facts).raise_errors()
    with pytest.raises(EnvironmentFault, match="xformers is not installed"):
        load_model(family_files["sd1"], attention="xformers")
