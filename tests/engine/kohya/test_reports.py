"""What an import says of a key is what the recipe holds, and a 0 is what kohya made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.kohya.load import import_file
from engine.kohya.names import KOHYA_CONV
from engine.kohya.report import Imported, Row

FILES = Path(__file__).parent / "files"


def imported(folder: Path, text: str, name: str = "train.toml") -> Imported:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return import_file(path)


def value(found: Imported, path: str) -> Any:
    section, _, key = path.partition(".")
    return getattr(getattr(found.recipe, section), key)


def rows(found: Imported, key: str) -> list[Row]:
    return [row for row in found.rows if row.key == key]


def row(found: Imported, key: str) -> Row:
    (only,) = rows(found, key)
    return only


def own(*args: str, module: str = "networks.lora", more: str = "") -> str:
    """A configuration of these network arguments."""
    listed = json.dumps(list(args))
    return f'network_module = "{module}"\nnetwork_dim = 8\nnetwork_args = {listed}\n{more}'


# masks ----------------------------------------------------------------------------------------


def test_transparency_masks_without_masked_loss(tmp_path: Path) -> None:
    found = imported(tmp_path, "alpha_mask = true\n")
    assert value(found, "data.masked_loss") == "alpha"
    assert value(found, "data.mask_mean") == "picture"
    told = row(found, "alpha_mask")
    assert (told.status, told.settings) == ("translated", ("data.masked_loss", "data.mask_mean"))


@pytest.mark.parametrize("other", ["", "alpha_mask = false\n"])
def test_transparency_of_one_folder_is_told_once(tmp_path: Path, other: str) -> None:
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nalpha_mask = true\n'
    found = imported(tmp_path, f'{text}[[datasets.subsets]]\nimage_dir = "b"\n{other}')
    assert value(found, "data.masked_loss") == "alpha"
    told = row(found, "dataset: alpha_mask")
    assert (told.status, told.settings[:1]) == ("unsupported", ("data.masked_loss",))
    assert "differs between the folders" in told.note


def test_pictures_of_masks_are_read_from_a_data_set_configuration_alone(tmp_path: Path) -> None:
    loose = imported(tmp_path, 'masked_loss = true\nconditioning_data_dir = "m"\n')
    assert value(loose, "data.masked_loss") == "off"
    assert row(loose, "conditioning_data_dir").status == "no effect"
    subset = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nconditioning_data_dir = "m"\n'
    (tmp_path / "set.toml").write_text(subset)
    text = 'dataset_config = "set.toml"\nmasked_loss = true\nalpha_mask = true\n'
    found = imported(tmp_path, text)
    assert value(found, "data.masked_loss") == "folder"
    assert value(found, "data.mask_folder") == tmp_path / "m"
    assert row(found, "alpha_mask").status == "no effect"


# zeros ----------------------------------------------------------------------------------------


def test_an_alpha_of_zero_is_as_much_as_the_rank_of_the_convolutions(tmp_path: Path) -> None:
    zero = imported(tmp_path, own("conv_dim=4", "conv_alpha=0"))
    assert (value(zero, "network.conv_rank"), value(zero, "network.conv_alpha")) == (4, 0.0)
    assert row(zero, "network_args: conv_alpha").note == "0 means the same as the rank"
    missing = imported(tmp_path, own("conv_dim=4"))
    assert value(missing, "network.conv_alpha") == 1.0
    assert row(missing, "conv_alpha").status == "default"


def test_no_rank_for_convolutions_still_walks_the_residual_blocks(tmp_path: Path) -> None:
    found = imported(tmp_path, own("conv_dim=0", "conv_alpha=2"))
    assert value(found, "network.algorithm") == "locon"
    assert value(found, "network.conv_rank") == 0
    assert value(found, "network.targets") == "full"
    assert [one.pattern for one in found.recipe.network.overrides] == [KOHYA_CONV]
    assert value(imported(tmp_path, own()), "network.targets") == "attn-mlp"


def test_kohyas_dylora_has_blocks_of_one_and_one_size(tmp_path: Path) -> None:
    found = imported(tmp_path, own("conv_dim=8", "conv_alpha=2", module="networks.dylora"))
    assert value(found, "network.block_size") == 1
    assert value(found, "network.conv_rank") is None
    assert row(found, "network_args: conv_alpha").status == "no effect"
    named = imported(tmp_path, own("unit=4", module="networks.dylora"))
    assert value(named, "network.block_size") == 4


def test_a_rate_of_zero_is_no_blank(tmp_path: Path) -> None:
    found = imported(tmp_path, "learning_rate = 1e-4\ntext_encoder_lr = 0\n")
    assert value(found, "optim.te_lr") == 0.0
    assert (row(found, "text_encoder_lr").status, row(found, "text_encoder_lr").note) == (
        "taken", "",
    )  # fmt: skip


def test_a_loraplus_ratio_of_zero_is_not_off(tmp_path: Path) -> None:
    found = imported(tmp_path, own("loraplus_lr_ratio=0"))
    assert value(found, "optim.loraplus_ratio") is None
    assert row(found, "network_args: loraplus_lr_ratio").status == "unsupported"


def test_a_clip_skip_of_zero_is_told(tmp_path: Path) -> None:
    assert row(imported(tmp_path, "clip_skip = 0\n"), "clip_skip").status == "unsupported"


# schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine_with_min_lr", "warmup_stable_decay"])
def test_a_missing_lowest_rate_is_zero(tmp_path: Path, name: str) -> None:
    found = imported(tmp_path, f'lr_scheduler = "{name}"\n')
    assert value(found, "schedule.min_lr_ratio") == 0.0
    assert row(found, "lr_scheduler_min_lr_ratio").status == "default"
    given = imported(tmp_path, f'lr_scheduler = "{name}"\nlr_scheduler_min_lr_ratio = 0.1\n')
    assert value(given, "schedule.min_lr_ratio") == 0.1
    other = imported(tmp_path, 'lr_scheduler = "cosine"\n')
    assert "min_lr_ratio" not in other.data["schedule"]


@pytest.mark.parametrize(
    ("lines", "percent", "status"),
    [
        ("", 0.0, "default"),
        ("lr_decay_steps = 0\n", 0.0, "translated"),
        ("lr_decay_steps = 0.3\n", 30.0, "translated"),
        ("lr_decay_steps = 25\nmax_train_steps = 100\n", 25.0, "translated"),
        ("lr_decay_steps = 25\n", 20.0, "unsupported"),
        ("lr_decay_steps = 250\nmax_train_steps = 100\n", 20.0, "unsupported"),
        (
            "lr_decay_steps = 25\nmax_train_steps = 100\nmax_train_epochs = 9\n",
            20.0,
            "unsupported",
        ),
    ],
)
def test_a_missing_decay_never_falls(
    tmp_path: Path, lines: str, percent: float, status: str
) -> None:
    found = imported(tmp_path, f'lr_scheduler = "warmup_stable_decay"\n{lines}')
    assert value(found, "schedule.decay_percent") == percent
    assert row(found, "lr_decay_steps").status == status


def test_decay_of_a_schedule_without_one_takes_nothing(tmp_path: Path) -> None:
    found = imported(tmp_path, 'lr_scheduler = "cosine"\nlr_decay_steps = 25\n')
    assert row(found, "lr_decay_steps").status == "no effect"


def test_waves_of_a_schedule_that_falls_once_are_told(tmp_path: Path) -> None:
    text = 'lr_scheduler = "cosine_with_min_lr"\nlr_scheduler_num_cycles = 4\n'
    found = imported(tmp_path, text)
    assert value(found, "schedule.cycles") == 1
    assert row(found, "lr_scheduler_num_cycles").status == "unsupported"


# one row, one truth ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "path"),
    [("weight_decay=2.0", "optim.weight_decay"), ("eps=0", "optim.eps")],
)
def test_a_refused_argument_has_one_row(tmp_path: Path, argument: str, path: str) -> None:
    found = imported(tmp_path, f'optimizer_args = ["{argument}"]\n')
    told = row(found, f"optimizer_args: {argument.partition('=')[0]}")
    assert (told.status, told.settings) == ("unsupported", ())
    assert told.note.startswith("left out: ")
    assert rows(found, path) == []
    assert row(found, "optimizer_args").status == "translated"


def test_the_last_of_equal_arguments_counts(tmp_path: Path) -> None:
    text = own("conv_dim=4", "conv_dim=6", more='optimizer_args = ["eps=1e-6", "eps=1e-7"]\n')
    found = imported(tmp_path, text)
    assert (value(found, "network.conv_rank"), value(found, "optim.eps")) == (6, 1e-7)
    for key in ("network_args: conv_dim", "optimizer_args: eps"):
        assert sorted(one.status == "no effect" for one in rows(found, key)) == [False, True]


def test_network_arguments_of_the_command_line_replace_those_of_the_form(tmp_path: Path) -> None:
    data = {
        "LoRA_type": "Kohya LoCon", "conv_dim": 2, "conv_alpha": 1,
        "additional_parameters": "--network_args rank_dropout=0.1",
    }  # fmt: skip
    found = imported(tmp_path, json.dumps(data), "gui.json")
    assert value(found, "network.algorithm") == "lora"
    assert value(found, "network.rank_dropout") == 0.1
    assert row(found, "conv_dim").status == "no effect"


@pytest.mark.parametrize(
    ("switch", "rate", "path"),
    [
        ("network_train_unet_only", "text_encoder_lr", "optim.te_lr"),
        ("network_train_text_encoder_only", "unet_lr", "optim.unet_lr"),
        ("cache_text_encoder_outputs", "text_encoder_lr", "optim.te_lr"),
    ],
)
def test_the_rate_of_an_untrained_part_is_not_taken(
    tmp_path: Path, switch: str, rate: str, path: str
) -> None:
    found = imported(tmp_path, f"{switch} = true\n{rate} = 5e-5\n")
    assert value(found, path) == 0.0
    assert row(found, rate).status == "no effect"


def test_two_rates_beside_that_of_an_adaptive_optimizer_are_told(tmp_path: Path) -> None:
    text = 'optimizer_type = "Prodigy"\nlearning_rate = 1\nunet_lr = 0.5\ntext_encoder_lr = 0.3\n'
    found = imported(tmp_path, text)
    assert value(found, "optim.unet_lr") is value(found, "optim.te_lr") is None
    assert {row(found, key).status for key in ("unet_lr", "text_encoder_lr")} == {"unsupported"}


HOLDS = (
    own("conv_dim=4", "conv_alpha=2", more='network_weights = "a.safetensors"\n'),
    own("algo=locon", "conv_dim=4", "dora_wd=True", "wd_on_output=False", module="lycoris.kohya"),
    own("algo=ia3", "dora_wd=True", "wd_on_output=True", module="lycoris.kohya"),
    own("algo=lokr", "full_matrix=True", module="lycoris.kohya"),
    "alpha_mask = true\nmasked_loss = true\nclip_skip = 0\nmax_train_epochs = 3\n",
    'optimizer_args = ["weight_decay=2.0", "betas=2,3", "eps=0"]\ntrain_batch_size = 512\n',
    "max_train_steps = -3\nlr_warmup_steps = -5\n",
    "save_every_n_epochs = 1\nsave_n_epoch_ratio = 2\nmax_train_epochs = 10\n",
)


@pytest.mark.parametrize("text", HOLDS)
def test_settings_that_a_row_names_are_held(tmp_path: Path, text: str) -> None:
    found = imported(tmp_path, text)
    held = {f"{section}.{key}" for section, keys in found.data.items() for key in keys}
    for told in found.rows:
        if told.status != "no effect":
            assert set(told.settings) <= held, told


def test_whole_files_name_only_settings_that_are_held() -> None:
    for path in sorted(FILES.iterdir()):
        found = import_file(path)
        held = {f"{name}.{key}" for name, keys in found.data.items() for key in keys}
        for told in found.rows:
            assert told.status == "no effect" or set(told.settings) <= held, (path.name, told)


# files on the way -----------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """Twenty samples an epoch."""
    folder = tmp_path / "img" / "5_cat"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"")
    return f'train_data_dir = "{tmp_path / "img"}"\ntrain_batch_size = 2\n'


@pytest.mark.parametrize(
    ("lines", "every"),
    [
        ("max_train_steps = 100\n", 3),
        ("max_train_steps = 100\ngradient_accumulation_steps = 5\n", 16),
        ("max_train_epochs = 7\n", 2),
        ("max_train_epochs = 2\n", 1),
    ],
)
def test_a_ratio_of_files_counts_epochs(
    tmp_path: Path, pictures: str, lines: str, every: int
) -> None:
    text = f"{pictures}{lines}save_every_n_epochs = 5\nsave_n_epoch_ratio = 3\n"
    found = imported(tmp_path, text)
    assert value(found, "save.every_epochs") == every
    assert row(found, "save_n_epoch_ratio").status == "translated"
    assert row(found, "save_every_n_epochs").status == "no effect"


def test_epochs_with_regularisation_are_twice_as_long(tmp_path: Path, pictures: str) -> None:
    (tmp_path / "reg" / "1_cat").mkdir(parents=True)
    text = f'{pictures}reg_data_dir = "{tmp_path / "reg"}"\nmax_train_steps = 100\n'
    assert value(imported(tmp_path, f"{text}save_n_epoch_ratio = 1\n"), "save.every_epochs") == 5


def test_a_ratio_without_pictures_to_count_is_told(tmp_path: Path) -> None:
    found = imported(tmp_path, "max_train_steps = 100\nsave_n_epoch_ratio = 3\n")
    assert value(found, "save.every_epochs") == 0
    assert row(found, "save_n_epoch_ratio").status == "unsupported"


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("save_every_n_epochs = 2\nsave_last_n_epochs = 4\n", 4),
        ("save_every_n_steps = 10\nsave_last_n_steps = 30\n", 4),
        ("save_every_n_steps = 100\nsave_last_n_steps = 250\n", 3),
        ("save_every_n_steps = 100\nsave_last_n_steps = 0\n", 1),
        ("save_every_n_epochs = 1\nsave_last_n_epochs = 0\n", None),
        (
            "save_every_n_epochs = 1\nsave_last_n_epochs = 2\n"
            "save_every_n_steps = 10\nsave_last_n_steps = 30\n",
            4,
        ),
    ],
)
def test_as_many_files_stay_as_in_kohya(tmp_path: Path, lines: str, files: int | None) -> None:
    found = imported(tmp_path, lines)
    assert value(found, "save.keep_last") == files
    if lines.count("save_last") > 1:
        statuses = {row(found, f"save_last_n_{one}").status for one in ("epochs", "steps")}
        assert statuses == {"unsupported"}


def test_samplers_of_prompts_get_our_names(tmp_path: Path) -> None:
    data = {"LoRA_type": "Standard", "sample_prompts": "a hill --ss k_euler_a --s 20"}
    found = imported(tmp_path, json.dumps(data), "gui.json")
    assert value(found, "sample.prompts") == ("a hill --ss euler_a --s 20",)
    assert row(found, "sample_prompts").status == "translated"


def test_what_is_predicted_is_told_where_the_file_does_not_say(tmp_path: Path) -> None:
    found = imported(tmp_path, "train_batch_size = 2\n")
    assert value(found, "model.prediction") == "epsilon"
    assert row(found, "v_parameterization").status == "default"
    found = imported(tmp_path, "v_parameterization = true\n")
    assert value(found, "model.prediction") == "v"
    assert row(found, "v_parameterization").status == "translated"
