"""What fill proposes for each machine and why, and that the plan's numbers are the true ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from engine.data.buckets import rule_problems
from engine.errors import DataError, EngineError, ModelError, RecipeError
from engine.hardware import GIB, NO_GPU, Gpu, Hardware
from engine.models.architecture import full_size
from engine.models.detect import ModelFacts
from engine.models.shapes import layer_shapes
from engine.networks.override_checks import APPLIES
from engine.networks.overrides import resolve
from engine.plan import Facts, Origin, arithmetic_line, fill, gather, plan
from engine.planning.memory import MemoryQuestion, estimate_memory
from engine.planning.rules import bucket_rules, network_choice, order_of, survey_rules
from engine.planning.sizes import network_files
from engine.settings import Recipe
from engine.settings.data import Data
from engine.settings.model import Model
from engine.settings.network import Dylora, Lokr, Lora, Override, TLora
from engine.settings.optim import Optim
from engine.settings.run import Run
from engine.settings.schedule import Schedule
from engine.settings.train import Train

SD15_PARAMETERS = {"unet_parameters": 859_520_964, "te_parameters": 123_060_480}


def card(free: float, *, index: int = 0, capability=(8, 6)) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name=f"Card {free:g}",
        total=int((free + 0.5) * GIB),
        free=int(free * GIB),
        capability=capability,
        cuda_index=index,
    )


def machine(*gpus: Gpu, cores: int = 8, ram_free: int = 24 * GIB) -> Hardware:
    return Hardware(gpus=gpus, cores=cores, ram_total=32 * GIB, ram_free=ram_free)


def facts(*gpus: Gpu, **known) -> Facts:
    return Facts(hardware=machine(*gpus), drawn_seed=11, **known)


@pytest.fixture
def pictures(tmp_path):
    """Two shapes: 5 square, 2 wide; 10 repeats."""
    folder = tmp_path / "10_vexilo emblem"
    folder.mkdir()
    for number in range(7):
        size = (512, 512) if number < 5 else (640, 480)
        Image.new("RGB", size, (number * 30, 90, 40)).save(folder / f"p{number}.png")
    return tmp_path


def recipe_for(folder: Path, runs: Path, **sections) -> Recipe:
    data = Data(folder=folder, trigger="vexilo", class_word="emblem")
    return Recipe(data=sections.pop("data", data), run=Run(folder=runs), **sections)


# Proposals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "batch", "checkpointing", "label"),
    [
        (5.2, 1, True, "6 GB"),
        (7.6, 2, True, "8 GB"),
        (11.2, 4, True, "10 to 12 GB"),
        (15.4, 8, True, "16 GB"),
        (23.5, 8, False, "24 GB and more"),
    ],
)
def test_each_class_of_card_gets_its_row_with_the_reason(free, batch, checkpointing, label):
    filled = fill(Recipe(), facts(card(free)))

    train = filled.recipe.train
    assert (train.batch_size, train.checkpointing) == (batch, checkpointing)
    origin = filled.origins["train.batch_size"]
    assert origin.source == "detected"
    assert f"{free:.1f} GiB free" in origin.reason and label in origin.reason
    assert f"{free:.1f} GiB free" in filled.origins["train.checkpointing"].reason


@pytest.mark.parametrize(("free", "batch"), [(5.2, 1), (7.6, 1), (11.2, 2), (15.4, 4), (23.5, 6)])
def test_768_px_has_a_column_of_its_own(free, batch):
    recipe = Recipe(data=Data(resolution=(768, 768)))

    assert fill(recipe, facts(card(free))).recipe.train.batch_size == batch


def test_above_768_px_the_batch_shrinks_with_the_pixels():
    recipe = Recipe(data=Data(resolution=(1024, 1024)))

    assert fill(recipe, facts(card(23.5))).recipe.train.batch_size == 3


def test_memory_that_others_hold_does_not_count():
    busy = replace(card(23.5), free=int(7.6 * GIB), used_by_others=int(15.9 * GIB))
    filled = fill(Recipe(), facts(busy))

    assert filled.recipe.train.batch_size == 2
    assert "15.9 of 24 used by others" in filled.origins["train.batch_size"].reason


def test_of_two_cards_the_free_one_is_planned_for():
    filled = fill(Recipe(), facts(card(2.0), card(11.2, index=1)))

    assert filled.device.gpu is not None and filled.device.gpu.index == 1
    assert "GPU 1" in filled.origins["train.batch_size"].reason


def test_without_a_card_the_cpu_trains_in_fp32_with_a_small_batch():
    filled = fill(Recipe(), facts())

    assert filled.recipe.train.precision == "no"
    assert filled.recipe.train.batch_size == 1
    assert filled.recipe.optim.optimizer == "adamw"
    assert NO_GPU in filled.origins["train.batch_size"].reason


def test_your_own_choices_bend_the_proposals():
    without = fill(Recipe(train=Train(checkpointing=False)), facts(card(11.2)))
    small = fill(Recipe(train=Train(batch_size=1)), facts(card(11.2)))
    large = fill(Recipe(train=Train(batch_size=12)), facts(card(23.5)))

    assert without.recipe.train.batch_size == 2
    assert small.recipe.train.checkpointing is False
    assert large.recipe.train.checkpointing is True
    assert without.origins["train.checkpointing"] == Origin("you")


@pytest.mark.parametrize(("capability", "precision"), [((8, 6), "bf16"), ((7, 5), "fp16")])
def test_precision_follows_the_card(capability, precision):
    filled = fill(Recipe(), facts(card(11.2, capability=capability)))

    assert filled.recipe.train.precision == precision


@pytest.mark.parametrize(
    ("works", "optimizer", "words"),
    [(True, "adamw8bit", "works"), (False, "adamw", "doctor"), (None, "adamw8bit", "at the start")],
)
def test_the_8_bit_optimizer_is_proposed_where_a_step_works(works, optimizer, words):
    filled = fill(Recipe(), facts(card(11.2), adamw8bit_works=works))

    assert filled.recipe.optim.optimizer == optimizer
    assert words in filled.origins["optim.optimizer"].reason


# Answers that depend on other answers -------------------------------------------------------


def test_a_full_recipe_is_left_alone_and_none_that_matters_stays_blank():
    once = fill(Recipe(), facts(card(11.2))).recipe
    again = fill(once, facts())

    assert again.recipe == once
    blank = [
        f"{section}.{key}"
        for section, values in once.model_dump().items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value is None
    ]
    assert set(blank) == {
        "model.path",
        "model.vae",
        "data.folder",
        "data.reg_folder",
        "network.weights",
        "schedule.warmup_steps",
        "train.max_steps",
        "save.keep_last",
        "save.copy_to",
        "network.targets_file",
        "optim.loraplus_ratio",
        "optim.te2_lr",  # there is one text encoder
        "data.mask_folder",
        "sample.prompts_file",
        "optim.eps",
    }


def test_fill_is_pure():
    known = facts(card(11.2))

    assert fill(Recipe(), known) == fill(Recipe(), known)


def test_prodigy_gets_rate_1_alpha_as_rank_one_rate_and_no_warmup():
    filled = fill(Recipe(optim=Optim(optimizer="prodigy")), facts()).recipe

    assert (filled.optim.lr, filled.optim.unet_lr, filled.optim.te_lr) == (1.0, 1.0, 1.0)
    assert filled.network.alpha == filled.network.rank == 32
    assert filled.schedule.warmup_percent == 0


def test_adamw_gets_the_guides_rates_half_the_rank_and_a_warmup():
    filled = fill(Recipe(network=Lora(rank=16)), facts()).recipe

    assert (filled.optim.lr, filled.optim.te_lr) == (1e-4, 5e-5)
    assert (filled.network.alpha, filled.network.conv_rank, filled.network.conv_alpha) == (8, 16, 8)
    assert filled.schedule.warmup_percent == 10


def test_zero_is_a_value_everywhere():
    given = Recipe(
        optim=Optim(te_lr=0.0, weight_decay=0.0),
        schedule=Schedule(warmup_percent=0.0),
        network=Lora(alpha=0.0, conv_rank=0),
        data=Data(workers=0, keep_tokens=0, shuffle_tags=True),
        train=Train(seed=0),
    )
    filled = fill(given, facts(card(11.2))).recipe

    assert (filled.optim.te_lr, filled.optim.weight_decay) == (0.0, 0.0)
    assert filled.schedule.warmup_percent == 0.0
    assert (filled.network.alpha, filled.network.conv_rank) == (0.0, 0)
    assert (filled.data.workers, filled.data.keep_tokens, filled.train.seed) == (0, 0, 0)


def test_a_rate_below_the_text_encoders_usual_one_holds_for_it_too():
    assert fill(Recipe(optim=Optim(lr=1e-5)), facts()).recipe.optim.te_lr == 1e-5


def test_parts_without_layers_are_not_trained():
    unet = fill(Recipe(network=Lora(targets="unet-only")), facts()).recipe
    text = fill(Recipe(network=Lora(targets="te-only")), facts()).recipe

    assert (unet.optim.unet_lr, unet.optim.te_lr) == (1e-4, 0.0)
    assert (text.optim.unet_lr, text.optim.te_lr) == (0.0, 5e-5)
    assert unet.data.cache_text is True
    assert text.data.cache_text is False


def test_lokr_is_full_unless_a_rank_is_given():
    full = fill(Recipe(network=Lokr()), facts()).recipe.network
    low = fill(Recipe(network=Lokr(rank=8)), facts()).recipe.network

    assert (full.rank, full.alpha) == ("full", 1.0)
    assert (low.rank, low.alpha) == (8, 4)


@pytest.mark.parametrize(("style", "skip"), [("natural", 1), ("danbooru", 2), ("e621", 2)])
def test_clip_skip_follows_the_prompt_style(style, skip):
    assert fill(Recipe(model=Model(prompt_style=style)), facts()).recipe.model.clip_skip == skip


def test_kept_tags_follow_trigger_and_class_when_tags_are_shuffled():
    both = Data(shuffle_tags=True, trigger="vexilo", class_word="emblem")
    none = Data(shuffle_tags=True)

    assert fill(Recipe(data=both), facts()).recipe.data.keep_tokens == 2
    assert fill(Recipe(data=none), facts()).recipe.data.keep_tokens == 1


def test_the_name_is_the_trigger_with_the_next_free_number():
    recipe = Recipe(data=Data(trigger="vex/ilo x"))
    known = facts(taken_names=frozenset({"vex_ilo_x_v1", "vex_ilo_x_v2"}))

    assert fill(recipe, known).recipe.run.name == "vex_ilo_x_v3"


def test_prompts_are_proposed_from_the_trigger_unless_none_are_wanted():
    recipe = Recipe(data=Data(trigger="vexilo", class_word="emblem"))

    proposed = fill(recipe, facts()).recipe.sample
    assert proposed.prompts == ("vexilo emblem", "a photo of vexilo emblem")
    assert (proposed.width, proposed.height, proposed.seed) == (512, 512, 11)
    none = recipe.model_copy(update={"sample": type(recipe.sample)(prompts=())})
    assert fill(none, facts()).recipe.sample.prompts == ()


def test_every_setting_has_an_origin_and_presets_are_told_from_you():
    recipe = Recipe(optim=Optim(lr=2e-4), train=Train(epochs=4))
    given = {"optim.lr": Origin("preset", "style")}
    origins = fill(recipe, facts(), given).origins

    assert origins["optim.lr"] == Origin("preset", "style")
    assert origins["train.epochs"] == Origin("you")
    assert origins["train.seed"].source == "drawn"
    assert origins["train.accumulation"] == Origin("default")
    sections = {name: getattr(recipe, name) for name in Recipe.model_fields if name != "version"}
    assert set(origins) == {
        f"{name}.{key}" for name, section in sections.items() for key in type(section).model_fields
    }


# The plan -----------------------------------------------------------------------------------


def test_steps_are_those_of_the_order_with_partial_batches(pictures, tmp_path):
    recipe = recipe_for(pictures, tmp_path / "runs", train=Train(batch_size=4, epochs=3, seed=5))
    made = plan(recipe, gather(recipe, hardware=machine()))

    # 50 square samples are 13 batches of 4, 20 wide ones are 5.
    assert made.steps_per_epoch == (18, 18, 18)
    assert made.steps == 54
    assert made.partial_steps == 54 - -(-70 * 3 // 4)
    rows = {(row.width, row.height): (row.samples, row.batches) for row in made.buckets}
    assert rows == {(512, 512): (50, 13), (576, 448): (20, 5)}
    order = order_of(made.placed, made.recipe.data, made.recipe.train)
    trained = sum(len(order.epoch(epoch)) for epoch in (1, 2, 3))
    assert trained == made.steps


def test_the_step_limit_cuts_and_says_where(pictures, tmp_path):
    train = Train(batch_size=4, epochs=3, max_steps=20)
    recipe = recipe_for(pictures, tmp_path / "runs", train=train)
    made = plan(recipe, gather(recipe, hardware=machine()))

    assert made.steps == 20
    assert made.steps_per_epoch == (18, 2)
    assert any("step 20 of 54, in epoch 2 of 3" in notice for notice in made.notices)
    assert "cut by the step limit" in arithmetic_line(made)


def test_the_arithmetic_line_shows_the_sum(pictures, tmp_path):
    recipe = recipe_for(pictures, tmp_path / "runs", train=Train(batch_size=4, epochs=3))
    line = arithmetic_line(plan(recipe, gather(recipe, hardware=machine())))

    assert line.startswith(
        "7 images × 10 repeats × 3 epochs ÷ batch 4 = 54 steps (1 from partial batches)"
    )
    assert "GiB (estimate)" in line


def test_the_batch_is_not_larger_than_the_number_of_pictures(pictures, tmp_path):
    recipe = recipe_for(pictures, tmp_path / "runs")
    made = plan(recipe, gather(recipe, hardware=machine(card(23.5))))

    assert made.recipe.train.batch_size == 7
    assert "only 7 pictures" in made.filled.origins["train.batch_size"].reason


def test_the_object_of_plan_json(pictures, tmp_path):
    recipe = recipe_for(pictures, tmp_path / "runs", train=Train(batch_size=4, epochs=2))
    made = plan(recipe, gather(recipe, hardware=machine(card(11.2))))
    said = json.loads(json.dumps(made.to_dict()))

    assert set(said) == {
        "steps",
        "steps_per_epoch",
        "samples_per_epoch",
        "buckets",
        "images",
        "seconds",
        "memory_bytes",
        "disk_bytes",
        "file_bytes",
        "loads_in",
        "readers",
        "base",
        "notices",
        "origins",
    }
    assert said["steps"] == 36 and said["steps_per_epoch"] == [18, 18]
    assert said["samples_per_epoch"] == 70
    assert said["seconds"] is None
    assert said["buckets"][0] == {
        "width": 512,
        "height": 512,
        "images": 5,
        "samples": 50,
        "batches": 13,
        "last_batch": 2,
    }
    first = said["images"][0]
    assert first["path"].endswith("p0.png")
    assert (first["bucket"], first["resized"], first["crop"]) == ([512, 512], [512, 512], [0, 0])
    memory = said["memory_bytes"]
    parts = ("context", "base", "text", "network", "activations")
    assert sum(memory[part] for part in parts) == memory["total"]
    assert memory["low"] < memory["total"] < memory["high"]
    assert memory["free"] == int(11.2 * GIB)
    assert said["origins"]["train.batch_size"] == {"source": "you", "reason": ""}


def test_mistakes_are_collected_and_raised_as_their_kind(pictures, tmp_path):
    small = tmp_path / "5_small"
    small.mkdir()
    Image.new("RGB", (40, 40)).save(small / "tiny.png")
    recipe = recipe_for(small, tmp_path / "runs", data=Data(folder=small, trigger="a"))
    made = plan(recipe, gather(recipe, hardware=machine()))

    assert made.steps == 0
    with pytest.raises(DataError, match=r"tiny\.png"):
        made.raise_errors()
    bad = Data(folder=pictures, trigger="a", bucket_min=1024)
    recipe = recipe_for(pictures, tmp_path / "runs", data=bad)
    with pytest.raises(RecipeError, match="smallest bucket"):
        plan(recipe, gather(recipe, hardware=machine())).raise_errors()


def test_pictures_that_are_missing_are_a_wrong_call(tmp_path):
    recipe = recipe_for(tmp_path / "nowhere", tmp_path / "runs")
    made = plan(recipe, gather(recipe, hardware=machine()))

    with pytest.raises(EngineError) as caught:
        made.raise_errors()
    assert caught.value.exit_code == 2


def test_a_plan_without_pictures_has_no_steps_yet(tmp_path):
    made = plan(Recipe(), facts())

    assert made.steps == 0 and made.buckets == ()
    assert arithmetic_line(made) == "no pictures yet"


def test_notices_name_what_matters(pictures, tmp_path):
    schedule = Schedule(scheduler="constant", warmup_percent=10.0)
    recipe = recipe_for(
        pictures,
        tmp_path / "runs",
        schedule=schedule,
        network=Lora(alpha=0.0),
        train=Train(batch_size=8, checkpointing=False, device="0"),
    )
    made = plan(recipe, gather(recipe, hardware=machine(card(7.6))))

    words = " ".join(made.notices)
    assert "begins with the warmup" in words
    assert "network.alpha 0 means the same as the rank" in words
    assert "switch train.checkpointing on" in words
    cpu = plan(Recipe(), facts())
    assert any("only practical for the demo" in notice for notice in cpu.notices)


# Files --------------------------------------------------------------------------------------


def sd15(**changes) -> ModelFacts:
    """Facts of a full-size Stable Diffusion 1.5."""
    known = {
        "path": Path("sd15.safetensors"),
        "layout": "single",
        "bytes": 2_132_000_000,
        "family": "sd1",
        "prediction": "epsilon",
        "unet_parameters": SD15_PARAMETERS["unet_parameters"],
        "te_parameters": SD15_PARAMETERS["te_parameters"],
        "architecture": full_size("sd1"),
    }
    return ModelFacts(**(known | changes))


@pytest.mark.parametrize(
    ("rank", "te_lr", "megabytes"),
    # Published sizes: fp16 files of SD1 by rank, with and without the text encoder.
    [(4, 5e-5, 4.7), (16, 5e-5, 18.9), (32, 5e-5, 37.7), (128, 5e-5, 151), (16, 0.0, 13.6)],
)
def test_the_file_is_as_large_as_the_table_says(rank, te_lr, megabytes):
    recipe = Recipe(network=Lora(rank=rank), optim=Optim(te_lr=te_lr))
    made = plan(recipe, facts(model=sd15()))

    assert made.sizes.file_bytes is not None
    assert made.sizes.file_bytes / 1e6 == pytest.approx(megabytes, rel=0.03)


def test_a_checkpoint_that_must_be_loaded_tells_no_file_size():
    model = sd15(layout="ckpt", family=None, prediction=None, architecture=None)
    made = plan(Recipe(), facts(model=model))

    assert made.to_dict()["file_bytes"] is None
    assert any("after loading" in notice for notice in made.notices)


def test_a_model_that_contradicts_the_recipe_is_refused():
    marked = sd15(prediction="v", prediction_source='the marker tensor "v_pred" in the file')
    made = plan(Recipe(model=Model(prediction="epsilon")), facts(model=marked))

    with pytest.raises(ModelError, match="predicts v"):
        made.raise_errors()


def test_a_base_for_small_pictures_gets_small_buckets_unless_you_chose_them():
    usual = full_size("sd1")
    small = replace(usual, unet=usual.unet | {"sample_size": 16})
    model = sd15(architecture=small, unet_parameters=3_000_000)
    data = fill(Recipe(), facts(model=model)).recipe.data

    assert data.resolution == (128, 128)
    assert (data.bucket_min, data.bucket_step) == (64, 32)
    assert rule_problems(bucket_rules(data)) == ()
    chosen = fill(Recipe(data=Data(bucket_min=128, bucket_step=128)), facts(model=model))
    assert (chosen.recipe.data.bucket_min, chosen.recipe.data.bucket_step) == (128, 128)
    written_out = Recipe.model_validate(Recipe().model_dump())
    assert fill(written_out, facts(model=model)).recipe.data.bucket_min == 64
    assert fill(Recipe(), facts(model=model)).recipe.train.batch_size == 4


def test_files_that_stay_are_counted():
    recipe = fill(Recipe(train=Train(epochs=10)), facts()).recipe

    def left(**changes) -> int:
        save = recipe.save.model_copy(update=changes)
        return network_files(recipe.model_copy(update={"save": save}), (5,) * 10)

    assert left(every_epochs=1) == 11
    assert left(every_epochs=3) == 4
    assert left(every_epochs=0) == 1
    assert left(every_epochs=1, keep_last=2) == 3
    assert left(every_epochs=0, every_steps=20) == 3
    assert left(every_epochs=0, every_minutes=5, keep_last=4) == 5


# Memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "measured_mib"),
    # Guide 003 on an RTX 4090, SD1, batch 8, AdamW8bit, text encoder trained: LoRA attn-mlp 32, full 32.
    [(18_900_000, 15420), (37_500_000, 17350)],
)
def test_the_estimate_holds_on_the_table_it_was_fitted_to(trained, measured_mib):
    question = MemoryQuestion(
        architecture=full_size("sd1"),
        **SD15_PARAMETERS,
        trained_parameters=trained,
        optimizer="adamw8bit",
        half=True,
        batch=8,
        pixels=512 * 512,
        checkpointing=False,
        te_loaded=True,
        te_trained=True,
    )
    estimate = estimate_memory(question)

    assert estimate.total == pytest.approx(measured_mib * (1 << 20), rel=0.12)
    assert estimate.low < measured_mib * (1 << 20) < estimate.high


def test_the_estimate_grows_with_what_costs():
    base = MemoryQuestion(
        architecture=full_size("sd1"),
        **SD15_PARAMETERS,
        trained_parameters=18_900_000,
        optimizer="adamw",
        half=True,
        batch=2,
        pixels=512 * 512,
        checkpointing=False,
        te_loaded=True,
        te_trained=True,
    )
    total = estimate_memory(base).total

    assert estimate_memory(replace(base, batch=4)).total > total
    assert estimate_memory(replace(base, pixels=768 * 768)).total > total
    assert estimate_memory(replace(base, half=False)).total > total
    assert estimate_memory(replace(base, optimizer="prodigy")).total > total
    assert estimate_memory(replace(base, checkpointing=True)).total < total
    assert estimate_memory(replace(base, te_loaded=False, te_trained=False)).total < total


def test_rules_carry_every_answer_to_the_data(tmp_path):
    data = Data(folder=tmp_path, trigger="vexilo", class_word="emblem", resolution=(640, 512))

    assert survey_rules(data).text == "vexilo emblem"
    assert survey_rules(data).reg_text == "emblem"
    assert (bucket_rules(data).width, bucket_rules(data).height) == (640, 512)
    with pytest.raises(RecipeError, match="No pictures"):
        survey_rules(Data())


def test_locon_takes_all_layers_unless_others_are_chosen():
    filled = fill(Recipe(network=Lora(algorithm="locon")), facts())
    assert filled.recipe.network.targets == "full"
    assert "plain LoRA" in filled.origins["network.targets"].reason
    chosen = Lora(algorithm="locon", targets="attn-mlp")
    assert fill(Recipe(network=chosen), facts()).recipe.network.targets == "attn-mlp"


def test_leading_tags_are_kept_where_tags_are_dropped_too():
    data = Data(trigger="vexilo", class_word="emblem", shuffle_tags=False, tag_dropout=0.1)
    assert fill(Recipe(data=data), facts()).recipe.data.keep_tokens == 2


# What the network's shapes tell ----------------------------------------------------------------


def test_a_rank_that_limits_nothing_is_refused_before_the_start():
    network = Lokr(rank=100000, rs_lora=True, rank_dropout=0.1)
    made = plan(Recipe(network=network), facts(model=sd15()))

    assert {problem.path for problem in made.problems} == {
        "network.rs_lora",
        "network.rank_dropout",
    }
    with pytest.raises(RecipeError, match="both factors are full"):
        made.raise_errors()


def test_a_rank_that_limits_only_some_modules_is_a_notice():
    some = plan(Recipe(network=Lokr(rank=128)), facts(model=sd15()))
    none = plan(Recipe(network=Lokr(rank=8)), facts(model=sd15()))

    assert any("The rank no longer limits" in notice for notice in some.notices)
    assert not any("no longer limits" in notice for notice in none.notices)
    assert some.problems == ()


def test_sizes_of_convolutions_that_are_not_trained_are_a_notice_where_they_were_given():
    def told(network, given=None) -> list[str]:
        made = plan(Recipe(network=network), facts(model=sd15()), given)
        return [notice for notice in made.notices if "no effect" in notice]

    (notice,) = told(Lora(conv_rank=4, conv_alpha=3.0))
    assert notice.startswith(
        "network.conv_rank 4 and network.conv_alpha 3 have no effect: attn-mlp"
    )
    preset = {"network.conv_alpha": Origin("preset", "person")}
    assert len(told(Lora(conv_alpha=3.0), preset)) == 1
    assert "conv_rank 0 leaves" in told(Lora(targets="full", conv_rank=0, conv_alpha=3.0))[0]
    for quiet in (
        Lora(),
        Lora(conv_rank=0),
        Lora(targets="full", conv_rank=4, conv_alpha=3.0),
        Lora(targets="unet-convblock-only", conv_rank=4),
    ):
        assert told(quiet) == []


def test_a_smallest_rank_above_that_of_convolutions_is_a_notice():
    def told(**changes) -> bool:
        made = plan(Recipe(network=TLora(rank=32, **changes)), facts(model=sd15()))
        return any("above the convolution rank, 8" in notice for notice in made.notices)

    assert told(targets="full", min_rank=16, conv_rank=8)
    assert not told(targets="full", min_rank=8, conv_rank=8)
    assert not told(targets="full", min_rank=16)


def test_the_plan_says_who_loads_the_file():
    def readers(network) -> dict[str, dict[str, str]]:
        said = json.loads(json.dumps(plan(Recipe(network=network), facts(model=sd15())).to_dict()))
        assert said["loads_in"] == [
            name for name, verdict in said["readers"].items() if verdict["level"] == "yes"
        ]
        return said["readers"]

    plain = readers(Lora())
    assert len(plain) == 6 and {one["level"] for one in plain.values()} == {"yes"}
    magnitudes = readers(Lora(dora="output"))
    assert magnitudes["ComfyUI"]["level"] == "partly" and magnitudes["ComfyUI"]["reason"]
    assert magnitudes["kohya's lora.py"] == {"level": "no", "reason": "knows no magnitudes"}
    assert magnitudes["lycoris-lora"] == {"level": "yes", "reason": ""}


def test_an_override_reaches_the_network_with_all_it_says():
    entry = Override(
        pattern="down_blocks.*", conv_rank=2, conv_alpha=1.0, dora="input", scalar=True
    )
    network = Lora(rank=8, alpha=4.0, targets="full", dora="input", overrides=(entry,))
    own = network_choice(network).overrides[0].applied(network_choice(network))

    assert (own.rank, own.alpha, own.conv_rank, own.conv_alpha) == (8, 4.0, 2, 1.0)
    assert (own.dora, own.scalar) == ("input", True)


@pytest.mark.parametrize(
    ("network", "entry"),
    [
        (Dylora(rank=8, alpha=4.0), {"block_size": 2, "detach_lower": False}),
        (
            TLora(rank=8, alpha=4.0),
            {
                "min_rank": 2,
                "mask_alpha": 2.0,
                "orthogonality": 0.1,
                "sig_type": "last",
                "use_data_init": False,
            },
        ),
    ],
)
def test_options_of_single_algorithms_can_be_overridden(network, entry):
    changed = network.model_copy(update={"overrides": (Override(pattern=".*attn1.*", **entry),)})
    choice = network_choice(changed)
    layers = layer_shapes(full_size("sd1"))

    chosen = dict.fromkeys(own for _, own in resolve(layers, choice) if own is not choice)
    assert len(chosen) == 1
    (own,) = chosen
    assert {name: getattr(own, name) for name in entry} == entry
    plan(Recipe(network=changed), facts(model=sd15())).raise_errors()


def test_a_recipe_can_override_whatever_the_network_can():
    fields = set(Override.model_fields) - {"pattern", "exclude", "algorithm"}

    assert fields == frozenset().union(*APPLIES.values())
