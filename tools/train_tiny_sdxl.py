"""Trains the tiny SDXL of the tests on the demo's scenes and packs it: see tools/README.md.

The autoencoder is the demo base's, brought to SDXL's latent scale; the tables of words are drawn from
their names as in the demo and never trained, so they are not stored.

Legend: B batch, C channels, H height, W width, T tokens.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import train_demo_base as demo
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lyctui.demo import prompts, scenes
from tests.tiny_families import VAES, FamilyModules
from tests.trained_sdxl import KEPT_TABLE, PATH, SIDE, starting_modules

SCALE = VAES["sdxl"]["scaling_factor"]


class Base(nn.Module):
    """U-Net and both text encoders, trained together."""

    def __init__(self, modules: FamilyModules) -> None:
        super().__init__()
        self.unet = modules.unet
        self.text_encoder = modules.text_encoder
        self.text_encoder_2 = modules.text_encoder_2
        for encoder in (self.text_encoder, self.text_encoder_2):
            encoder.get_input_embeddings().weight.requires_grad_(False)

    def forward(
        self, noisy_BCHW: Tensor, timesteps_B: Tensor, ids_BT: Tensor, sizes_B6: Tensor
    ) -> Tensor:
        first = self.text_encoder(ids_BT, output_hidden_states=True)
        # The second encoder's tokenizer pads with 0, after the first end token.
        ended_BT = (ids_BT == 49407).cumsum(-1) > 1
        second = self.text_encoder_2(ids_BT.masked_fill(ended_BT, 0), output_hidden_states=True)
        words_BTD = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        added = {"text_embeds": second.text_embeds, "time_ids": sizes_B6}
        return self.unet(
            noisy_BCHW, timesteps_B, encoder_hidden_states=words_BTD, added_cond_kwargs=added
        ).sample


def drawn_sizes(batch: int, generator: torch.Generator) -> Tensor:
    """Sizes and crops of all kinds, so that none of them is strange to the base."""
    originals_B = torch.randint(SIDE, 3 * SIDE, (batch, 2), generator=generator)
    crops_B = torch.randint(0, 33, (batch, 2), generator=generator)
    crops_B[::2] = 0
    targets_B = torch.full((batch, 2), SIDE)
    return torch.cat([originals_B, crops_B, targets_B], dim=1).float()


@torch.no_grad()
def encoded(vae: nn.Module, work: Path) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Scaled latents of scenes, and the words that name them; kept in the work folder."""
    path = work / "scenes.pt"
    if not path.exists():
        random = np.random.default_rng(11)
        latents, names = [], []
        tables = (scenes.BASE_SHAPES, scenes.COLOURS, scenes.BACKGROUNDS, ("small", "large"))
        for _ in range(160):
            group = [tuple(str(random.choice(list(t))) for t in tables) for _ in range(16)]
            pixels = np.stack([scenes.draw(scenes.random_scene(*words, random)) for words in group])
            part = vae.encode(demo.to_model_range(torch.from_numpy(pixels))).latent_dist.mean
            latents.append(part * SCALE)
            names += group
        demo.save_atomically((torch.cat(latents), names), path)
    latents_NCHW, names = torch.load(path, weights_only=True)
    return latents_NCHW, names


def train(work: Path, steps: int, peak: float, batch: int = 16, part: int = 100) -> None:
    """Train to `steps`, going on from the work folder."""
    torch.manual_seed(1)
    modules = starting_modules()
    latents_NCHW, names = encoded(modules.vae, work)
    base = Base(modules)
    trained = [(name, value) for name, value in base.named_parameters() if value.requires_grad]
    words = [value for name, value in trained if "attn2" in name or "text_encoder" in name]
    rest = [value for name, value in trained if not ("attn2" in name or "text_encoder" in name)]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "factor": 1.0}, {"params": words, "factor": demo.WORD_FACTOR}],
        lr=peak, betas=(0.9, 0.99), weight_decay=0.0, foreach=True,
    )  # fmt: skip
    step, path = 0, work / "sdxl.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        base.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    bars, weights = demo.alphas_cumprod(), demo.noise_weights()
    random = np.random.default_rng(1000 + step)
    generator = torch.Generator().manual_seed(1000 + step)
    started, running = time.monotonic(), 0.0
    while step < steps:
        rate = demo.cosine_rate(peak, step, steps, 50)
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * rate
        chosen = random.integers(0, len(names), batch)
        captions = [
            "" if random.random() < 0.1 else prompts.random_caption(*names[i], random)
            for i in chosen
        ]
        clean_BCHW = latents_NCHW[torch.from_numpy(chosen)]
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator)
        noise_BCHW += demo.NOISE_OFFSET * torch.randn((batch, 4, 1, 1), generator=generator)
        timesteps_B = demo.drawn_timesteps(batch, generator)
        bar_B = bars[timesteps_B].view(-1, 1, 1, 1)
        noisy_BCHW = bar_B.sqrt() * clean_BCHW + (1 - bar_B).sqrt() * noise_BCHW
        sizes_B6 = drawn_sizes(batch, generator)
        predicted_BCHW = base(noisy_BCHW, timesteps_B, demo.token_ids(captions), sizes_B6)
        error_B = (predicted_BCHW - noise_BCHW).square().mean(dim=(1, 2, 3))
        optimizer.zero_grad(set_to_none=True)
        (error_B * weights[timesteps_B]).mean().backward()
        nn.utils.clip_grad_norm_([value for _, value in trained], 1.0)
        optimizer.step()
        running += float(error_B.detach().mean())
        step += 1
        if step % part == 0 or step == steps:
            minutes = (time.monotonic() - started) / 60
            print(f"{step} {minutes:.1f} min error {running / part:.4f}", flush=True)
            running = 0.0
            demo.save_atomically(
                {
                    "model": base.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                },
                path,
            )


def pack(work: Path, target: Path) -> None:
    """Write what was trained, and the autoencoder, in half precision."""
    modules = starting_modules()
    base = Base(modules)
    base.load_state_dict(torch.load(work / "sdxl.pt", weights_only=True)["model"])
    parts = {**dict(base.named_children()), "vae": modules.vae}
    state = {
        f"{part}.{name}": value.half().contiguous()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
        if value.is_floating_point() and KEPT_TABLE not in name
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, target)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {len(load_file(target))} tensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["train", "pack"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if arguments.stage == "train":
        train(arguments.work, arguments.steps, arguments.rate)
    else:
        pack(arguments.work, PATH)


if __name__ == "__main__":
    main()
