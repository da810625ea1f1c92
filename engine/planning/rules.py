"""From a recipe to the plain values that data and networks take. Plan and trainer use the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from engine.data.buckets import BucketRules
from engine.data.captions import CaptionRules
from engine.data.folders import FolderOverride
from engine.data.names import class_text
from engine.data.order import Order
from engine.data.placing import Place
from engine.data.survey import SurveyRules
from engine.data.validation import Split, held_out
from engine.errors import Problem, RecipeError
from engine.networks.choice import Choice, Dropouts
from engine.networks.overrides import Override
from engine.networks.presets import preset_of
from engine.settings import Recipe
from engine.settings.data import Data
from engine.settings.network import Lokr, NetworkSection, asked
from engine.settings.network import Override as OverrideSetting
from engine.settings.optim import Optim
from engine.settings.train import Train


def survey_rules(data: Data) -> SurveyRules:
    """What is to be read."""
    if data.folder is None:
        raise RecipeError(
            Problem("No pictures are given.", remedy="Give a folder.", path="data.folder")
        )
    return SurveyRules(
        folder=data.folder.expanduser(),
        reg_folder=data.reg_folder.expanduser() if data.reg_folder is not None else None,
        layout=data.layout,
        overrides={
            folder.name: FolderOverride(folder.repeats, folder.text, folder.flip)
            for folder in data.folders
        },
        repeats=data.repeats,
        text=class_text(data.trigger, data.class_word),
        reg_text=class_text("", data.class_word),
        trigger=data.trigger,
        captions=data.captions,
        caption_extension=data.caption_extension,
        keep_empty_captions=data.keep_empty_captions,
        prefix=data.prefix,
        flip=data.flip,
        max_megapixels=data.max_megapixels,
        wildcards=data.wildcards,
        masks=data.masked_loss,
        mask_folder=data.mask_folder.expanduser() if data.mask_folder is not None else None,
    )


def bucket_rules(data: Data) -> BucketRules:
    """How sizes are chosen; the resolution must be filled."""
    width, height = data.resolution or (512, 512)
    return BucketRules(
        width=width,
        height=height,
        smallest=data.bucket_min,
        largest=data.bucket_max or max(1024, width, height),
        step=data.bucket_step,
        no_upscale=data.no_upscale,
        enabled=data.buckets,
    )


def resolutions(data: Data) -> tuple[BucketRules, ...]:
    """How sizes are chosen at each resolution: the usual one, and squares beside it."""
    usual = bucket_rules(data)
    return usual, *(replace(usual, width=side, height=side) for side in data.more_resolutions)


def cache_notices(data: Data) -> tuple[str, ...]:
    """What switches the latent cache off, and why."""
    if data.cache_latents == "off":
        return ()
    found = []
    if data.random_crop:
        found.append("data.random_crop switches the latent cache off: each crop is encoded anew.")
    if data.colour:
        found.append("data.colour switches the latent cache off: shifted colours are encoded anew.")
    return tuple(found)


def caption_rules(data: Data) -> CaptionRules:
    """What happens to a caption at each draw."""
    return CaptionRules(
        separator=data.separator,
        shuffle=data.shuffle_tags,
        keep=data.keep_tokens or 0,
        dropout=data.caption_dropout,
        dropout_every=data.caption_dropout_every,
        tag_dropout=data.tag_dropout,
        prefix=data.prefix,
        suffix=data.suffix,
        keep_separator=data.keep_separator,
        secondary_separator=data.secondary_separator,
        wildcards=data.wildcards,
    )


def network_choice(network: NetworkSection) -> Choice:
    """What network is wanted; rank and alpha must be filled."""
    given = {
        field.name: getattr(network, field.name)
        for field in fields(Choice)
        if field.name in type(network).model_fields and field.name not in ("overrides", "targets")
    }
    # What has no rank at all trains whole layers; what has no alpha is not scaled.
    rank = given.pop("rank", "full")
    alpha = given.pop("alpha", 0.0)
    choice = Choice(
        rank=32 if rank is None else rank,
        alpha=0.0 if alpha is None else alpha,
        targets=layer_choice(network),
        dropouts=Dropouts(
            asked(network, "dropout", 0.0), asked(network, "rank_dropout", 0.0),
            network.module_dropout,
        ),
        **given,
    )  # fmt: skip
    overrides = tuple(_override(entry, choice) for entry in network.overrides)
    return replace(choice, overrides=overrides)


def layer_choice(network: NetworkSection) -> str:
    """Name of the choice of layers, or the file that holds it."""
    if network.targets_file is not None:
        return str(network.targets_file.expanduser())
    return network.targets


def _override(entry: OverrideSetting, choice: Choice) -> Override:
    """One entry of the recipe; a layer that becomes a LoKr has the factor a LoKr usually has."""
    options = entry.options()
    if entry.algorithm == "lokr" and choice.algorithm != "lokr":
        options = {"factor": Lokr().factor} | options
    return Override(
        pattern=entry.pattern,
        exclude=entry.exclude,
        algorithm=entry.algorithm,
        rank=entry.rank,
        alpha=entry.alpha,
        conv_rank=entry.conv_rank,
        conv_alpha=entry.conv_alpha,
        options=options,
    )


def trained_components(recipe: Recipe) -> tuple[str, ...]:
    """Parts of the base that a filled recipe trains: those with layers and a rate above 0."""
    preset = preset_of(layer_choice(recipe.network))
    chosen = {"unet": bool(preset.unet), "te": bool(preset.text), "te2": bool(preset.text)}
    return tuple(
        part for part, rate in part_rates(recipe.optim).items() if rate > 0 and chosen[part]
    )


def trains_text(recipe: Recipe) -> bool:
    """Whether a filled recipe trains a text encoder."""
    return not {"te", "te2"}.isdisjoint(trained_components(recipe))


def part_rates(optim: Optim) -> dict[str, float]:
    """Learning rate of every part that some base has: its own wins over the common one.

    A second text encoder goes with the first, unless it has a rate of its own.
    """
    common = 0.0 if optim.lr is None else optim.lr
    text = common if optim.te_lr is None else optim.te_lr
    return {
        "unet": common if optim.unet_lr is None else optim.unet_lr,
        "te": text,
        "te2": text if optim.te2_lr is None else optim.te2_lr,
    }


def split_of(places: Sequence[Place], data: Data) -> Split:
    """Which of the placed pictures are held out, and which are trained."""
    items = {each.item.index: each.item for each in places}
    return held_out(tuple(items.values()), data.validation, data.validation_seed)


def order_of(places: Sequence[Place], data: Data, train: Train) -> Order:
    """The order of all samples; batch size and seed must be filled.

    Samples are numbered as those places are that have a placement. Held-out pictures never come.
    """
    apart = split_of(places, data).held_out
    placed = [(each, each.placement) for each in places if each.placement is not None]
    return Order(
        [placement for _, placement in placed],
        [0 if each.item.index in apart else each.item.repeats for each, _ in placed],
        [each.item.is_reg for each, _ in placed],
        batch_size=train.batch_size or 1,
        accumulation=train.accumulation,
        seed=train.seed or 0,
        reg_ratio=data.reg_ratio,
        pictures=[each.item.index for each, _ in placed],
        resolutions=[each.resolution for each, _ in placed],
    )


def total_steps(steps_per_epoch: Sequence[int], max_steps: int | None) -> int:
    """Steps of the whole run; `max_steps` only ever cuts it."""
    every = sum(steps_per_epoch)
    return every if max_steps is None else min(every, max_steps)


def cut_steps(steps_per_epoch: Sequence[int], max_steps: int | None) -> tuple[int, ...]:
    """Steps of each epoch that is trained, after the cut."""
    left = total_steps(steps_per_epoch, max_steps)
    kept: list[int] = []
    for steps in steps_per_epoch:
        if left <= 0:
            break
        kept.append(min(steps, left))
        left -= steps
    return tuple(kept)
