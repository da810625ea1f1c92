"""From a filled recipe to everything the loop needs. Below this file nobody sees a settings object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn

from engine.data.colour import parse_background
from engine.data.latents import Encoder, Pictures, encode_latents
from engine.data.loader import Loader
from engine.data.placing import place_all
from engine.data.store import Store
from engine.data.survey import survey
from engine.data.text import LiveText, TextCache, all_captions
from engine.errors import Problem, RecipeError
from engine.models.load import load_model
from engine.networks.flat import flatten
from engine.optim.groups import Group
from engine.optim.optimizers import SMALLEST_OF_8_BITS, OptimizerChoice, build_optimizer
from engine.optim.schedules import Factor, learning_rate_factor, warmup_length
from engine.planning.rules import (
    bucket_rules,
    caption_rules,
    cut_steps,
    network_choice,
    order_of,
    survey_rules,
)
from engine.planning.start import start_problems

if TYPE_CHECKING:
    from engine.data.buckets import Placement
    from engine.data.captions import CaptionRules
    from engine.data.latents import LatentSource
    from engine.data.order import Order
    from engine.data.survey import Survey
    from engine.data.text import TextSource
    from engine.models.family import BaseModel
    from engine.networks.network import Network
    from engine.settings import Recipe
    from engine.settings.objective import Objective

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""

PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(slots=True)
class Training:
    """Everything the loop needs, assembled once."""

    model: BaseModel
    network: Network
    survey: Survey
    order: Order
    loader: Loader
    text: TextSource
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    rates: dict[str, float]
    factor: Factor
    objective: Objective
    device: torch.device
    precision: torch.dtype
    seed: int
    steps_per_epoch: tuple[int, ...]
    total_steps: int
    warmup_steps: int
    resolution: tuple[int, int]
    clip_skip: int
    max_grad_norm: float
    max_norm: float
    alphas_cumprod: Tensor
    parameters: list[nn.Parameter]
    """Flat buffers of all trained numbers, their gradients with them."""
    parent_sha256: str | None = None
    notices: tuple[str, ...] = ()
    skipped_steps: int = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast in the training precision; nothing in fp32."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def picture_name(self, item: int) -> str:
        """File name of an item of the data set."""
        return self.survey.items[item].image.path.name

    def memory(self) -> tuple[int, int]:
        """Bytes in use and at peak: of the GPU where training runs on one, else of this process."""
        if self.device.type == "cuda":
            return (
                torch.cuda.memory_reserved(self.device),
                torch.cuda.max_memory_reserved(self.device),
            )
        now = psutil.Process(os.getpid()).memory_info().rss
        return now, max(now, peak_rss())


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True, slots=True)
class LearningRates:
    """Base rate by part, as the optimizer gets them; a part with rate 0 is not trained."""

    unet: float
    te: float

    @property
    def trained(self) -> dict[str, float]:
        """Rates of the parts that are trained."""
        rates = {"unet": self.unet, "te": self.te}
        return {part: rate for part, rate in rates.items() if rate > 0}


def learning_rates(recipe: Recipe) -> LearningRates:
    """The rates of a filled recipe: a part's own rate wins over the common one."""
    optim = recipe.optim
    common = 0.0 if optim.lr is None else optim.lr
    return LearningRates(
        unet=common if optim.unet_lr is None else optim.unet_lr,
        te=common if optim.te_lr is None else optim.te_lr,
    )


