"""From a filled recipe to everything the loop needs. Below this file nobody sees a settings object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn

from engine.assemble_data import build_loaders, cache_mode, numbers_of, read_data, text_source
from engine.assemble_network import TEXT_PARTS, trained_network
from engine.assemble_optim import movers
from engine.data.text import TextCache
from engine.errors import Problem, RecipeError
from engine.guard import Guard
from engine.models.load import load_model
from engine.objective.schedule import rescale_zero_terminal_snr
from engine.optim.named import parts_of
from engine.optim.probe import require_optimizer
from engine.planning.rules import cut_steps
from engine.validation import plan_validation

if TYPE_CHECKING:
    from engine.assemble_data import Loaders, ReadData
    from engine.assemble_optim import Movers
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
    make_movers: Callable[[], Movers]
    """Makes optimizer, flat buffers and averages anew, over what is trained of the network."""
    spike_limit: float
    """How many times the usual loss three steps running may have; 0 is no limit."""
    rollbacks: int
    """How often the run is rolled back before it gives up."""
    resting: tuple[str, ...] = ()
    """Parts of the base that only pictures need: on the host between them."""
    parent_sha256: str | None = None
    notices: tuple[str, ...] = ()
    validation: Validation | None = None
    """What is measured beside training; None where no picture is held out."""
    guard: Guard = field(default_factory=Guard)
    """What was learnt of numbers and memory going wrong."""

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

    def begin_anew(self) -> None:
        """Make all that moves the weights anew, for a state to be put into.

        Text encoders that had left are back, and nothing of the optimizer's past is in the way.
        """
        back = frozenset(self.rates) - parts_of({"param_groups": self.optimizer.param_groups})
        for member in self.network.members:
            if member.component in back:
                member.adapter.requires_grad_(True)
        # Before the new ones are made, which need as much memory.
        self.optimizer.state.clear()
        made = self.make_movers()
        self.weights, self.optimizer = made.weights, made.optimizer
        self.averages, self.scaler = made.averages, made.scaler
        trains_te = not TEXT_PARTS.isdisjoint(self.rates)
        self.model.set_checkpointing(self.checkpointing, train_te=trains_te)

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


def assemble(
    recipe: Recipe, cache: Path, progress: Progress, folder: Path | None = None
) -> Training:
    """Check the data, load the model, fill the caches, build network and optimizer.

    `folder` is the run's: how pictures had to be encoded is noted there for its resume. Raises one
    EngineError with everything that is wrong, the cheap checks before the dear ones.
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
    trained = trained_network(recipe, model)
    network, rates, trains_text = trained.network, trained.rates, trained.trains_text
    loaders = build_loaders(recipe, read, model, numbers_of(device), cache, progress, folder)
    text = text_source(recipe, model, read.survey, cache, progress, live=trains_text)
    resting = _resting(recipe, model, text)
    model.park(*resting)
    network.inject()
    model.set_checkpointing(bool(recipe.train.checkpointing), train_te=trains_text)
    total = sum(steps_per_epoch)
    make_movers = partial(
        movers, recipe, network, rates, steps=total, device=device, precision=precision
    )
    moving = make_movers()
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
        parent_sha256=trained.parent_sha256,
        notices=(*trained.notices, *loaders.notices, *text.notices),
        validation=_validation(recipe, read, loaders),
        resolution=recipe.data.resolution or (512, 512),
        clip_skip=recipe.model.clip_skip or 1,
        max_grad_norm=recipe.optim.max_grad_norm,
        max_norm=recipe.network.max_norm,
        mask_mean=recipe.data.mask_mean,
        checkpointing=bool(recipe.train.checkpointing),
        resting=resting,
        alphas_cumprod=_noise_schedule(recipe, model).to(device, torch.float32),
        make_movers=make_movers,
        spike_limit=recipe.train.spike_limit,
        rollbacks=recipe.train.rollbacks,
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


def _resting(recipe: Recipe, model: BaseModel, text: TextSource) -> tuple[str, ...]:
    """Parts of the base that only pictures need, since what they give training is cached."""
    encodes = cache_mode(recipe) == "off" or model.inpaints
    return (*(() if encodes else ("vae",)), *(("te",) if isinstance(text, TextCache) else ()))


def _validation(recipe: Recipe, read: ReadData, loaders: Loaders) -> Validation | None:
    train = recipe.train
    return plan_validation(
        loaders.measuring,
        [placement.bucket for placement in read.placements],
        held_out=read.held_out,
        trained=read.trained,
        every_epochs=train.validate_every_epochs,
        every_steps=train.validate_every_steps,
        seed=train.seed or 0,
        rows=train.batch_size or 1,
    )


def _noise_schedule(recipe: Recipe, model: BaseModel) -> Tensor:
    """Alpha bar of each timestep in fp64: the SNR of every weight comes from the rescaled one too."""
    if recipe.objective.zero_terminal_snr:
        return rescale_zero_terminal_snr(model.alphas_cumprod)
    return model.alphas_cumprod
