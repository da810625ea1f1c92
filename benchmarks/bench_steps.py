"""What a network adds to a training step: ratios to the frozen U-Net's own step, in one process.

The floor is forward and backward of the frozen U-Net with a gradient to its input and no network.
All contenders are measured in turn, round after round; a row is the ratio of medians. lycoris-lora
and peft train the same layers at the same rank, from non-zero weights.

Usage: python benchmarks/bench_steps.py [--device cuda] [--full-size] [--rounds 9] [--rank 16]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.quiet import import_quietly
from engine.networks.choice import Choice
from engine.networks.network import build

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
Contender = Callable[[nn.Module, int], Any]


def unet(full_size: bool) -> nn.Module:
    """SD1.5's U-Net with random weights, or one of the same shape a quarter as deep and wide."""
    import_quietly()
    from diffusers import UNet2DConditionModel

    small: dict[str, Any] = {"block_out_channels": (160, 320), "layers_per_block": 1}
    small |= {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    small |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    torch.manual_seed(0)
    model = UNet2DConditionModel(cross_attention_dim=768, **({} if full_size else small))
    frozen: nn.Module = model.requires_grad_(False).eval()
    return frozen


@contextmanager
def ours(model: nn.Module, rank: int, algorithm: str) -> Iterator[None]:
    """One of our networks, moved away from zero."""
    choice = Choice(algorithm, rank if algorithm == "lora" else "full", 1.0, factor=8)
    network = build({"unet": model}, choice, seed=0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=1e-3)
    network.inject()
    network.train()
    network.begin(step=1)
    yield
    network.eject()


@contextmanager
def lycoris(model: nn.Module, rank: int) -> Iterator[None]:
    """lycoris-lora's LoRA on the same layers, as it comes."""
    from lycoris import LycorisNetwork, create_lycoris

    LycorisNetwork.apply_preset(
        {"target_module": ["Transformer2DModel"], "target_name": [], "enable_conv": False}
    )
    network = create_lycoris(model, 1.0, linear_dim=rank, linear_alpha=1.0, algo="lora")
    network.apply_to()
    network.to(next(model.parameters()).device)
    for parameter in network.parameters():
        nn.init.normal_(parameter.data, std=1e-3)
    yield
    network.restore()


@contextmanager
def peft(model: nn.Module, rank: int) -> Iterator[None]:
    """peft's LoRA on the same layers."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(
        r=rank, lora_alpha=1, target_modules=ATTENTION, init_lora_weights="gaussian"
    )
    inject_adapter_in_model(config, model)
    yield
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


@contextmanager
def nothing(model: nn.Module, rank: int) -> Iterator[None]:
    """The frozen model alone."""
    yield


def step(model: nn.Module, noisy_BCHW: Tensor, text_BTD: Tensor) -> None:
    """Forward and backward to the input."""
    timesteps_B = torch.full((len(noisy_BCHW),), 500, device=noisy_BCHW.device)
    noisy_BCHW = noisy_BCHW.detach().requires_grad_()
    prediction_BCHW = model(noisy_BCHW, timesteps_B, text_BTD).sample
    prediction_BCHW.float().square().mean().backward()


def timed(run: Callable[[], None], device: str) -> float:
    """Seconds of one call: processor time on the CPU, so that neighbours count less."""
    if device == "cpu":
        began = time.process_time()
        run()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Print a row for each contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rank", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    model = unet(arguments.full_size).to(arguments.device)
    noisy_BCHW = torch.randn(1, 4, 32, 32, device=arguments.device)
    text_BTD = torch.randn(1, 77, 768, device=arguments.device)
    contenders: dict[str, Contender] = {
        "frozen model": nothing,
        "LoRA": lambda model, rank: ours(model, rank, "lora"),
        "LoKr full, factor 8": lambda model, rank: ours(model, rank, "lokr"),
        "peft LoRA": peft,
        "lycoris-lora LoRA": lycoris,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds + 1):
        for name, contender in contenders.items():
            with contender(model, arguments.rank):
                step(model, noisy_BCHW, text_BTD)
                taken = timed(lambda: step(model, noisy_BCHW, text_BTD), arguments.device)
            if number:  # the first round warms up
                seconds[name].append(taken)
    floor = statistics.median(seconds["frozen model"])
    print(f"floor {floor:.3f} s, {arguments.rounds} rounds, rank {arguments.rank}")
    for name, taken in seconds.items():
        print(f"{name:22} {statistics.median(taken) / floor:5.2f} x")


if __name__ == "__main__":
    main()