def assemble(recipe: Recipe, cache: Path, progress: Progress) -> Training:
    """Check the data, load the model, fill the caches, build network and optimizer.

    Raises one EngineError with everything that is wrong, the cheap checks before the dear ones.
    """
    from engine.hardware import choose_device, read_hardware

    found, placements = _read_data(recipe, progress)
    order = order_of(found.items, placements, recipe.data, recipe.train)
    steps_per_epoch = cut_steps(order.steps_per_epoch(recipe.train.epochs), recipe.train.max_steps)
    device = torch.device(choose_device(recipe.train.device, read_hardware()).torch_name)
    precision = PRECISIONS[recipe.train.precision or "no"]
    progress("loading the base model", 0, 0)
    model = _load_base(recipe, precision, device)
    wanted = learning_rates(recipe).trained
    network, parent_sha256 = _build_network(recipe, model, tuple(wanted))
    parts = {part: list(network.parameters(part)) for part in wanted}
    rates = {part: rate for part, rate in wanted.items() if parts[part]}
    if not rates:
        raise RecipeError(_nothing_trained(recipe))
    _freeze_others(network, rates)
    store = Store(cache / "latents", limit_bytes=int(recipe.data.cache_gigabytes * 1e9))
    pictures = Pictures(
        found.items,
        placements,
        background=parse_background(recipe.data.background),
        seed=recipe.train.seed or 0,
        max_megapixels=recipe.data.max_megapixels,
    )
    mode = "off" if recipe.data.random_crop else recipe.data.cache_latents
    latents = encode_latents(
        pictures,
        Encoder(model.encode_images, model.vae_hash, _numbers_of(device)),
        mode=mode,
        store=store,
        progress=lambda done, total: progress("caching latents", done, total),
    )
    captions = caption_rules(recipe.data)
    text = _text_source(recipe, model, captions, found, "te" in rates, cache, progress)
    network.inject()
    model.set_checkpointing(bool(recipe.train.checkpointing), train_te="te" in rates)
    groups = optimizer_groups(network, rates, _optimizer_choice(recipe))
    optimizer = build_optimizer(_optimizer_choice(recipe), groups)
    total = sum(steps_per_epoch)
    warmup = _warmup(recipe, total)
    return Training(
        model=model,
        network=network,
        survey=found,
        order=order,
        loader=Loader(
            found.items,
            placements,
            latents,
            captions,
            seed=recipe.train.seed or 0,
            random_crop=recipe.data.random_crop,
            workers=recipe.data.workers or 0,
            order=order,
        ),
        text=text,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(
            device.type, enabled=precision == torch.float16 and device.type == "cuda"
        ),
        rates=rates,
        factor=learning_rate_factor(
            recipe.schedule.scheduler,
            steps=total,
            warmup=warmup,
            cycles=recipe.schedule.cycles,
        ),
        objective=recipe.objective,
        device=device,
        precision=precision,
        seed=recipe.train.seed or 0,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        warmup_steps=warmup,
        parent_sha256=parent_sha256,
        notices=_notices(recipe, network, latents, wanted, rates),
        resolution=recipe.data.resolution or (512, 512),
        clip_skip=recipe.model.clip_skip or 1,
        max_grad_norm=recipe.optim.max_grad_norm,
        max_norm=recipe.network.max_norm,
        alphas_cumprod=model.alphas_cumprod.to(device, torch.float32),
        parameters=[group.flat for group in groups],
    )


def _read_data(recipe: Recipe, progress: Progress) -> tuple[Survey, tuple[Placement, ...]]:
    found = survey(
        survey_rules(recipe.data),
        progress=lambda done, total: progress("checking pictures", done, total),
        workers=recipe.train.threads,
    )
    found.raise_errors()
    return found, place_all(found.items, bucket_rules(recipe.data))


def _load_base(recipe: Recipe, precision: torch.dtype, device: torch.device) -> BaseModel:
    if recipe.model.path is None:
        raise RecipeError(
            Problem("No base model is given.", path="model.path", remedy="Give a file or folder.")
        )
    return load_model(
        recipe.model.path.expanduser(),
        family=recipe.model.family,
        prediction=recipe.model.prediction,
        vae=recipe.model.vae,
        dtype=precision,
        device=device,
    )


def _build_network(
    recipe: Recipe, model: BaseModel, trained: tuple[str, ...]
) -> tuple[Network, str | None]:
    """A fresh network, or the one of `network.weights` with the sha256 of its file."""
    from engine.checkpoint.atomic import file_sha256
    from engine.networks.files import read_network
    from engine.networks.network import build, from_file

    choice = network_choice(recipe.network)
    seed = recipe.train.seed or 0
    weights = recipe.network.weights
    if weights is None:
        components = {
            part: module for part, module in model.components().items() if part in trained
        }
        return build(components, choice, seed=seed), None
    path = weights.expanduser()
    problems = start_problems(recipe)
    if problems:
        raise RecipeError(*problems)
    file = read_network(path)
    network = from_file(
        model.components(),
        file.tensors,
        file.metadata,
        seed=seed,
        choice=choice,
    )
    return network, file_sha256(path)


