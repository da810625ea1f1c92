"""From a filled recipe to everything the loop needs. Below this file nobody sees a settings object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn

from engine.assemble_data import build_loaders, cache_mode, numbers_of, read_data
from engine.assemble_optim import movers
from engine.data.store import Store
from engine.data.text import LiveText, TextCache, all_captions
from engine.errors import Problem, RecipeError
from engine.models.load import load_model
from engine.objective.schedule import rescale_zero_terminal_snr
from engine.optim.named import parts_of
from engine.optim.probe import require_optimizer
from engine.planning.rules import caption_rules, cut_steps, network_choice, part_rates
from engine.planning.start import start_problems
from engine.validation import plan_validation

if TYPE_CHECKING:
    from engine.data.captions import CaptionRules
    from engine.data.loader import Loader
    from engine.data.order import Order
    from engine.data.survey import Item, Survey
    from engine.data.text import TextSource
    from engine.models.family import BaseModel
    from engine.networks.network import Network
    from engine.optim.averaged import Averages
    from engine.optim.named import NamedOptimizer
    from engine.optim.schedules import Curve
    from engine.optim.weights import Weights
    from engine.settings import Recipe
    from engine.settings.objective import Objective
    from engine.validation import Validation

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""

TEXT_PARTS = frozenset({"te", "te2"})
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(slots=True)
class Training:
    """Everything the loop needs, assembled once."""

    model: BaseModel
    network: Network
    survey: Survey
    items: tuple[Item, ...]
    """Pictures as batches number them: each comes once for each resolution it is trained at."""
    order: Order
    loader: Loader
    text: TextSource
    optimizer: NamedOptimizer
    weights: Weights
    """All trained numbers, as the network holds them and as the optimizer steps them."""
    averages: Averages
    """What is shown of them in files, pictures and validation."""
    scaler: torch.amp.GradScaler
    rates: dict[str, float]
    curve: Curve
    te_stop_step: int | None
    """The last step in which text encoders are trained; None where they are to the end."""
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
    mask_mean: str
    """What the loss under a mask is divided by: its own area ("mask") or that of the "picture"."""
    checkpointing: bool
    alphas_cumprod: Tensor
    parent_sha256: str | None = None
    notices: tuple[str, ...] = ()
    validation: Validation | None = None
    """What is measured beside training; None where no picture is held out."""
    skipped_steps: int = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast in the training precision; nothing in fp32."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Flat buffers of all trained numbers, their gradients with them."""
        return [pair.live.flat for pair in self.weights.pairs]

    def reach(self, step: int) -> None:
        """Freeze the text encoders where `step` = 1, 2, ... lies behind their last one."""
        stop = self.te_stop_step
        if stop is not None and step > stop:
            self.stop_parts(TEXT_PARTS)

    def stop_parts(self, parts: Collection[str]) -> None:
        """Take parts of the model out of optimizer and graph; what they learnt stays applied.

        What the optimizer knows of the whole run, such as Prodigy's d, goes on.
        """
        leaving = parts_of({"param_groups": self.optimizer.param_groups}) & frozenset(parts)
        if not leaving:
            return
        self.averages.leave(leaving)
        self.optimizer.leave(leaving)
        self.weights.leave(leaving)
        for member in self.network.members:
            if member.component in leaving:
                member.adapter.requires_grad_(False)
                member.adapter.eval()
        left = parts_of({"param_groups": self.optimizer.param_groups})
        self.model.set_checkpointing(self.checkpointing, train_te=not TEXT_PARTS.isdisjoint(left))

    def picture_name(self, item: int) -> str:
        """File name of an item of a batch."""
        return self.items[item].image.path.name

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


def trained_rates(recipe: Recipe, parts: Collection[str]) -> dict[str, float]:
    """Base rate of each part that is trained; `parts` are those that the base model has."""
    rates = part_rates(recipe.optim)
    return {part: rate for part, rate in rates.items() if part in parts and rate > 0}


