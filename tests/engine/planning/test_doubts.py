"""Combinations that are seldom meant are told with the reason, and others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.data.images import ImageFact
from engine.data.survey import Item, Survey
from engine.hardware import GIB, Gpu, Hardware
from engine.models.architecture import full_size
from engine.models.detect import ModelFacts
from engine.plan import Facts, Origin, fill
from engine.planning.doubts import doubts, prediction_problems
from engine.settings.check import parse


def base(family: str = "sd1", prediction: str = "epsilon", **more: Any) -> ModelFacts:
    known: dict[str, Any] = {
        "family": family, "prediction": prediction, "architecture": full_size(family),
        "unet_parameters": 859_520_964, "te_parameters": 123_060_480,
    }  # fmt: skip
    return ModelFacts(Path("base.safetensors"), "single", 1, **(known | more))


def card(free: float) -> Hardware:
    gpu = Gpu(0, "GPU-0", "Card", int(free * GIB), int(free * GIB), capability=(8, 6), cuda_index=0)
    return Hardware(gpus=(gpu,), cores=8, ram_total=64 * GIB, ram_free=60 * GIB)


def survey(pictures: int) -> Survey:
    image = ImageFact(Path("p.png"), 512, 512, 1000)
    items = tuple(
        Item(index, image, "vexilo", False, "vexilo", "vexilo", 1, False, False)
        for index in range(pictures)
    )
    return Survey("leaf", (), items, (), (), True)


def said(
    values: dict[str, Any],
    *,
    model: ModelFacts | None = None,
    free: float = 24,
    pictures: int = 0,
    steps: int = 0,
    preset: str = "",
) -> str:
    """What is doubted of a recipe, in one text."""
    facts = Facts(
        card(free), model=model, survey=survey(pictures) if pictures else None, drawn_seed=1
    )
    paths = [f"{name}.{key}" for name, section in values.items() for key in section]
    origin = Origin("preset", preset) if preset else Origin("you")
    filled = fill(parse(values), facts, dict.fromkeys(paths, origin))
    return "\n".join(doubts(filled, facts, paths, steps=steps))


def of(section: str, **values: Any) -> dict[str, Any]:
    return {section: values}


NOISE = [
    (
        of("objective", debiased=True),
        of("objective", debiased=True, min_snr_gamma=0.0),
        "their weights multiply",
    ),
    (
        of("objective", p2_gamma=1.0),
        of("objective", p2_gamma=1.0, min_snr_gamma=0.0),
        "p2_gamma 1 weigh the same",
    ),
    (
        of("objective", noise_offset=0.05, multires_iterations=6),
        of("objective", multires_iterations=6),
        "shift brightness twice",
    ),
    (
        of("objective", noise_offset=0.5),
        of("objective", noise_offset=0.1),
        "noise_offset 0.5 is large",
    ),
    (
        of("objective", adaptive_noise_scale=0.01),
        of("objective", adaptive_noise_scale=0.01, noise_offset=0.1),
        "all the offset there is",
    ),
    (
        of("objective", adaptive_noise_scale=-0.01),
        of("objective", adaptive_noise_scale=-0.01, noise_offset=0.1),
        "adaptive_noise_scale -0.01 has no effect",
    ),
    (
        of("objective", multires_iterations=10) | of("data", resolution=[128, 128]),
        of("objective", multires_iterations=10) | of("data", resolution=[512, 512]),
        "latent of 16 cells",
    ),
    (
        of("objective", min_timestep=100, max_timestep=300),
        of("objective", min_timestep=100, max_timestep=900),
        "timesteps from 100 to 300",
    ),
    (
        of("objective", zero_terminal_snr=True) | of("model", prediction="epsilon"),
        of("objective", zero_terminal_snr=True) | of("model", prediction="v"),
        "nothing left to predict",
    ),
]
TEXT_AND_TRAINING = [
    (of("data", colour=True), of("data", colour=True, cache_latents="off"), "data.colour gives"),
    (of("data", random_crop=True), of("data", random_crop=False), "latent cache is switched off"),
    (
        of("model", max_tokens=150),
        of("model", max_tokens=75),
        "2 passes of the text encoder, in every step",
    ),
    (
        of("model", max_tokens=225) | of("optim", te_lr=0.0),
        of("model", max_tokens=75),
        "3 passes of the text encoder, once",
    ),
    (
        of("data", keep_separator="|||", keep_tokens=2, shuffle_tags=True),
        of("data", keep_separator="|||", shuffle_tags=True),
        "wins over data.keep_tokens 2",
    ),
    (
        of("data", cache_text=True, wildcards=True) | of("optim", te_lr=0.0),
        of("data", cache_text=True) | of("optim", te_lr=0.0),
        "data.wildcards gives captions many forms",
    ),
    (
        of("data", cache_text=True, shuffle_tags=True) | of("optim", te_lr=0.0),
        of("data", shuffle_tags=True) | of("optim", te_lr=0.0),
        "data.shuffle_tags gives captions many forms",
    ),
    (
        of("optim", te_stop_percent=50.0, te_lr=0.0),
        of("optim", te_stop_percent=50.0),
        "te_stop_percent 50 has no effect",
    ),
    (
        of("train", network_precision="fp16", precision="fp16"),
        of("train", network_precision="bf16"),
        "small gradients vanish",
    ),
    (
        of("optim", optimizer="adamw", weight_decay=0.1, arguments=["weight_decay=0.2"]),
        of("optim", optimizer="adamw", arguments=["weight_decay=0.2"]),
        "wins over optim.weight_decay",
    ),
    (of("optim", loraplus_ratio=64.0), of("optim", loraplus_ratio=16.0), "learn at 6.4e-3"),
    (
        of("train", ema_decay=0.99) | of("optim", optimizer="adamw-schedulefree"),
        of("train", ema_decay=0.99),
        "averages by itself",
    ),
    (
        of("data", flip=True, class_word="Woman"),
        of("data", flip=True, class_word="landscape"),
        "has a left and a right",
    ),
    (
        of("data", flip=False, folders=[{"name": "a", "flip": True, "text": "ohwx logo"}]),
        of("data", folders=[{"name": "a", "flip": False, "text": "ohwx logo"}]),
        '"logo" has a left',
    ),
]


@pytest.mark.parametrize(("doubted", "fine", "words"), [*NOISE, *TEXT_AND_TRAINING])
def test_a_doubtful_combination_is_told_and_its_neighbour_is_not(doubted, fine, words):
    assert words in said(doubted)
    assert words not in said(fine)


def test_a_mirrored_character_or_person_is_doubted_by_its_preset_too():
    assert "data.flip" in said(of("data", flip=True), preset="character")
    assert "data.flip" not in said(of("data", flip=True), preset="style")


def test_text_encoders_of_sdxl_on_a_small_card():
    trained = of("optim", te_lr=5e-5)
    assert "Set optim.te_lr to 0" in said(trained, model=base("sdxl"), free=11)
    assert "text encoders of SDXL" not in said(trained, model=base("sdxl"), free=23)
    assert "text encoders of SDXL" not in said(trained, model=base("sd1"), free=7)
    assert "text encoders of SDXL" not in said(of("optim", te_lr=0.0), model=base("sdxl"), free=11)


@pytest.mark.parametrize(
    ("family", "skip", "words"),
    [("sdxl", 2, "has no effect"), ("sd2", 2, "1 is meant"), ("sd1", 2, ""), ("sd2", 1, "")],
)
def test_clip_skip_where_it_does_nothing_or_harm(family, skip, words):
    text = said(of("model", clip_skip=skip), model=base(family))
    assert ("model.clip_skip" in text) == bool(words)
    assert words in text


def test_a_second_encoders_rate_on_a_base_with_one():
    rates = of("optim", te2_lr=1e-5)
    assert "this base has one text encoder" in said(rates, model=base("sd1"))
    assert "one text encoder" not in said(rates, model=base("sdxl"))


def test_zero_terminal_snr_that_the_base_asks_for():
    wanting = base("sdxl", "v", zero_terminal_snr=True)
    off = of("objective", zero_terminal_snr=False)
    assert "trained with zero terminal SNR" in said(off, model=wanting)
    assert "trained with" not in said(off, model=base("sdxl", "v"))
    assert "trained with" not in said(of("objective", zero_terminal_snr=True), model=wanting)


def test_an_average_longer_than_the_run():
    values = of("train", ema_decay=0.999)
    text = said(values, steps=300)
    assert "at step 8990, after this run of 300" in text and "about 34 steps" in text
    assert "train.ema_decay" not in said(values, steps=9000)


def test_pictures_are_too_few_to_hold_some_out():
    values = of("data", validation=0.1)
    assert "only 12" in said(values, pictures=12)
    assert "data.validation" not in said(values, pictures=60)


def test_pictures_are_held_out_and_never_measured():
    never = of("data", validation=0.1) | of("train", validate_every_epochs=0)
    assert "nothing ever measures" in said(never, pictures=60)
    never["train"]["validate_every_steps"] = 50
    assert "nothing ever measures" not in said(never, pictures=60)
    none = of("data", validation=0.0) | of("train", validate_every_epochs=0)
    assert "nothing ever measures" not in said(none, pictures=60)


def test_a_batch_larger_than_the_set():
    assert "more than there are pictures, 4" in said(of("train", batch_size=6), pictures=4)
    assert "train.batch_size" not in said(of("train", batch_size=4), pictures=4)


def test_regularisation_that_teaches_nothing():
    reg = {"reg_folder": "/reg"}
    weightless = {"data": reg, "objective": {"prior_loss_weight": 0.0}}
    assert "teach nothing" in said(weightless, pictures=20)
    assert "no regularisation picture is used" in said(
        {"data": {**reg, "reg_ratio": 0.0}}, pictures=20
    )
    assert "egularisation" not in said({"data": reg}, pictures=20)


def test_loss_weights_of_the_other_prediction_type_are_refused_once_the_base_is_known():
    facts = {kind: Facts(card(24), model=base(prediction=kind)) for kind in ("epsilon", "v")}
    scaled = parse(of("objective", scale_v_loss=True))
    assert prediction_problems(scaled, facts["epsilon"])[0].path == "objective.scale_v_loss"
    assert prediction_problems(scaled, facts["v"]) == ()
    like = parse(of("objective", v_like_loss=0.5))
    assert prediction_problems(like, facts["v"])[0].path == "objective.v_like_loss"
    assert prediction_problems(like, facts["epsilon"]) == ()
