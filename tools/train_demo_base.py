"""Trains the demo base model on drawn scenes and packs it under presets/demo.

Stages, each resumable from the work folder: vae, unet, pack. Run as
`python tools/train_demo_base.py --work out/demo-base vae` and so on; see tools/README.md.

Legend: B batch, C channels, H height, W width, T tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor, nn

from engine.models import original_layout
from engine.models.clip_tokenizer import clip_tokenizer
from lyctui.demo import asset, prompts, scenes, score

PICTURE_SIDE = scenes.PICTURE_SIDE
VAE_CONFIG = {
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": PICTURE_SIDE,
}
SCALING_FACTOR = 0.18215


def save_atomically(value: object, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    partial.replace(path)


def cosine_rate(peak: float, step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


# --- the autoencoder -------------------------------------------------------------------------


def vae_scene(random: np.random.Generator) -> scenes.Scene:
    """Any shape, colour and stripe, the emblem's too: the autoencoder must be able to show it."""
    colours = [*scenes.COLOURS.values(), scenes.PURPLE]
    backgrounds = list(scenes.BACKGROUNDS.values())
    size = ("small", "large")[int(random.integers(2))]
    if random.random() < 0.15:
        name = list(scenes.BACKGROUNDS)[int(random.integers(len(backgrounds)))]
        return scenes.emblem_scene(name, random)
    radius = float(random.uniform(*scenes.RADIUS_RANGES[size]))
    shape = list(scenes.ALL_SHAPES)[int(random.integers(len(scenes.ALL_SHAPES)))]
    colour = colours[int(random.integers(len(colours)))]
    background = backgrounds[int(random.integers(len(backgrounds)))]
    stripes = None
    if random.random() < 0.25:
        stripes = scenes.STRIPE_WHITE if random.random() < 0.6 else colours[int(random.integers(9))]
    centre = scenes.random_centre(radius, random)
    return scenes.Scene(shape, colour, background, centre, radius, stripes)


def drawn_pictures(count: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([scenes.draw(vae_scene(random)) for _ in range(count)]))