def assemble(recipe: Recipe, cache: Path, progress: Progress) -> Training:
    """Check the data, load the model, fill the caches, build network and optimizer.

    Raises one EngineError with everything that is wrong, the cheap checks before the dear ones.
    """
    from engine.hardware import choose_device, read_hardware

    read = read_data(recipe, progress)
    every_epoch = read.order.steps_per_epoch(recipe.train.epochs)
    steps_per_epoch = cut_steps(every_epoch, recipe.train.max_steps)
    device = torch.device(choose_device(recipe.train.device, read_hardware()).torch_name)
    precision = PRECISIONS[recipe.train.precision or "no"]
    require_optimizer(recipe.optim.optimizer or "adamw", device)
    progress("loading the base model", 0, 0)
    model = _load_base(recipe, precision, device)
    wanted = trained_rates(recipe, model.components())
    network, parent_sha256 = _build_network(recipe, model, tuple(wanted))
    parts = {part: list(network.parameters(part)) for part in wanted}
    rates = {part: rate for part, rate in wanted.items() if parts[part]}
    if not rates:
        raise RecipeError(_nothing_trained(recipe))
    _freeze_others(network, rates)
    loaders = build_loaders(recipe, read, model, numbers_of(device), cache, progress)
    if cache_mode(recipe) != "off" and not model.inpaints:
        model.park("vae")  # until pictures are made
    captions = caption_rules(recipe.data)
    trains_text = not TEXT_PARTS.isdisjoint(rates)
    text = _text_source(recipe, model, captions, read.survey, trains_text, cache, progress)
    network.inject()
    model.set_checkpointing(bool(recipe.train.checkpointing), train_te=trains_text)
    total = sum(steps_per_epoch)
    moving = movers(recipe, network, rates, steps=total, device=device, precision=precision)
    return Training(
        model=model,
        network=network,
        survey=read.survey,
        items=read.items,
        order=read.order,
        loader=loaders.training,
        text=text,
        optimizer=moving.optimizer,
        weights=moving.weights,
        averages=moving.averages,
        scaler=moving.scaler,
        rates=rates,
        curve=moving.curve,
        te_stop_step=moving.te_stop_step,
        objective=recipe.objective,
        device=device,
        precision=precision,
        seed=recipe.train.seed or 0,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        warmup_steps=moving.curve.warmup,
        parent_sha256=parent_sha256,
        notices=(*_notices(network, wanted, rates), *loaders.notices),
        validation=plan_validation(
            loaders.measuring,
            [placement.bucket for placement in read.placements],
            held_out=read.held_out,
            trained=read.trained,
            every_epochs=recipe.train.validate_every_epochs,
            every_steps=recipe.train.validate_every_steps,
            seed=recipe.train.seed or 0,
            rows=recipe.train.batch_size or 1,
        ),
        resolution=recipe.data.resolution or (512, 512),
        clip_skip=recipe.model.clip_skip or 1,
        max_grad_norm=recipe.optim.max_grad_norm,
        max_norm=recipe.network.max_norm,
        mask_mean=recipe.data.mask_mean,
        checkpointing=bool(recipe.train.checkpointing),
        alphas_cumprod=_noise_schedule(recipe, model).to(device, torch.float32),
    )


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
        attention=recipe.train.attention,
        dtype=precision,
        device=device,
    )


def _noise_schedule(recipe: Recipe, model: BaseModel) -> Tensor:
    """Alpha bar of each timestep in fp64: the SNR of every weight comes from the rescaled one too."""
    if recipe.objective.zero_terminal_snr:
        return rescale_zero_terminal_snr(model.alphas_cumprod)
    return model.alphas_cumprod


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
        return build(model.components(), choice, seed=seed, trained=trained), None
    path = weights.expanduser()
    problems = start_problems(recipe, model.family)
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
    network: Network, wanted: Mapping[str, float], rates: Mapping[str, float]
) -> tuple[str, ...]:
    missing = [part for part in wanted if part not in rates]
    return (
        *network.skipped,
        *(f"There is no layer to train in the part {part}." for part in missing),
    )


def _text_source(
    recipe: Recipe,
    model: BaseModel,
    captions: CaptionRules,
    found: Survey,
    trained: bool,
    cache: Path,
    progress: Progress,
) -> TextSource:
    """Captions through the live encoder where it is trained or they have many forms, else kept."""
    from engine.models.family import Conditioning

    clip_skip = recipe.model.clip_skip or 1
    longest, weighted = recipe.model.max_tokens, recipe.model.weighted_prompts

    def encode(texts: Sequence[str]) -> Conditioning:
        return model.encode_text(texts, clip_skip, max_tokens=longest, weighted=weighted)

    if trained or recipe.data.cache_text is False:
        return LiveText(encode)
    every = all_captions(found.items, captions)
    if every is None:  # Too many forms to keep: the cache would grow with every step.
        return LiveText(encode)
    kept = TextCache(
        encode,
        te_hash=model.te_hash,
        clip_skip=clip_skip,
        length=longest,
        weighted=weighted,
        precision=f"{model.dtype} {numbers_of(model.device)}",
        join=Conditioning.cat,
        place=lambda part: part.to(model.device),
        rest=lambda part: part.cpu(),
        store=Store(cache / "text", limit_bytes=int(recipe.data.cache_gigabytes * 1e9)),
        pack=lambda part: part.tensors(),
        unpack=lambda tensors: Conditioning.from_tensors(dict(tensors)),
    )
    kept.fill(every, lambda done, total: progress("caching text", done, total))
    model.park("te")  # until pictures are made
    return kept
