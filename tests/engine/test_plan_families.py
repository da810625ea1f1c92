"""What a plan says of Stable Diffusion 2 and XL: names and sizes of files, answers, memory. No torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.data.buckets import bucket_list
from engine.errors import ModelError, RecipeError
from engine.hardware import GIB, Gpu, Hardware
from engine.models.architecture import full_size
from engine.models.detect import ModelFacts
from engine.models.shapes import layer_shapes
from engine.networks.choice import Choice
from engine.networks.shapes import planned_layers, planned_tensors
from engine.plan import Facts, Plan, fill, plan
from engine.planning.base import base_size
from engine.planning.rules import bucket_rules
from engine.planning.sizes import latent_bytes
from engine.planning.text_cache import text_cache_bytes
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.network import asked
from lyctui.readers import loading_words

ASSUMED = "assumed epsilon; some relatives of SDXL predict v, and this file does not tell"
FAMILIES = ("sd1", "sd2", "sdxl")


def model_of(family: str, **changes: Any) -> ModelFacts:
    """Facts of a full-size base."""
    known: dict[str, Any] = {
        "path": Path(f"{family}.safetensors"),
        "layout": "single",
        "bytes": 6_900_000_000,
        "family": family,
        "prediction": "epsilon",
        "prediction_source": ASSUMED,
        "architecture": full_size(family),
    }
    return ModelFacts(**(known | changes))


def facts(family: str, free: float | None = None, **changes: Any) -> Facts:
    gpus = ()
    if free is not None:
        gpus = (
            Gpu(
                index=0,
                uuid="GPU-0",
                name="Card",
                total=int((free + 0.5) * GIB),
                free=int(free * GIB),
                capability=(8, 6),
                cuda_index=0,
            ),
        )
    hardware = Hardware(gpus=gpus, cores=8, ram_total=64 * GIB, ram_free=48 * GIB)
    return Facts(hardware, model=model_of(family, **changes), drawn_seed=1)


def planned(family: str, free: float | None = None, **sections: Any) -> Plan:
    return plan(parse(sections), facts(family, free))


# Names, counts and sizes ------------------------------------------------------------------------

COUNTS = {
    "sd1": {"unet": 192, "te": 72},
    "sd2": {"unet": 192, "te": 138},
    "sdxl": {"unet": 722, "te": 72, "te2": 192},
}
FULL_COUNTS = {"sd1": 282, "sd2": 282, "sdxl": 792}
SIZES = {
    # Megabytes of an fp16 file by rank 4, 8, 16, 32, 64, 128: with text encoders, and without.
    ("sd1", 5e-5): (4.7, 9.4, 18.9, 37.7, 75.5, 151),
    ("sd1", 0.0): (3.4, 6.8, 13.6, 27.1, 54.3, 108.5),
    ("sdxl", 5e-5): (28.5, 57, 114, 228, 456, 912),
    ("sdxl", 0.0): (21.3, 42.6, 85.1, 170, 341, 681),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_of_the_published_models(family: str) -> None:
    layers = layer_shapes(full_size(family))
    for targets, unet in (("attn-mlp", COUNTS[family]["unet"]), ("full", FULL_COUNTS[family])):
        chosen = planned_layers(layers, Choice("lora", 4, 2.0, targets))
        counted = Counter(layer.component for layer, _ in chosen)
        assert counted == COUNTS[family] | {"unet": unet}


@pytest.mark.parametrize(("family", "te_lr"), SIZES)
def test_file_sizes_by_rank_are_the_documented_ones(family: str, te_lr: float) -> None:
    for rank, megabytes in zip((4, 8, 16, 32, 64, 128), SIZES[family, te_lr], strict=True):
        made = planned(family, network={"rank": rank}, optim={"te_lr": te_lr})
        # Header and metadata come on top of the tensors.
        header = 150 * made.sizes.network.modules * 3 + 10_000
        assert made.sizes.file_bytes is not None
        assert 0.995 * megabytes < made.sizes.file_bytes / 1e6 < 1.005 * megabytes + header / 1e6


@pytest.mark.parametrize("family", FAMILIES)
def test_planned_names_are_those_of_the_family(family: str) -> None:
    layers = layer_shapes(full_size(family))
    names = planned_tensors(layers, Choice("lora", 4, 2.0, "full"))
    starts = {
        "sd1": {"lora_unet_down_blocks", "lora_te_text"},
        "sd2": {"lora_unet_down_blocks", "lora_te_text"},
        "sdxl": {"lora_unet_input_blocks", "lora_te1_text", "lora_te2_text"},
    }
    assert all(any(name.startswith(start) for name in names) for start in starts[family])
    proj = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"
    if family != "sdxl":  # linear in 2, a convolution in 1
        assert len(names[proj]) == (2 if family == "sd2" else 4)
    only_text = planned_tensors(layers, Choice("lora", 4, 2.0), trained=("te",))
    prefix = "lora_te1_" if family == "sdxl" else "lora_te_"
    assert only_text and all(name.startswith(prefix) for name in only_text)


# Answers ----------------------------------------------------------------------------------------


def test_sdxl_leaves_its_text_encoders_as_they_are_unless_a_rate_is_given() -> None:
    filled = fill(Recipe(), facts("sdxl"))
    optim = filled.recipe.optim
    assert (optim.lr, optim.unet_lr, optim.te_lr, optim.te2_lr) == (1e-4, 1e-4, 0.0, 0.0)
    assert "SDXL" in filled.origins["optim.te_lr"].reason
    assert filled.recipe.data.cache_text is True

    both = planned("sdxl", optim={"te_lr": 5e-5})
    assert both.recipe.optim.te2_lr == 5e-5
    assert both.recipe.data.cache_text is False
    second = planned("sdxl", optim={"te2_lr": 2e-5})
    assert (second.recipe.optim.te_lr, second.recipe.data.cache_text) == (0.0, False)
    counts = [made.sizes.network.modules for made in (planned("sdxl"), both, second)]
    assert counts == [722, 986, 914]
    prodigy = fill(parse({"optim": {"optimizer": "prodigy"}}), facts("sdxl")).recipe.optim
    assert (prodigy.lr, prodigy.te_lr, prodigy.te2_lr) == (1.0, 0.0, 0.0)
    alone = fill(parse({"network": {"targets": "te-only"}}), facts("sdxl")).recipe.optim
    assert (alone.unet_lr, alone.te_lr, alone.te2_lr) == (0.0, 5e-5, 5e-5)
    assert fill(Recipe(), facts("sd2")).recipe.optim.te_lr == 5e-5


@pytest.mark.parametrize(
    ("family", "side", "most"), [("sd1", 512, 1024), ("sd2", 768, 1024), ("sdxl", 1024, 2048)]
)
def test_resolution_and_buckets_are_what_the_base_was_made_for(
    family: str, side: int, most: int
) -> None:
    recipe = fill(Recipe(), facts(family)).recipe
    assert recipe.data.resolution == (side, side)
    assert recipe.data.bucket_max == most
    assert (recipe.sample.width, recipe.sample.height) == (side, side)


def test_the_longest_bucket_side_is_the_familys_unless_the_resolution_is_longer() -> None:
    """The pinned list of 768 px on Stable Diffusion 1 has 19 buckets."""
    recipe = planned("sd1", data={"resolution": [768, 768]}).recipe
    assert recipe.data.bucket_max == 1024
    assert len(bucket_list(bucket_rules(recipe.data))) == 19
    for data, most in (
        ({"resolution": [1100, 500]}, 1152),
        ({"more_resolutions": [1280]}, 1280),
        ({"resolution": [1100, 500], "bucket_max": 2048}, 2048),
    ):
        filled = fill(parse({"data": data}), facts("sd1"))
        assert filled.recipe.data.bucket_max == most
    small = fill(parse({"data": {"resolution": [512, 512]}}), facts("sdxl"))
    assert small.recipe.data.bucket_max == 2048


@pytest.mark.parametrize(
    ("family", "sections", "told"),
    [
        ("sd1", {"model": {"clip_skip": 2}}, "6 of 72 "),
        ("sd1", {"model": {"clip_skip": 4}, "network": {"targets": "full"}}, "18 of 72 "),
        ("sd2", {"model": {"clip_skip": 3}}, "12 of 138 "),
        ("sdxl", {"optim": {"te_lr": 5e-5}}, "6 of 264 "),
        ("sd1", {"model": {"clip_skip": 1}}, ""),
        ("sdxl", {"model": {"clip_skip": 2}}, ""),
        ("sd1", {"model": {"clip_skip": 2}, "optim": {"te_lr": 0.0}}, ""),
    ],
)
def test_text_encoder_modules_behind_the_layer_that_is_read_are_counted(
    family: str, sections: dict[str, Any], told: str
) -> None:
    words = [each for each in planned(family, **sections).notices if "learn nothing" in each]
    assert len(words) == (1 if told else 0)
    assert all(each.startswith(told) for each in words)


def test_a_dylora_is_large_and_made_of_whole_blocks() -> None:
    made = planned("sd1", network={"algorithm": "dylora"}).recipe.network
    assert (asked(made, "rank"), asked(made, "alpha")) == (128, 64.0)
    with pytest.raises(RecipeError, match="128 is no multiple of 48"):
        parse({"network": {"algorithm": "dylora", "block_size": 48}})
    blocks = parse({"network": {"algorithm": "dylora", "block_size": 32}})
    assert asked(fill(blocks, facts("sdxl")).recipe.network, "rank") == 128
    # A small card allows 16: in whole blocks none but the first fits.
    assert asked(fill(blocks, facts("sdxl", 7.0)).recipe.network, "rank") == 32


@pytest.mark.parametrize("style", ["natural", "danbooru"])
def test_clip_skip_follows_the_family(style: str) -> None:
    recipe = parse({"model": {"prompt_style": style}})
    skips = [fill(recipe, facts(family)).recipe.model.clip_skip for family in FAMILIES]
    assert skips == [1 if style == "natural" else 2, 1, 1]
    made = planned("sdxl", model={"clip_skip": 2})
    assert any("clip_skip 2 has no effect" in notice for notice in made.notices)


def test_family_and_prediction_are_told_with_their_reason() -> None:
    filled = fill(Recipe(), facts("sdxl"))
    assert filled.recipe.model.family == "sdxl"
    origin = filled.origins["model.family"]
    assert (origin.source, "names of its tensors" in origin.reason) == ("detected", True)
    # What the file does not tell is nobody's answer, and stays to be asked.
    assert filled.recipe.model.prediction == "auto"
    assert ASSUMED in filled.origins["model.prediction"].reason

    marked = {"prediction": "v", "prediction_source": 'the marker tensor "v_pred" in the file'}
    told = fill(Recipe(), facts("sdxl", **marked, zero_terminal_snr=True))
    assert told.recipe.model.prediction == "v"
    assert told.recipe.objective.zero_terminal_snr is True
    off = parse({"objective": {"zero_terminal_snr": False}})
    kept = fill(off, facts("sdxl", zero_terminal_snr=True)).recipe
    assert kept.objective.zero_terminal_snr is False


@pytest.mark.parametrize(
    ("setting", "value", "words"), [("family", "sd1", "not Stable"), ("prediction", "epsilon", "v")]
)
def test_contradictions_are_refused_beside_their_setting(
    setting: str, value: str, words: str
) -> None:
    marked = {"prediction": "v", "prediction_source": 'the marker tensor "v_pred" in the file'}
    made = plan(parse({"model": {setting: value}}), facts("sdxl", **marked))

    assert [problem.path for problem in made.model_problems] == [f"model.{setting}"]
    with pytest.raises(ModelError, match=words):
        made.raise_errors()


def test_cached_captions_and_a_trained_text_encoder_exclude_each_other() -> None:
    data = {"cache_text": True}
    with pytest.raises(RecipeError, match="cached while the text encoder"):
        planned("sd1", data=data).raise_errors()
    planned("sdxl", data=data).raise_errors()


def test_a1111_drops_the_attention_of_the_fused_encoder_where_parts_are_missing() -> None:
    network = {"algorithm": "ia3", "targets": "ia3"}
    trained = planned("sdxl", network=network, optim={"te_lr": 1e-3}).sizes.network.readers
    untrained = planned("sdxl", network=network).sizes.network.readers

    assert "drops the attention of 32 text encoder layers" in trained["a1111"].reason
    assert "drops" not in untrained["a1111"].reason
    words = loading_words(planned("sdxl").sizes.network.readers)
    assert words.startswith("ComfyUI, A1111, Forge, diffusers, LyCORIS and kohya's lora.py")


# Memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "side", "batch", "checkpointing", "rank"),
    [
        (5.3, 768, 1, True, 8),
        (7.4, 1024, 1, True, 16),
        (9.4, 1024, 1, True, 32),
        (11.2, 1024, 2, True, 32),
        (15.4, 1024, 4, True, 32),
        (23.5, 1024, 6, True, 32),
    ],
)
def test_each_class_of_card_has_a_row_for_sdxl(
    free: float, side: int, batch: int, checkpointing: bool, rank: int
) -> None:
    filled = fill(Recipe(), facts("sdxl", free))
    recipe = filled.recipe
    assert recipe.data.resolution == (side, side)
    assert (recipe.train.batch_size, recipe.train.checkpointing) == (batch, checkpointing)
    assert recipe.network.rank == rank  # type: ignore[union-attr]
    assert recipe.train.precision == "bf16"
    assert ("less than it needs" in filled.origins["train.batch_size"].reason) == (free < 7)
    one = fill(parse({"train": {"batch_size": 1}}), facts("sdxl", free)).recipe
    assert one.train.checkpointing is (free < 20)


def test_what_is_proposed_fits_into_the_memory_that_is_free() -> None:
    for family, frees in (("sdxl", (7.4, 9.4, 11.2, 15.4, 23.5)), ("sd2", (7.6, 11.2, 15.4))):
        for free in frees:
            assert planned(family, free).memory.total < free * GIB, (family, free)


def bytes_of(family: str, **sections: Any) -> int:
    train = {"batch_size": 1, "checkpointing": False, "precision": "bf16"}
    train |= sections.pop("train", {})
    optim = {"optimizer": "adamw8bit"} | sections.pop("optim", {})
    return planned(family, 70.0, train=train, optim=optim, **sections).memory.total


def test_sdxl_takes_what_was_measured_and_reported_elsewhere() -> None:
    """At 1024 px, batch 1, captions cached: 18.7 GB, and about 8 GB with checkpointing."""
    assert bytes_of("sdxl") == pytest.approx(18.7e9, rel=0.05)
    assert bytes_of("sdxl", train={"checkpointing": True}) == pytest.approx(8e9, rel=0.05)
    # Cards of 8 GB just hold it, at ranks of 4 to 8.
    small = bytes_of("sdxl", train={"checkpointing": True}, network={"rank": 8})
    assert 6.5e9 < small < 7.9e9


@pytest.mark.parametrize(
    ("sections", "more"),
    [
        ({"optim": {"te_lr": 5e-5}}, 1.5e9),
        ({"data": {"cache_text": False}}, 1.5e9),
        ({"data": {"cache_latents": "off"}}, 0.3e9),
        ({"train": {"ema_decay": 0.99}}, 0.3e9),
        ({"train": {"network_precision": "bf16"}}, -0.3e9),
        ({"data": {"more_resolutions": [1536]}}, 10e9),
        ({"model": {"max_tokens": 225}}, 1e6),
    ],
    ids=str,
)
def test_what_costs_memory_is_counted(sections: dict[str, Any], more: float) -> None:
    extra = bytes_of("sdxl", **sections) - bytes_of("sdxl")
    assert extra > more if more > 0 else extra < more


def test_pictures_that_take_more_than_training_are_told() -> None:
    sample = {"prompts": ["a dog"]}
    tight = planned("sdxl", 7.4, sample=sample)
    assert any("While preview pictures are made" in notice for notice in tight.notices)
    assert not any("While preview" in notice for notice in planned("sdxl", 7.4).notices)
    roomy = planned("sdxl", 23.5, sample=sample)
    assert not any("While preview" in notice for notice in roomy.notices)


def test_caches_in_bytes() -> None:
    items = [SimpleNamespace(caption_raw=text) for text in ("a dog", "a cat", "a dog")]
    survey = SimpleNamespace(items=items)
    recipe = fill(parse({"train": {"precision": "bf16"}}), facts("sdxl")).recipe
    known = SimpleNamespace(survey=survey)
    base = base_size(model_of("sdxl"))
    # Two captions and the empty one: 77 states of 2048 numbers and a pooled vector of 1280 each.
    assert text_cache_bytes(recipe, known, base) == 3 * (77 * 2048 + 1280) * 2  # type: ignore[arg-type]
    longer = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"max_tokens": 150})}
    )
    assert text_cache_bytes(longer, known, base) == 3 * (152 * 2048 + 1280) * 2  # type: ignore[arg-type]
    place = SimpleNamespace(bucket=(1024, 1024))
    assert latent_bytes(recipe, (place,)) == 128 * 128 * 4 * 4 * 2  # type: ignore[arg-type]