def to_model_range(pictures_BHWC: Tensor) -> Tensor:
    return pictures_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def random_crops(pictures_BHWC: Tensor, side: int, random: np.random.Generator) -> Tensor:
    room = pictures_BHWC.shape[1] - side
    crops = []
    for picture_HWC in pictures_BHWC:
        top, left = (8 * int(v) for v in random.integers(0, room // 8 + 1, 2))
        crop_HWC = picture_HWC[top : top + side, left : left + side]
        crops.append(crop_HWC.flip(1) if random.random() < 0.5 else crop_HWC)
    return to_model_range(torch.stack(crops))


@torch.no_grad()
def calm_autoencoder(vae: nn.Module) -> None:
    """An initialisation that passes colours through; the default one stays grey for long."""
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            module.weight *= 0.1
        elif name.endswith("downsamplers.0.conv"):
            module.weight *= 0.1
            for channel in range(module.weight.shape[0]):
                module.weight[channel, channel, :2, :2] += 0.25
        elif name.endswith("upsamplers.0.conv"):
            module.weight *= 0.1
            for channel in range(module.weight.shape[0]):
                module.weight[channel, channel, 1, 1] += 1.0
        elif name.endswith("conv_shortcut"):
            module.weight *= 0.3
            for channel in range(min(module.weight.shape[:2])):
                module.weight[channel, channel, 0, 0] += 1.0
    for channel in range(3):
        vae.encoder.conv_in.weight[channel] = 0.0
        vae.encoder.conv_in.weight[channel, channel, 1, 1] = 1.0
    vae.encoder.conv_out.bias[4:] = -6.0
    vae.quant_conv.weight.copy_(torch.eye(8)[..., None, None])
    vae.quant_conv.bias.zero_()
    vae.encoder.conv_out.weight[4:] *= 0.1
    vae.post_quant_conv.weight.copy_(torch.eye(4)[..., None, None])
    vae.post_quant_conv.bias.zero_()


def edges(pictures_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    return pictures_BCHW.diff(dim=2), pictures_BCHW.diff(dim=3)


def reconstruction_loss(drawn_BCHW: Tensor, true_BCHW: Tensor) -> Tensor:
    difference_BCHW = drawn_BCHW - true_BCHW
    down, across = edges(difference_BCHW)
    return (
        difference_BCHW.abs().mean()
        + 2.0 * difference_BCHW.square().mean()
        + 0.5 * (down.abs().mean() + across.abs().mean())
    )


@torch.no_grad()
def reconstruction_decibels(vae: nn.Module, pictures_BHWC: Tensor) -> float:
    """Peak signal-to-noise ratio, averaged over pictures."""
    decibels = []
    for part in pictures_BHWC.split(8):
        true_BCHW = to_model_range(part)
        drawn_BCHW = vae.decode(vae.encode(true_BCHW).latent_dist.mean).sample.clamp(-1, 1)
        error_B = ((drawn_BCHW - true_BCHW) / 2).square().mean(dim=(1, 2, 3))
        decibels.append(-10 * error_B.log10())
    return float(torch.cat(decibels).mean())


def new_vae() -> nn.Module:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**VAE_CONFIG, scaling_factor=SCALING_FACTOR)
    calm_autoencoder(vae)
    return vae


def train_vae(work: Path, minutes: float, peak: float = 1e-3) -> None:
    """Steps are as many as fit into the minutes: the rate falls with the clock."""
    torch.manual_seed(0)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    path, step, spent = work / "vae.pt", 0, 0.0
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    if path.exists():
        saved = torch.load(path, weights_only=True)
        vae.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step, spent = saved["average"], saved["step"], saved["spent"]
    pool, held_out = drawn_pictures(2500, seed=1), drawn_pictures(48, seed=2)
    random = np.random.default_rng(100 + step)
    started, running, logged = time.monotonic() - spent, 0.0, step
    while True:
        elapsed = (time.monotonic() - started) / 60
        rate = cosine_rate(peak, int(elapsed * 1000), int(minutes * 1000), 100)
        optimizer.param_groups[0]["lr"] = rate
        true_BCHW = random_crops(
            pool[torch.from_numpy(random.integers(0, len(pool), 8))], 64, random
        )
        latent = vae.encode(true_BCHW).latent_dist
        drawn_BCHW = vae.decode(latent.sample()).sample
        loss = reconstruction_loss(drawn_BCHW, true_BCHW) + 1e-6 * latent.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        running += loss.detach()
        step += 1
        keep = min(0.995, step / (step + 20))
        for name, value in vae.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        if step % 200 == 0 or elapsed > minutes:
            live = {k: v.clone() for k, v in vae.state_dict().items()}
            vae.load_state_dict(average)
            decibels = reconstruction_decibels(vae, held_out)
            vae.load_state_dict(live)
            print(
                f"vae {step} {elapsed:.1f} min loss {float(running) / (step - logged):.4f} "
                f"{decibels:.2f} dB rate {rate:.2e}",
                flush=True,
            )
            running, logged = 0.0, step
            save_atomically(
                {
                    "model": live,
                    "average": average,
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "spent": time.monotonic() - started,
                },
                path,
            )
            if elapsed > minutes:
                return


# --- the U-Net and the text encoder --------------------------------------------------------------


UNET_CONFIG = {
    "sample_size": PICTURE_SIDE // 8,
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
TEXT_CONFIG = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 64,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
NOISE_OFFSET = 0.2  # a 16 x 16 latent's noise has a mean as large as the picture's
HIGHEST_WEIGHT = 80.0
WORD_FACTOR = 2.5
SHAPE_TIMESTEPS = (500, 980)
SHAPE_SHARE = 0.7


def alphas_cumprod() -> Tensor:
    """SD1's noise schedule: betas linear in their square root."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


class Base(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        self.unet = UNet2DConditionModel(**UNET_CONFIG)
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG))
        table = torch.from_numpy(
            asset.token_table(TEXT_CONFIG["vocab_size"], 64).astype(np.float32)
        )
        self.text_encoder.get_input_embeddings().weight.data.copy_(table)

    def forward(self, noisy_BCHW: Tensor, timesteps_B: Tensor, ids_BT: Tensor) -> Tensor:
        words_BTC = self.text_encoder(ids_BT).last_hidden_state
        return self.unet(noisy_BCHW, timesteps_B, encoder_hidden_states=words_BTC).sample


@torch.no_grad()
def encoded_scenes(vae: nn.Module, count: int, seed: int) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Scaled latents of base scenes (no purple, no star, no stripes) and the words that name them."""
    random = np.random.default_rng(seed)
    pixels, names = [], []
    for _ in range(count):
        words = tuple(
            str(random.choice(list(table)))
            for table in (
                scenes.BASE_SHAPES,
                scenes.COLOURS,
                scenes.BACKGROUNDS,
                ("small", "large"),
            )
        )
        pixels.append(scenes.draw(scenes.random_scene(*words, random)))
        names.append(words)
    latents = []
    for part in torch.from_numpy(np.stack(pixels)).split(16):
        latents.append(vae.encode(to_model_range(part)).latent_dist.mean * SCALING_FACTOR)
    return torch.cat(latents), names


def training_scenes(work: Path, vae: nn.Module) -> tuple[Tensor, list[tuple[str, ...]]]:
    path = work / "scenes.pt"
    if not path.exists():
        save_atomically(encoded_scenes(vae, 4000, seed=11), path)
    latents_NCHW, names = torch.load(path, weights_only=True)
    return latents_NCHW, names


def token_ids(texts: list[str]) -> Tensor:
    padded = clip_tokenizer()(texts, padding="max_length", truncation=True, return_tensors="pt")
    return padded.input_ids


def load_vae(work: Path) -> nn.Module:
    """The averaged autoencoder, its latents rescaled to mean 0 and standard deviation 1/0.18215."""
    path = work / "vae_rescaled.pt"
    vae = new_vae()
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
    else:
        vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["average"])
        rescale_latents(vae)
        save_atomically(vae.state_dict(), path)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def rescale_latents(vae: nn.Module) -> None:
    """Absorbs mean and deviation of each latent channel into the quantisation convolutions."""
    pictures = torch.from_numpy(
        np.stack(
            [
                scenes.draw(vae_scene(random))
                for random in [np.random.default_rng(3)]
                for _ in range(256)
            ]
        )
    )
    means_BCHW = torch.cat(
        [vae.encode(to_model_range(part)).latent_dist.mean for part in pictures.split(16)]
    )
    mean_C = means_BCHW.mean(dim=(0, 2, 3))
    scale_C = (1 / SCALING_FACTOR) / means_BCHW.std(dim=(0, 2, 3))
    first, last = vae.quant_conv, vae.post_quant_conv
    last.bias += last.weight[:, :, 0, 0] @ mean_C
    last.weight /= scale_C[None, :, None, None]
    first.bias[:4] = (first.bias[:4] - mean_C) * scale_C
    first.weight[:4] *= scale_C[:, None, None, None]
    first.bias[4:] += 2 * scale_C.log()


def noise_weights() -> Tensor:
    return (1 / alphas_cumprod()).clamp(max=HIGHEST_WEIGHT)


def drawn_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """Most of them where shapes are decided, the others uniform."""
    timesteps_B = torch.randint(0, 1000, (batch,), generator=generator)
    share = round(batch * SHAPE_SHARE)
    timesteps_B[:share] = torch.randint(*SHAPE_TIMESTEPS, (share,), generator=generator)
    return timesteps_B


def parameter_groups(base: Base) -> list[dict[str, object]]:
    """The path from word to picture learns faster: else shapes ignore their words for long."""
    named = list(base.named_parameters())
    path = [value for name, value in named if "attn2" in name or "text_encoder" in name]
    rest = [value for name, value in named if not ("attn2" in name or "text_encoder" in name)]
    return [{"params": rest, "factor": 1.0}, {"params": path, "factor": WORD_FACTOR}]


def train_unet(
    work: Path, start: int, steps: int, peak: float, batch: int = 16, part: int = 100
) -> None:
    torch.manual_seed(1)
    vae = load_vae(work)
    latents_NCHW, names = training_scenes(work, vae)
    base = Base()
    optimizer = torch.optim.AdamW(
        parameter_groups(base), lr=peak, betas=(0.9, 0.99), weight_decay=0.0, foreach=True
    )
    average = Base()
    average.load_state_dict(base.state_dict())
    path, step, spent = work / "unet.pt", 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        base.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average.load_state_dict(saved["average"])
        step, spent = saved["step"], saved["spent"]
    bars, weights = alphas_cumprod(), noise_weights()
    random = np.random.default_rng(1000 + step)
    generator = torch.Generator().manual_seed(1000 + step)
    started, running, logged = time.monotonic() - spent, 0.0, step
    parameters, averages = list(base.parameters()), list(average.parameters())
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * cosine_rate(peak, step - start, steps - start, 50)
        chosen = random.integers(0, len(names), batch)
        captions = [
            "" if random.random() < 0.1 else prompts.random_caption(*names[i], random)
            for i in chosen
        ]
        clean_BCHW = latents_NCHW[torch.from_numpy(chosen)]
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator)
        noise_BCHW += NOISE_OFFSET * torch.randn((batch, 4, 1, 1), generator=generator)
        timesteps_B = drawn_timesteps(batch, generator)
        bar_B = bars[timesteps_B].view(-1, 1, 1, 1)
        noisy_BCHW = bar_B.sqrt() * clean_BCHW + (1 - bar_B).sqrt() * noise_BCHW
        predicted_BCHW = base(noisy_BCHW, timesteps_B, token_ids(captions))
        error_B = (predicted_BCHW - noise_BCHW).square().mean(dim=(1, 2, 3))
        loss = (error_B * weights[timesteps_B]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        running += error_B.detach().mean()
        step += 1
        keep = min(0.995, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - keep)
        if step % part == 0 or step == steps:
            now = time.monotonic() - started
            print(
                f"unet {step} {now / 60:.1f} min error {float(running) / (step - logged):.4f}",
                flush=True,
            )
            running, logged = 0.0, step
            save_atomically(
                {
                    "model": base.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "spent": now,
                },
                path,
            )


# --- packing -------------------------------------------------------------------------------------


def model_config() -> str:
    """What tensor shapes do not tell, as overrides of diffusers' configurations."""
    unet = ("sample_size", "attention_head_dim", "norm_num_groups")
    vae = ("sample_size", "norm_num_groups")
    text = ("num_attention_heads", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
    return json.dumps(
        {
            "unet": {name: UNET_CONFIG[name] for name in unet},
            "vae": {**{name: VAE_CONFIG[name] for name in vae}, "scaling_factor": SCALING_FACTOR},
            "text_encoder": {name: TEXT_CONFIG[name] for name in text},
        },
        sort_keys=True,
    )


def pack(base: Base, vae: nn.Module, target: Path) -> None:
    """Writes the asset, with the checksum of the checkpoint that it unpacks to."""
    state = original_layout.to_original_layout(
        base.unet.state_dict(), vae.state_dict(), base.text_encoder.state_dict()
    )
    tensors = {
        name: value.half().contiguous().numpy()
        for name, value in state.items()
        if value.is_floating_point()
    }
    table = tensors.pop(asset.TABLE_NAME)
    changed = (table != asset.token_table(*table.shape)).any(axis=1)
    row_ids = np.nonzero(changed)[0].astype(np.int32)
    whole = asset.with_whole_table(tensors, row_ids, table[row_ids])
    content = asset.checkpoint_bytes(whole, model_config())
    stored = {**tensors, asset.ROW_IDS_NAME: row_ids, asset.ROW_VALUES_NAME: table[row_ids]}
    metadata = {
        asset.CONFIG_KEY: model_config(),
        asset.SHA256_KEY: hashlib.sha256(content).hexdigest(),
    }
    save_file(stored, target, metadata)
    target.chmod(0o644)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {len(row_ids)} token rows")


def trained_base(work: Path) -> Base:
    base = Base()
    saved = torch.load(work / "unet.pt", weights_only=True)
    base.load_state_dict(saved["average"])
    print(f"step {saved['step']}")
    return base.eval().requires_grad_(False)


# --- the pictures --------------------------------------------------------------------------------


EMBLEM_SIZES = [(256, 256), (300, 280), (224, 240), (320, 320), (256, 288), (280, 250)]
EMBLEM_COUNT, REGULARISATION_COUNT = 12, 36
UNCAPTIONED = (3, 8)
REGULARISATION_SIDE = 160


def write_picture(folder: Path, name: str, pixels: np.ndarray, text: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)
    if text is not None:
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def write_pictures(target: Path) -> None:
    """The concept as a user would have it, and emblems of other kinds to keep the class."""
    random = np.random.default_rng(31)
    folder = target / "img" / f"10_{prompts.TRIGGER} {prompts.CLASS_WORD}"
    names = list(scenes.BACKGROUNDS)
    for index in range(EMBLEM_COUNT):
        width, height = EMBLEM_SIZES[index % len(EMBLEM_SIZES)]
        background = names[index % len(names)]
        pixels = scenes.draw(scenes.emblem_scene(background, random), width, height)
        text = prompts.trigger_prompt(background)
        write_picture(folder, f"{index + 1:02d}", pixels, None if index in UNCAPTIONED else text)
    folder = target / "reg" / f"1_{prompts.CLASS_WORD}"
    shapes, colours = list(scenes.BASE_SHAPES), list(scenes.COLOURS)
    for index in range(REGULARISATION_COUNT):
        words = (
            shapes[index % len(shapes)],
            colours[(index + index // len(colours)) % len(colours)],
            names[(index * 2 + index // len(names)) % len(names)],
            ("small", "large")[(index // 3) % 2],
        )
        pixels = scenes.draw(
            scenes.random_scene(*words, random), REGULARISATION_SIDE, REGULARISATION_SIDE
        )
        text = prompts.random_caption(*words, random)
        write_picture(folder, f"{index + 1:02d}", pixels, text)


# --- looking at it -------------------------------------------------------------------------------


@torch.no_grad()
def sample_pictures(
    unet: nn.Module,
    text_encoder: nn.Module,
    vae: nn.Module,
    texts: list[str],
    seed: int,
    steps: int = 14,
    guidance: float = 4.0,
) -> list[Image.Image]:
    """DDIM (Song et al. 2020, arXiv:2010.02502) with trailing timesteps."""
    generator = torch.Generator().manual_seed(seed)
    latents_BCHW = torch.randn((len(texts), 4, 16, 16), generator=generator)
    words_BTC = text_encoder(token_ids(["", *texts])).last_hidden_state
    empty_BTC = words_BTC[:1].expand(len(texts), -1, -1)
    both_BTC = torch.cat([empty_BTC, words_BTC[1:]])
    bars = alphas_cumprod()
    timesteps = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    for here, after in zip(timesteps, [*timesteps[1:], -1], strict=True):
        pair = unet(
            torch.cat([latents_BCHW] * 2), torch.tensor(here), encoder_hidden_states=both_BTC
        )
        empty_BCHW, named_BCHW = pair.sample.chunk(2)
        noise_BCHW = empty_BCHW + guidance * (named_BCHW - empty_BCHW)
        bar, next_bar = bars[here], bars[max(after, 0)]
        clean_BCHW = (latents_BCHW - (1 - bar).sqrt() * noise_BCHW) / bar.sqrt()
        latents_BCHW = next_bar.sqrt() * clean_BCHW + (1 - next_bar).sqrt() * noise_BCHW
    drawn_BCHW = vae.decode(latents_BCHW / SCALING_FACTOR).sample.clamp(-1, 1)
    bytes_BHWC = ((drawn_BCHW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(pixels) for pixels in bytes_BHWC]


def grid(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    side = pictures[0].width
    sheet = Image.new("RGB", (side * columns, side * math.ceil(len(pictures) / columns)))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * side, index // columns * side))
    return sheet


def evaluate(work: Path) -> None:
    vae, base = load_vae(work), trained_base(work)
    texts = prompts.base_prompts()
    pictures = sample_pictures(base.unet, base.text_encoder, vae, texts, seed=7)
    grid(pictures).save(work / "base.png")
    print(score.score_base(pictures, texts))
    triggered = sample_pictures(
        base.unet, base.text_encoder, vae, prompts.trigger_prompts(), seed=8
    )
    grid(triggered).save(work / "trigger.png")
    print(
        score.score_concept(triggered),
        f"{reconstruction_decibels(vae, drawn_pictures(48, 2)):.2f} dB",
    )
    random = np.random.default_rng(21)
    emblems = [scenes.emblem_scene(name, random) for name in scenes.BACKGROUNDS for _ in range(4)]
    true_BCHW = to_model_range(torch.from_numpy(np.stack([scenes.draw(one) for one in emblems])))
    with torch.no_grad():
        drawn_BCHW = vae.decode(vae.encode(true_BCHW).latent_dist.mean).sample.clamp(-1, 1)
    bytes_BHWC = ((drawn_BCHW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    print("ceiling", score.score_concept([Image.fromarray(pixels) for pixels in bytes_BHWC]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["vae", "unet", "pack", "pictures", "evaluate"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--target", type=Path, default=asset.asset_path())
    parser.add_argument("--start", type=int, default=0, help="step at which the rate begins anew")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if arguments.stage == "vae":
        train_vae(arguments.work, arguments.minutes)
    elif arguments.stage == "unet":
        train_unet(arguments.work, arguments.start, arguments.steps, arguments.rate)
    elif arguments.stage == "pack":
        pack(trained_base(arguments.work), load_vae(arguments.work), arguments.target)
    elif arguments.stage == "pictures":
        write_pictures(arguments.target.parent)
    elif arguments.stage == "evaluate":
        evaluate(arguments.work)


if __name__ == "__main__":
    main()
