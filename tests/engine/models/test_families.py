"""What models of all families compute, against the stock pipelines around the same modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import EnvironmentFault
from engine.models.attention import set_unet_attention
from engine.models.family import Conditioning, Hole
from engine.models.load import load_model
from tests.engine.models.stock import SEED, painted_by_us, stock_pipeline
from tests.tiny_families import FAMILIES, Family, FamilyModules, family_modules, write_tiny

CAPTIONS = ["a photo of a cat", "vexilo emblem, on a white background", ""]
WORDS = [
    "red",
    "cat",
    "on",
    "a",
    "green",
    "house",
    "with",
    "two",
    "blue",
    "dogs",
    "and",
    "one",
] * 10
"""A token each."""
NATIVE = (128.0, 128.0, 0.0, 0.0, 128.0, 128.0)

Models = dict[Family, Any]
Originals = dict[Family, FamilyModules]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_that_of_the_stock_pipeline(
    family: Family, family_models: Models, family_originals: Originals
) -> None:
    pipeline = stock_pipeline(family_originals[family])
    found = family_models[family].encode_text(CAPTIONS)
    with torch.no_grad():
        if family == "sdxl":
            text, _, pooled, _ = pipeline.encode_prompt(
                CAPTIONS, device="cpu", do_classifier_free_guidance=False
            )
            assert found.pooled_BD.shape == (3, 32)
            close(found.pooled_BD, pooled)
        else:
            text, _ = pipeline.encode_prompt(
                CAPTIONS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            assert found.pooled_BD is None
    assert found.text_BTD.shape == (3, 77, 96 if family == "sdxl" else 64)
    close(found.text_BTD, text)


def test_clip_skip_of_sd2_is_the_nth_layer_from_the_end_then_the_norm(
    family_models: Models, family_originals: Originals
) -> None:
    model, text_encoder = family_models["sd2"], family_originals["sd2"].text_encoder
    ids_BT = model.tokenizer(
        CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        hidden = text_encoder(ids_BT, output_hidden_states=True).hidden_states
        for skip in (1, 2, 3):
            expected = text_encoder.final_layer_norm(hidden[-skip])
            close(model.encode_text(CAPTIONS, skip).text_BTD, expected)


def test_clip_skip_changes_nothing_on_sdxl(family_models: Models) -> None:
    one, two = (family_models["sdxl"].encode_text(CAPTIONS, skip) for skip in (1, 2))
    assert torch.equal(one.text_BTD, two.text_BTD) and torch.equal(one.pooled_BD, two.pooled_BD)


@pytest.mark.parametrize("family", FAMILIES)
def test_long_captions_are_their_chunks_encoded_alone(
    family: Family, family_models: Models
) -> None:
    """75 tokens each, between the first chunk's start and the last one's end."""
    model = family_models[family]
    long, *alone = (" ".join(part) for part in (WORDS, WORDS[:75], WORDS[75:]))
    parts = [model.encode_text([part]) for part in (*alone, "")]
    found = model.encode_text([long, alone[0]], max_tokens=225)
    assert found.text_BTD.shape[1] == 227
    chunks = [part.text_BTD[0] for part in parts]
    expected = torch.cat([chunks[0][:1], *(chunk[1:-1] for chunk in chunks), chunks[2][-1:]])
    close(found.text_BTD[0], expected)
    if family == "sdxl":
        close(found.pooled_BD[0], parts[0].pooled_BD[0])
        close(found.pooled_BD[1], parts[0].pooled_BD[0])
    cut = model.encode_text([long])
    close(cut.text_BTD, parts[0].text_BTD)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_multiply_the_states_of_their_tokens(family: Family, family_models: Models) -> None:
    model = family_models[family]
    plain = model.encode_text(["a red cat"])
    found = model.encode_text(["a (red:1.5) cat"], weighted=True)
    factors = torch.ones(77)
    factors[2] = 1.5
    close(found.text_BTD, plain.text_BTD * factors[None, :, None])
    unread = model.encode_text(["a (red:1.5) cat"])
    assert not torch.allclose(unread.text_BTD, found.text_BTD, atol=1e-3)
    if plain.pooled_BD is not None:
        close(found.pooled_BD, plain.pooled_BD)


# pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_those_of_the_stock_pipeline(
    family: Family,
    prediction: str,
    family_models: Models,
    family_originals: Originals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = family_models[family]
    monkeypatch.setattr(model, "prediction", prediction)
    pipeline = stock_pipeline(family_originals[family], prediction=prediction)
    noise = drawn(1, 4, 16, 16)
    found = painted_by_us(model, CAPTIONS[0], "ugly", noise, steps=2, guidance=4.0)
    settings = {"num_inference_steps": 2, "guidance_scale": 4.0, "width": 128, "height": 128}
    expected = pipeline(
        CAPTIONS[0], negative_prompt="ugly", latents=noise, output_type="latent", **settings
    ).images
    close(found, expected, atol=1e-4)
    with torch.no_grad():
        decoded = pipeline.vae.decode(expected / pipeline.vae.config.scaling_factor).sample
    close(model.decode_latents(found), decoded, atol=1e-4)


def test_sizes_of_sdxl_are_those_of_the_stock_pipeline(
    family_models: Models, family_originals: Originals
) -> None:
    pipeline = stock_pipeline(family_originals["sdxl"])
    noise = drawn(1, 4, 16, 16)
    sizes = torch.tensor([[300.0, 200.0, 17.0, 40.0, 128.0, 96.0]]).expand(2, -1)
    found = painted_by_us(
        family_models["sdxl"], "a cat", "ugly", noise, steps=1, guidance=3.0, sizes_B6=sizes
    )
    expected = pipeline(
        "a cat",
        negative_prompt="ugly",
        latents=noise,
        output_type="latent",
        num_inference_steps=1,
        guidance_scale=3.0,
        width=128,
        height=128,
        original_size=(300, 200),
        crops_coords_top_left=(17, 40),
        target_size=(128, 96),
        negative_original_size=(300, 200),
        negative_crops_coords_top_left=(17, 40),
        negative_target_size=(128, 96),
    ).images
    close(found, expected, atol=1e-4)


def test_each_size_counts_on_sdxl_and_none_elsewhere(family_models: Models) -> None:
    noisy, timesteps = drawn(1, 4, 16, 16), torch.tensor([700])
    with torch.no_grad():
        for family, model in family_models.items():
            text = model.encode_text(["a cat"])
            plain = model.predict(noisy, timesteps, text)
            native = text.sized(torch.tensor([NATIVE]))
            assert torch.equal(model.predict(noisy, timesteps, native), plain)
            for place in range(6):
                other = list(NATIVE)
                other[place] += 50
                sized = text.sized(torch.tensor([other]))
                same = torch.equal(model.predict(noisy, timesteps, sized), plain)
                assert same == (family != "sdxl"), (family, place)


def test_a_conditioning_keeps_sizes_in_rows_and_never_in_a_cache(family_models: Models) -> None:
    text = family_models["sdxl"].encode_text(CAPTIONS)
    sizes = torch.arange(18).reshape(3, 6)
    sized = text.sized(sizes)
    assert text.sizes_B6 is None and sized.sizes_B6.dtype == torch.float32
    assert sized[1].sizes_B6.tolist() == [[6, 7, 8, 9, 10, 11]]
    assert sized[[2, 0]].sizes_B6[:, 0].tolist() == [12, 0]
    assert sized.to(dtype=torch.bfloat16).sizes_B6.dtype == torch.float32
    assert sized.tensors().keys() == {"text", "pooled"}
    joined = Conditioning.cat([sized[0], sized[2]])
    assert joined.sizes_B6[:, 0].tolist() == [0, 12]
    assert Conditioning.cat([sized, text]).sizes_B6 is None
    with pytest.raises(ValueError, match="sizes"):
        text.sized(sizes[:2])
    with pytest.raises(ValueError, match="pooled"):
        family_models["sdxl"].predict(
            drawn(3, 4, 8, 8), torch.tensor([1, 2, 3]), Conditioning(text.text_BTD)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_encoded_in_full_precision_with_the_familys_scale(
    family: Family, family_models: Models, family_originals: Originals
) -> None:
    model = family_models[family]
    pixels = drawn(1, 3, 64, 96).clamp(-1, 1)
    mean, std = model.encode_images(pixels)
    with torch.no_grad():
        expected = family_originals[family].vae.encode(pixels).latent_dist
    close(mean, expected.mean)
    close(std, expected.std)
    assert model.latent_scale == (0.13025 if family == "sdxl" else 0.18215)
    assert model.latent_shape(96, 64) == (4, 8, 12)
    assert next(model.vae.parameters()).dtype == torch.float32


# inpainting -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("inpainting")
    paths = {
        family: write_tiny(folder / f"{family}.safetensors", family, seed=SEED, in_channels=9)
        for family in FAMILIES
    }
    return {family: load_model(path) for family, path in paths.items()}


def hole_of(rows: int) -> Hole:
    mask = torch.zeros(rows, 1, 16, 16)
    mask[:, :, 4:12, 2:9] = 1
    return Hole(mask, drawn(rows, 4, 16, 16, seed=9))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inpainting_base_reads_mask_and_masked_picture(
    family: Family, inpainting: Models, family_models: Models
) -> None:
    model = inpainting[family]
    assert model.inpaints and model.facts.inpainting and "inpainting" in model.facts.title
    unet = family_modules(family, SEED, in_channels=9).unet
    noisy, timesteps, hole = drawn(2, 4, 16, 16), torch.tensor([3, 900]), hole_of(2)
    text = model.encode_text(CAPTIONS[:2])
    with torch.no_grad():
        found = model.predict(noisy, timesteps, text, hole)
        added = {"text_embeds": text.pooled_BD, "time_ids": torch.tensor([NATIVE] * 2)}
        read = torch.cat([noisy, hole.mask_B1HW, hole.latents_BCHW], dim=1)
        expected = unet(read, timesteps, text.text_BTD, added_cond_kwargs=added).sample
        close(found, expected)
        one = model.predict(noisy, timesteps, text, Hole(hole.mask_B1HW[:1], hole.latents_BCHW[:1]))
        close(one[:1], found[:1])
    with pytest.raises(ValueError, match="needs a hole"):
        model.predict(noisy, timesteps, text)
    with pytest.raises(ValueError, match="does not inpaint"):
        family_models[family].predict(noisy, timesteps, text, hole)


def test_an_inpainted_picture_is_that_of_the_stock_pipeline(inpainting: Models) -> None:
    model = inpainting["sd1"]
    pipeline = stock_pipeline(family_modules("sd1", SEED, in_channels=9))
    noise, hole = drawn(1, 4, 16, 16), hole_of(1)
    found = painted_by_us(model, "a cat", "ugly", noise, steps=2, guidance=3.0, hole=hole)
    expected = pipeline(
        "a cat",
        negative_prompt="ugly",
        image=torch.zeros(1, 3, 128, 128),
        mask_image=torch.nn.functional.interpolate(hole.mask_B1HW, scale_factor=8),
        masked_image_latents=hole.latents_BCHW,
        latents=noise,
        strength=1.0,
        output_type="latent",
        num_inference_steps=2,
        guidance_scale=3.0,
        width=128,
        height=128,
    ).images
    close(found, expected, atol=1e-4)


# how it runs ------------------------------------------------------------------------------------


def gradients(model: Any) -> tuple[Tensor, ...]:
    weights = [model.unet.mid_block.resnets[0].conv1.weight, model.unet.conv_out.weight]
    for encoder in encoders(model):
        weights.append(encoder.encoder.layers[0].mlp.fc1.weight)
    for weight in weights:
        weight.requires_grad_(True)
    conditioning = model.encode_text(["a cat"])
    output = model.predict(drawn(1, 4, 16, 16), torch.tensor([500]), conditioning)
    found = torch.autograd.grad(output.square().mean(), weights)
    for weight in weights:
        weight.requires_grad_(False)
    return found


def encoders(model: Any) -> list[Any]:
    parts = [part for name, part in model.components().items() if name != "unet"]
    return [getattr(part, "text_model", part) for part in parts]


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_checkpointing_changes_nothing_and_wakes_no_dropout(
    family: Family, family_models: Models
) -> None:
    model = family_models[family]
    plain = gradients(model)
    model.set_checkpointing(True, train_te=True)
    layers = [layer for encoder in encoders(model) for layer in encoder.encoder.layers]
    assert all(layer.training and layer.gradient_checkpointing for layer in layers)
    awake = [m for layer in layers for m in layer.modules() if m.training and m is not layer]
    assert awake == []
    again = gradients(model)
    model.set_checkpointing(False)
    assert not any(layer.training for layer in layers)
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other) and bool(one.any())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_attention_gives_the_same(family: Family, family_models: Models) -> None:
    model = family_models[family]
    noisy, timesteps = drawn(1, 4, 16, 16), torch.tensor([500])

    def answer() -> Tensor:
        with torch.no_grad():
            result: Tensor = model.predict(noisy, timesteps, model.encode_text(["a cat"]))
        return result

    fused = answer()
    model.set_attention("math")
    kinds = {type(x).__name__ for x in model.unet.attn_processors.values()}
    implementations = {encoder.config._attn_implementation for encoder in encoders(model)}
    plain = answer()
    model.set_attention("sdpa")
    assert kinds == {"AttnProcessor"} and implementations == {"eager"}
    assert {type(x).__name__ for x in model.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    close(plain, fused)
    assert torch.equal(answer(), fused)


def test_xformers_that_is_not_installed_is_said(
    family_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="sdpa") as error:
        set_unet_attention(family_models["sd1"].unet, "xformers")
    assert error.value.problems[0].path == "train.attention"


def test_all_parts_move_and_parked_ones_are_used_again(family_files: dict[Family, Path]) -> None:
    model: Any = load_model(family_files["sdxl"])
    before = model.encode_text(["a cat"])
    model.park("te", "vae", "unet")
    assert torch.equal(model.encode_text(["a cat"]).text_BTD, before.text_BTD)
    model.to("meta")
    parts = (model.unet, model.vae, model.text_encoder, model.text_encoder_2)
    assert {tensor.device.type for part in parts for tensor in part.parameters()} == {"meta"}
    assert model.device.type == "meta"


def test_components_and_names_in_metadata(
    family_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {f: tuple(m.components()) for f, m in family_models.items()} == {
        "sd1": ("unet", "te"),
        "sd2": ("unet", "te"),
        "sdxl": ("unet", "te", "te2"),
    }
    told = {f: (m.base_version, m.modelspec) for f, m in family_models.items()}
    assert told == {
        "sd1": ("sd_v1", "stable-diffusion-v1"),
        "sd2": ("sd_v2", "stable-diffusion-v2-512"),
        "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    }
    for model in family_models.values():
        monkeypatch.setattr(model, "prediction", "v")
    told = {f: (m.base_version, m.modelspec) for f, m in family_models.items()}
    assert told == {
        "sd1": ("sd_v1_v", "stable-diffusion-v1"),
        "sd2": ("sd_v2_v", "stable-diffusion-v2-768-v"),
        "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    }
