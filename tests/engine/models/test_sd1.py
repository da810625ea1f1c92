"""What a loaded model computes, against the libraries' own modules."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.models.family import Conditioning
from engine.models.load import load_model
from tests.tiny import TinyModules, tiny_modules

CAPTIONS = ["a photo of a cat", "vexilo emblem, on a white background", ""]


@lru_cache(maxsize=2)
def original(seed: int) -> TinyModules:
    """The modules a file was written from; not to be changed."""
    return tiny_modules(seed)


@pytest.fixture
def model(tiny_file: Path) -> Any:
    return load_model(tiny_file)


def hidden_by_hand(text_encoder: Any, tokens_BT: Tensor, layers: int) -> Tensor:
    """Embeddings, the first `layers` layers under a causal mask, final norm."""
    hidden_BTD = text_encoder.embeddings(tokens_BT)
    mask_TT = torch.full((77, 77), float("-inf")).triu(1)
    for layer in text_encoder.encoder.layers[:layers]:
        hidden_BTD = layer(hidden_BTD, mask_TT[None, None])
    result: Tensor = text_encoder.final_layer_norm(hidden_BTD)
    return result


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_text_is_the_nth_layer_from_the_end_then_the_norm(
    shared_model: Any, clip_skip: int
) -> None:
    tokens = shared_model.tokenizer(
        CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    expected = hidden_by_hand(shared_model.text_encoder, tokens, 4 - clip_skip)
    found = shared_model.encode_text(CAPTIONS, clip_skip)
    assert found.text_BTD.shape == (3, 77, 64)
    torch.testing.assert_close(found.text_BTD, expected, rtol=0, atol=1e-5)


def test_captions_are_padded_with_the_end_token_and_cut_after_75(shared_model: Any) -> None:
    seen: list[Tensor] = []
    hook = shared_model.text_encoder.embeddings.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    shared_model.encode_text(["a photo of a cat", "word " * 100])
    hook.remove()
    short, long = seen[0].tolist()
    assert short == [49406, 320, 1125, 539, 320, 2368, *[49407] * 71]
    assert long[0] == 49406 and long[-1] == 49407 and len(set(long[1:-1])) == 1


def test_the_text_encoder_can_be_trained(model: Any) -> None:
    layers = model.text_encoder.encoder.layers
    for layer in layers:
        layer.mlp.fc1.weight.requires_grad_(True)
    model.encode_text(["a cat"], clip_skip=2).text_BTD.square().sum().backward()
    assert layers[1].mlp.fc1.weight.grad.abs().sum() > 0
    assert layers[2].mlp.fc1.weight.grad is None, "the skipped layer gets no gradient"


def test_predict_is_the_unet(shared_model: Any) -> None:
    reference = original(1).unet
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn((2, 4, 16, 12), generator=generator)
    timesteps = torch.tensor([3, 900])
    conditioning = shared_model.encode_text(["a cat", "a dog"])
    with torch.no_grad():
        found = shared_model.predict(noisy, timesteps, conditioning)
        expected = reference(noisy, timesteps, conditioning.text_BTD).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_half_precision_predicts_about_the_same_without_an_autocast_outside(
    tiny_file: Path, shared_model: Any
) -> None:
    half = load_model(tiny_file, dtype=torch.bfloat16)
    noisy, timesteps = torch.randn((1, 4, 16, 16)), torch.tensor([500])
    with torch.no_grad():
        found = half.predict(noisy, timesteps, half.encode_text(["a cat"]))
        expected = shared_model.predict(noisy, timesteps, shared_model.encode_text(["a cat"]))
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_images_are_encoded_to_mean_and_deviation_unscaled(shared_model: Any) -> None:
    pixels = torch.rand((1, 3, 96, 64)) * 2 - 1
    mean, std = shared_model.encode_images(pixels)
    with torch.no_grad():
        expected = original(1).vae.encode(pixels).latent_dist
    assert mean.shape == (1, 4, 12, 8)
    torch.testing.assert_close(mean, expected.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(std, expected.std, rtol=0, atol=1e-5)
    assert shared_model.latent_scale == 0.18215
    assert shared_model.latent_shape(64, 96) == (4, 12, 8)


def test_the_vae_is_exact_under_a_half_precision_autocast(shared_model: Any) -> None:
    pixels = torch.rand((1, 3, 64, 64)) * 2 - 1
    mean, _ = shared_model.encode_images(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = shared_model.encode_images(pixels)
    assert torch.equal(mean, inside)


def test_latents_are_decoded_from_their_scaled_form(shared_model: Any) -> None:
    latents = torch.randn((1, 4, 8, 8))
    with torch.no_grad():
        expected = original(1).vae.decode(latents / 0.18215).sample
    torch.testing.assert_close(shared_model.decode_latents(latents), expected, rtol=0, atol=1e-5)


def test_tiles_are_for_the_one_picture_that_asks_for_them(shared_model: Any) -> None:
    latents = torch.randn((1, 4, 24, 20))
    whole = shared_model.decode_latents(latents)
    tiled = shared_model.decode_latents(latents, 16)
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert torch.equal(shared_model.decode_latents(latents), whole)
    assert torch.equal(shared_model.decode_latents(latents, 24), whole), "it is one tile"


def test_alphas_are_those_of_the_scheduler(shared_model: Any) -> None:
    from diffusers import DDIMScheduler

    assert shared_model.alphas_cumprod.dtype == torch.float64
    reference = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(
        shared_model.alphas_cumprod.float(), reference.alphas_cumprod, rtol=1e-5, atol=0
    )


def gradients(model: Any, *, train_te: bool) -> tuple[Tensor, ...]:
    weights = [model.unet.mid_block.resnets[0].conv1.weight, model.unet.conv_out.weight]
    if train_te:
        weights.append(model.text_encoder.encoder.layers[0].mlp.fc1.weight)
    for weight in weights:
        weight.requires_grad_(True)
    noisy = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(3))
    conditioning = model.encode_text(["a cat"], 2)
    loss = model.predict(noisy, torch.tensor([500]), conditioning).square().mean()
    return torch.autograd.grad(loss, weights)


def count_calls(module: nn.Module) -> list[int]:
    """Counts runs of `forward`, those of a recomputation included."""
    calls = [0]
    forward = module.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return forward(*args, **kwargs)

    module.forward = counted  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize("train_te", [True, False])
def test_checkpointing_computes_twice_and_changes_nothing(model: Any, train_te: bool) -> None:
    plain = gradients(model, train_te=train_te)
    model.set_checkpointing(True, train_te=train_te)
    unet_calls = count_calls(model.unet.mid_block.resnets[1].conv1)
    te_calls = count_calls(model.text_encoder.encoder.layers[0].mlp.fc2)
    again = gradients(model, train_te=train_te)
    assert unet_calls == [2] and te_calls == [2 if train_te else 1]
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)
    model.set_checkpointing(False, train_te=train_te)
    gradients(model, train_te=train_te)
    assert unet_calls == [3] and te_calls == [3 if train_te else 2]


def test_checkpointing_wakes_no_dropout(model: Any) -> None:
    for module in model.text_encoder.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    before = model.encode_text(["a cat"]).text_BTD
    model.set_checkpointing(True, train_te=True)
    assert torch.equal(model.encode_text(["a cat"]).text_BTD, before)
    awake = [name for name, module in model.text_encoder.named_modules() if module.training]
    assert awake == [f"encoder.layers.{index}" for index in range(3)]
    assert not any(module.training for module in model.unet.modules())


def test_what_is_injected_does_not_change_the_hash(model: Any, shared_model: Any) -> None:
    model.text_encoder.encoder.layers[0].mlp.fc1.adapter = nn.Linear(4, 4)
    assert model.te_hash == shared_model.te_hash


def test_conditioning_can_be_kept_joined_and_taken_apart(shared_model: Any) -> None:
    whole = shared_model.encode_text(CAPTIONS)
    parts = [whole[index].cpu() for index in range(len(whole))]
    joined = Conditioning.cat(parts)
    assert torch.equal(joined.text_BTD, whole.text_BTD)
    assert len(whole[-1]) == 1 and torch.equal(whole[-1].text_BTD[0], whole.text_BTD[2])
    assert torch.equal(whole[[2, 0]].text_BTD[1], whole.text_BTD[0])
    stored = Conditioning.from_tensors(whole.tensors())
    assert torch.equal(stored.text_BTD, whole.text_BTD) and stored.pooled_BD is None
    pooled = Conditioning(torch.ones(2, 3, 4), torch.ones(2, 5))
    assert Conditioning.cat([pooled, pooled[0]]).pooled_BD.shape == (3, 5)
    assert pooled.to(dtype=torch.float16).tensors().keys() == {"text", "pooled"}