def _nothing_trained(recipe: Recipe) -> Problem:
    return Problem(
        "Nothing would be trained: every learning rate is 0, or the layers chosen have none.",
        path="optim.lr",
        remedy=f"Set optim.unet_lr or optim.te_lr above 0, or network.targets to another value "
        f"than {recipe.network.targets}.",
    )


def _freeze_others(network: Network, rates: Mapping[str, float]) -> None:
    """Parts of a network file that are not trained on stay as they are, and in the file."""
    for member in network.members:
        if member.component not in rates:
            member.adapter.requires_grad_(False)


def _notices(
    recipe: Recipe,
    network: Network,
    latents: LatentSource,
    wanted: Mapping[str, float],
    rates: Mapping[str, float],
) -> tuple[str, ...]:
    found = [*network.skipped, *getattr(latents, "notices", [])]
    if recipe.data.random_crop and recipe.data.cache_latents != "off":
        found.append("data.random_crop switches the latent cache off: each crop is encoded anew.")
    found += [
        f"There is no layer to train in the part {part}." for part in wanted if part not in rates
    ]
    return tuple(found)


def _warmup(recipe: Recipe, steps: int) -> int:
    schedule = recipe.schedule
    return warmup_length(steps, percent=schedule.warmup_percent or 0.0, count=schedule.warmup_steps)


def optimizer_groups(
    network: Network, rates: Mapping[str, float], choice: OptimizerChoice
) -> list[Group]:
    """The network's trained tensors, moved into flat buffers: one for each rate and kind of state."""
    return [
        Group(
            part=part,
            rate=rate,
            flat=buffer.whole,
            places=buffer.places,
            shaped=list(buffer.parameters.values()),
            ratio=choice.plus_ratio if kind.plus else 1.0,
            small=kind.small,
        )
        for part, rate in rates.items()
        for kind, buffer in flatten(
            network.members,
            part,
            split_plus=choice.plus_ratio != 1,
            small_below=SMALLEST_OF_8_BITS if choice.name == "adamw8bit" else 0,
        ).items()
    ]


def _optimizer_choice(recipe: Recipe) -> OptimizerChoice:
    optim = recipe.optim
    return OptimizerChoice(
        name=optim.optimizer or "adamw",
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        eps=optim.eps,
        d_coef=optim.d_coef,
        plus_ratio=optim.loraplus_ratio or 1.0,
        safeguard_warmup=bool(recipe.schedule.warmup_percent or recipe.schedule.warmup_steps),
    )


def _numbers_of(device: torch.device) -> str:
    """What the last bits of a cached value depend on besides its inputs."""
    return f"fp32 {device.type} {torch.get_num_threads() if device.type == 'cpu' else ''}".rstrip()


def _text_source(
    recipe: Recipe,
    model: BaseModel,
    captions: CaptionRules,
    found: Survey,
    trained: bool,
    cache: Path,
    progress: Progress,
) -> TextSource:
    """Captions through the live encoder where it is trained, else encoded once each and kept."""
    from engine.models.family import Conditioning

    clip_skip = recipe.model.clip_skip or 1

    def encode(texts: Sequence[str]) -> Conditioning:
        return model.encode_text(texts, clip_skip)

    if trained or recipe.data.cache_text is False:
        return LiveText(encode)
    kept = TextCache(
        encode,
        te_hash=model.te_hash,
        clip_skip=clip_skip,
        length=75,
        precision=f"{model.dtype} {_numbers_of(model.device)}",
        join=Conditioning.cat,
        place=lambda part: part.to(model.device),
        rest=lambda part: part.cpu(),
        store=Store(cache / "text", limit_bytes=int(recipe.data.cache_gigabytes * 1e9)),
        pack=lambda part: part.tensors(),
        unpack=lambda tensors: Conditioning.from_tensors(dict(tensors)),
    )
    every = all_captions(found.items, captions)
    if every is not None:
        kept.fill(every, lambda done, total: progress("caching text", done, total))
    return kept
