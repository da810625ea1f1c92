"""Bytes of a run: the network's file exactly, disk and memory as estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.data.buckets import Placement
from engine.hardware import GIB, Device
from engine.planning.base import BaseSize, base_size
from engine.planning.disk import FP32_BYTES, DiskNeeds, disk_needs, network_files
from engine.planning.facts import Facts
from engine.planning.memory import MemoryEstimate, MemoryQuestion, estimate_memory, kept_by
from engine.planning.network import NetworkSize, network_size
from engine.planning.rules import trains_text
from engine.planning.text_cache import text_cache_bytes, text_tokens
from engine.settings import Recipe
from engine.settings.network import asked

LATENT_CHANNELS = 4
LATENT_FACTOR = 8


@dataclass(frozen=True, slots=True)
class RunSizes:
    """Bytes of a run."""

    network: NetworkSize
    file_bytes: int | None
    """One network file, tensors exact; None where the base must be loaded to know."""
    files: int
    """Network files that the run leaves behind."""
    cache_bytes: int
    """Latents of pictures that are encoded once."""
    disk: DiskNeeds
    """Everything the run writes, at its most, by where it goes."""
    trained_parameters: int | None
    memory: MemoryEstimate
    memory_free: int
    notices: tuple[str, ...] = ()
    text_cache_bytes: int = 0
    """Captions that are encoded once."""

    @property
    def disk_bytes(self) -> int:
        """Everything the run writes, at its most."""
        return self.disk.total


def run_sizes(
    recipe: Recipe,
    facts: Facts,
    device: Device,
    placements: Sequence[Placement | None],
    steps_per_epoch: Sequence[int],
) -> RunSizes:
    """Sizes of a filled recipe."""
    base = base_size(facts.model)
    network = network_size(recipe, base)
    files = network_files(recipe, steps_per_epoch)
    cache = latent_bytes(recipe, placements)
    text = text_cache_bytes(recipe, facts, base)
    disk = disk_needs(
        recipe,
        steps_per_epoch,
        file_bytes=network.file_bytes,
        parameters=network.parameters,
        cache=text + (cache if recipe.data.cache_latents == "disk" else 0),
        side=recipe.data.resolution or (base.resolution, base.resolution),
    )
    memory = estimate_memory(_question(recipe, base, network))
    known = base.architecture is not None
    notices = list(network.notices)
    if facts.model is not None and not known:
        notices.append(
            "Sizes are those of a usual Stable Diffusion 1 model: this file tells only after loading."
        )
    memory_free = device.gpu.free if device.gpu is not None else facts.hardware.ram_free
    if memory.previews > max(memory.high, memory_free):
        notices.append(
            f"While preview pictures are made {memory.previews / GIB:.1f} GiB of memory may be needed"
            " (estimate), more than training takes. Where it is not there, they are decoded in tiles"
            " or left out; smaller ones (sample.width, sample.height) need less."
        )
    return RunSizes(
        network=network,
        file_bytes=network.file_bytes if known else None,
        files=files,
        cache_bytes=cache,
        disk=disk,
        trained_parameters=network.parameters if known else None,
        memory=memory,
        memory_free=memory_free,
        notices=tuple(notices),
        text_cache_bytes=text,
    )


def latent_bytes(recipe: Recipe, placements: Sequence[Placement | None]) -> int:
    """Mean and deviation of every picture's latent in fp32, twice where it is mirrored."""
    if not caches_latents(recipe):
        return 0
    pixels = sum(each.bucket[0] * each.bucket[1] for each in placements if each is not None)
    latents = pixels // LATENT_FACTOR**2 * LATENT_CHANNELS
    return latents * FP32_BYTES * 2 * (2 if recipe.data.flip else 1)


def caches_latents(recipe: Recipe) -> bool:
    """Whether pictures are encoded once: not where every draw changes them before."""
    data = recipe.data
    return data.cache_latents != "off" and not (data.random_crop or data.colour)


def _question(recipe: Recipe, base: BaseSize, network: NetworkSize) -> MemoryQuestion:
    data, sample = recipe.data, recipe.sample
    width, height = data.resolution or (base.resolution, base.resolution)
    trains_te = trains_text(recipe)
    painted = (sample.width or width) * (sample.height or height)
    return MemoryQuestion(
        architecture=base.sizes,
        unet_parameters=base.unet_parameters,
        te_parameters=base.te_parameters,
        trained_parameters=network.parameters,
        optimizer=recipe.optim.optimizer or "adamw",
        half=recipe.train.precision in ("fp16", "bf16"),
        batch=recipe.train.batch_size or 1,
        # Larger budgets stand beside the usual one, and the largest decides.
        pixels=max(width * height, *(side * side for side in (0, *data.more_resolutions))),
        checkpointing=bool(recipe.train.checkpointing),
        te_loaded=trains_te or not data.cache_text,
        te_trained=trains_te,
        tokens=text_tokens(recipe.model.max_tokens),
        # An inpainting base gets another hole in each draw, which is encoded anew.
        vae_loaded=not caches_latents(recipe) or base.sizes.unet["in_channels"] > LATENT_CHANNELS,
        pictures_pixels=painted if sample.prompts else 0,
        half_network=recipe.train.network_precision != "fp32",
        averaged=recipe.train.ema_decay > 0,
        kept=kept_by(recipe.network.algorithm, dora=asked(recipe.network, "dora", "off") != "off"),
    )
