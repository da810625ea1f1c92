"""Configurations of kohya's become recipes that do what kohya did, and every key is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError, RecipeError, UsageError
from engine.kohya.arguments import BY_NAME, FIELDS, HANDLED, IDLE, UNSUPPORTED
from engine.kohya.load import import_file
from engine.kohya.names import KOHYA_CONV, NETWORK_ARGS, OPTIMIZERS
from engine.kohya.report import Imported, Row
from engine.sampler_names import KOHYA_NAMES
from engine.settings.network import Override
from engine.settings.optimizers import OPTIMIZERS as KINDS
from engine.settings.walk import setting, settings

FILES = Path(__file__).parent / "files"


def value(found: Imported, path: str) -> Any:
    section, _, key = path.partition(".")
    return getattr(getattr(found.recipe, section), key)


def row(found: Imported, key: str) -> Row:
    return next(one for one in found.rows if one.key == key)


def gui(tmp_path: Path, **keys: Any) -> Imported:
    """A GUI file that says only these keys beside the type."""
    path = tmp_path / "gui.json"
    path.write_text(json.dumps({"LoRA_type": "Standard", **keys}))
    return import_file(path)


def toml(tmp_path: Path, text: str, name: str = "train.toml") -> Imported:
    path = tmp_path / name
    path.write_text(text)
    return import_file(path)


# whole files ----------------------------------------------------------------------------------

EXPECTED: dict[str, dict[str, Any]] = {
    "gui_new_lokr.json": {
        "model.family": "sd1", "model.clip_skip": 2, "network.algorithm": "lokr",
        "network.rank": "full", "network.factor": 6, "network.dora": "output",
        "network.targets": "attn-mlp", "optim.optimizer": "prodigy", "optim.lr": 1.0,
        "optim.weight_decay": 0.4, "optim.d_coef": 1.5, "optim.betas": (0.9, 0.99),
        "optim.arguments": (
            "d0=1e-5", "weight_decouple=True", "safeguard_warmup=True", "bias_correction=True",
        ),
        "optim.max_grad_norm": 1.0, "optim.te_stop_percent": 0.0, "objective.huber_c": 0.1,
        "objective.multires_iterations": 6, "objective.multires_discount": 0.1,
        "objective.noise_offset": 0.0, "objective.zero_terminal_snr": True,
        "data.tag_dropout": 0.1, "data.resolution": (512, 648), "data.bucket_step": 8,
        "data.cache_latents": "disk", "train.epochs": 12, "train.max_steps": None,
        "train.seed": None, "schedule.warmup_percent": 0.0, "save.keep_last": 4,
        "run.tensorboard": True, "run.wandb": False, "sample.every_epochs": 2,
        "sample.at_start": False, "optim.loraplus_ratio": None,
    },
    "gui_old_locon.json": {
        "network.algorithm": "locon", "network.targets": "full", "network.conv_rank": 4,
        "network.conv_alpha": 2.0, "network.rank": 8, "network.alpha": 4.0,
        "network.overrides": (Override(pattern=KOHYA_CONV, exclude=True),),
        "objective.multires_discount": 0.3, "objective.prior_loss_weight": 1.0,
        "objective.min_snr_gamma": 0.0, "data.captions": False, "model.max_tokens": 150,
        "schedule.scheduler": "constant", "schedule.cycles": 4, "schedule.warmup_percent": 5.0,
        "train.accumulation": 12, "train.epochs": 4, "train.seed": 1234, "optim.te_lr": 5e-5,
        "data.cache_latents": "ram", "model.family": "sd1",
    },
    "gui_sdxl.json": {
        "model.family": "sdxl", "model.path": None, "optim.te_lr": 0.0, "optim.unet_lr": 1e-6,
        "data.cache_text": True, "train.max_steps": 2000, "data.no_upscale": False,
        "data.captions": False, "objective.noise_offset": 0.0357,
        "train.network_precision": "bf16", "schedule.cycles": 3,
        "optim.arguments": ("scale_parameter=False", "relative_step=False", "warmup_init=False"),
    },
    "flat.toml": {
        "network.algorithm": "loha", "network.conv_rank": 8, "network.tucker": True,
        "network.dora": "input", "network.rank_dropout": 0.1, "optim.te_lr": 0.0,
        "optim.unet_lr": 2e-4, "optim.betas": (0.9, 0.99), "schedule.power": 2.0,
        "schedule.warmup_percent": 5.0, "train.epochs": 7, "train.seed": 0,
        "save.keep_last": 3, "run.wandb": True, "run.wandb_project": "my project",
        "sample.prompts_file": FILES / "prompts.txt", "data.folder": FILES / "img",
        "data.reg_folder": FILES / "reg", "train.batch_size": 4, "data.keep_tokens": 2,
    },
    "sections.toml": {
        "model.family": "auto", "model.prediction": "v", "optim.lr": 2e-6, "network.rank": 32,
        "network.alpha": 1.0, "optim.optimizer": "dadapt-adam", "train.max_steps": 1600,
        "optim.max_grad_norm": 0.0, "objective.min_snr_gamma": 0.0, "data.buckets": False,
        "data.caption_extension": ".caption", "save.precision": "fp32", "train.precision": "no",
        "objective.scale_v_loss": True, "schedule.scheduler": "constant",
    },
    "train.sh": {
        "model.family": "sdxl", "model.path": Path("/models/my base.safetensors"),
        "network.algorithm": "locon", "network.conv_alpha": 4.0, "optim.te_lr": 5e-5,
        "schedule.warmup_steps": 100, "train.max_steps": 500, "train.attention": "sdpa",
    },
    "one_folder.toml": {
        "data.folder": FILES / "cats", "data.layout": "leaf", "data.repeats": 3,
        "data.trigger": "zwx", "data.class_word": "cat", "data.resolution": (512, 512),
        "objective.min_snr_gamma": 5.0, "train.max_steps": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_each_kind(name: str) -> None:
    expected = dict(EXPECTED[name])
    if name == "sections.toml":
        expected["model.family"] = "sd2"
    found = import_file(FILES / name)
    assert {path: value(found, path) for path in expected} == expected


@pytest.mark.parametrize("name", [one.name for one in sorted(FILES.iterdir())])
def test_every_key_is_told_once(name: str) -> None:
    found = import_file(FILES / name)
    keys = [one.key for one in found.rows if one.key not in ("dataset: image_dir", "LoRA_type")]
    repeated = {key for key in keys if keys.count(key) > 1} - {"dataset: keep_tokens"}
    assert repeated == set()
    if name.startswith("gui"):
        written = json.loads((FILES / name).read_text())
        assert set(written) <= {one.key for one in found.rows}
    for one in found.rows:
        assert all(setting(path) is not None for path in one.settings), one
        assert one.status != "taken" or one.settings or one.note or one.key == "save_model_as", one


def test_subsets_are_folders_with_repeats_text_and_flip() -> None:
    found = import_file(FILES / "dataset.toml")
    assert found.recipe.data.layout == "parent"
    told = [(one.name, one.repeats, one.text, one.flip) for one in found.recipe.data.folders]
    assert told == [
        ("hero", 8, "hmbrg hero", False),
        ("villain", 5, "hmbrg villain", True),
        ("person", 1, "person", False),
    ]
    assert row(found, "dataset: keep_tokens").status in ("taken", "unsupported")
    assert found.count("unsupported") == 1


def test_folders_beside_those_of_the_file_are_off(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "img" / name).mkdir(parents=True)
    text = "[[datasets]]\n" + "".join(
        f'[[datasets.subsets]]\nimage_dir = "img/{name}"\n' for name in ("a", "b")
    )
    found = toml(tmp_path, text)
    assert [(one.name, one.repeats) for one in found.recipe.data.folders] == [
        ("a", 1), ("b", 1), ("c", 0),
    ]  # fmt: skip


# the GUI's ways -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "path", "ran"),
    [
        ("max_grad_norm", "optim.max_grad_norm", 1.0),
        ("prior_loss_weight", "objective.prior_loss_weight", 1.0),
        ("huber_c", "objective.huber_c", 0.1),
        ("network_alpha", "network.alpha", 1.0),
    ],
)
def test_a_zero_that_the_gui_drops_is_what_kohya_ran(
    tmp_path: Path, key: str, path: str, ran: float
) -> None:
    found = gui(tmp_path, epoch=1, **{key: 0})
    assert value(found, path) == ran
    assert row(found, key).status == "translated"
    assert row(found, key).value == "0"
    assert "ran with" in row(found, key).note
    kept = gui(tmp_path, epoch=1, **{key: 0.5})
    assert value(kept, path) == 0.5


def test_a_dropped_learning_rate_is_two_millionths(tmp_path: Path) -> None:
    found = gui(tmp_path, learning_rate=0, unet_lr=0, text_encoder_lr=0)
    assert (value(found, "optim.lr"), value(found, "optim.te_lr")) == (2e-6, 2e-6)


def test_one_rate_of_zero_switches_that_part_off(tmp_path: Path) -> None:
    unet = gui(tmp_path, unet_lr=0, text_encoder_lr=1e-4)
    assert (value(unet, "optim.unet_lr"), value(unet, "optim.te_lr")) == (0.0, 1e-4)
    te = gui(tmp_path, unet_lr=1e-4, text_encoder_lr=0.0)
    assert (value(te, "optim.unet_lr"), value(te, "optim.te_lr")) == (1e-4, 0.0)


def test_seed_zero_is_drawn_in_the_gui_and_a_seed_elsewhere(tmp_path: Path) -> None:
    assert value(gui(tmp_path, seed=0), "train.seed") is None
    assert value(gui(tmp_path, seed=7), "train.seed") == 7
    assert value(toml(tmp_path, "seed = 0\n"), "train.seed") == 0


@pytest.mark.parametrize(
    ("keys", "epochs", "steps"),
    [
        ({"epoch": 6, "max_train_steps": 0}, 6, None),
        ({"epoch": 6, "max_train_steps": ""}, 6, None),
        ({"epoch": 6, "max_train_steps": 300}, 300, 300),
        ({"epoch": 6, "max_train_steps": 300, "max_train_epochs": 4}, 4, None),
        ({}, 1600, 1600),
    ],
)
def test_which_length_counts_in_the_gui(
    tmp_path: Path, keys: dict[str, Any], epochs: int, steps: int | None
) -> None:
    found = gui(tmp_path, **keys)
    assert (value(found, "train.epochs"), value(found, "train.max_steps")) == (epochs, steps)


def test_epochs_for_a_step_limit_are_counted_where_the_pictures_are(tmp_path: Path) -> None:
    folder = tmp_path / "img" / "5_cat"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"")
    found = gui(
        tmp_path, train_data_dir=str(tmp_path / "img"), max_train_steps=100, train_batch_size=2
    )
    assert value(found, "train.epochs") == 10


def test_keys_that_are_not_sent_for_a_type_have_no_effect(tmp_path: Path) -> None:
    found = gui(tmp_path, conv_dim=16, factor=8)
    assert row(found, "conv_dim").status == row(found, "factor").status == "no effect"
    assert value(found, "network.targets") == "attn-mlp"
    lycoris = gui(tmp_path, LoRA_type="LyCORIS/LoCon")
    assert (value(lycoris, "network.conv_rank"), value(lycoris, "network.conv_alpha")) == (1, 1.0)
    assert value(lycoris, "network.targets") == "full"


def test_lycoris_reads_the_text_false_as_on(tmp_path: Path) -> None:
    found = gui(tmp_path, LoRA_type="LyCORIS/LoKr", network_dim=8, decompose_both=False)
    assert value(found, "network.decompose_both") is True
    assert "network.decompose_both" in row(found, "decompose_both").note


def test_additional_parameters_win_over_the_form(tmp_path: Path) -> None:
    words = '--min_snr_gamma=7 --network_args "conv_dim=4" --nothing_known 3'
    found = gui(tmp_path, min_snr_gamma=1, additional_parameters=words)
    assert value(found, "objective.min_snr_gamma") == 7.0
    assert value(found, "network.conv_rank") == 4
    assert row(found, "additional_parameters: --nothing_known").status == "unknown"


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    words = "--wandb_api_key sesame --huggingface_token=sesame"
    found = gui(tmp_path, wandb_api_key="sesame", additional_parameters=words)
    assert "sesame" not in repr(found)


def test_a_network_file_decides_its_own_sizes(tmp_path: Path) -> None:
    weights = tmp_path / "a.safetensors"
    found = gui(tmp_path, network_weights=str(weights), network_dim=64, network_alpha=8)
    assert value(found, "network.weights") == weights
    assert value(found, "network.rank") is None
    assert row(found, "network_dim").settings == ("network.weights",)


# what is left out -----------------------------------------------------------------------------


def test_values_that_no_recipe_can_have_are_left_out_and_told(tmp_path: Path) -> None:
    found = gui(tmp_path, train_batch_size=512, save_precision="fp8", unet_lr=1e-4)
    assert value(found, "train.batch_size") is None
    told = row(found, "train_batch_size")
    assert (told.status, told.settings) == ("unsupported", ())
    assert "Batch size must be" in told.note
    assert row(found, "save_precision").status == "unsupported"


def test_different_rates_of_an_adaptive_optimizer_are_told(tmp_path: Path) -> None:
    found = gui(tmp_path, optimizer="Prodigy", learning_rate=1, unet_lr=1, text_encoder_lr=0.5)
    assert value(found, "optim.te_lr") is None
    assert row(found, "text_encoder_lr").status == "unsupported"


def test_arguments_that_an_optimizer_lacks_are_told(tmp_path: Path) -> None:
    found = gui(tmp_path, optimizer_args="weight_decay=0.2 slice_p=11 nonsense")
    assert value(found, "optim.weight_decay") == 0.2
    assert value(found, "optim.arguments") == ()
    assert row(found, "optimizer_args: slice_p").status == "unsupported"
    assert row(found, "optimizer_args: nonsense").status == "unsupported"


def test_a_misspelt_key_names_the_nearest() -> None:
    found = import_file(FILES / "gui_new_lokr.json")
    told = row(found, "shuffle_captoin")
    assert (told.status, told.note) == ("unknown", "did you mean shuffle_caption?")


def test_a_missing_data_set_file_is_told_and_one_that_was_asked_for_refused(
    tmp_path: Path,
) -> None:
    found = toml(tmp_path, 'dataset_config = "gone.toml"\n')
    assert row(found, "dataset_config").status == "unsupported"
    with pytest.raises(EngineError):
        import_file(tmp_path / "train.toml", tmp_path / "gone.toml")
    told = import_file(tmp_path / "train.toml", FILES / "one_folder.toml")
    assert value(told, "data.repeats") == 3


# hostile files --------------------------------------------------------------------------------


def test_all_wrong_types_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        gui(
            tmp_path, train_batch_size={"a": 1}, learning_rate=[1], epoch="many", v2="maybe",
            resolution=True, max_resolution="wide", network_args=7, optimizer_args=[1, 2],
        )  # fmt: skip
    paths = [problem.path for problem in caught.value.problems]
    assert set(paths) >= {"train_batch_size", "learning_rate", "epoch", "v2", "max_resolution"}
    assert all(problem.where.endswith("gui.json") for problem in caught.value.problems)


def test_text_of_the_file_stays_inert(tmp_path: Path) -> None:
    evil = "\x1b]0;evil\x07[bold]"
    found = gui(tmp_path, **{evil: evil, "training_comment": evil, "metadata_title": "a\nb"})
    for one in found.rows:
        assert (one.key + one.value + one.note).isprintable()
    assert "\x1b" not in value(found, "save.comment")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[1]", b'{"LoRA_type": ', b"\xff\xfe\x00", b"{" * 100000, b"[" * 100000,
        b'{"LoRA_type": "Standard", "seed": NaN}', b'{"LoRA_type": "Standard", "seed": 1e999}',
        b'{"LoRA_type": "Standard", "seed": ' + b"9" * 5000 + b"}", b"x = " + b"[" * 5000,
        b'{"LoRA_type": "FLUX", "flux1_checkbox": true}', b'{"train_text_encoder": true}',
        b'{"network_dim": 8, "' + b"k" * 5_000_000 + b'": 1}', b"datasets = 3\nseed = []\n",
        b'[[datasets]]\nsubsets = "x"\n', b"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 3\n",
        b'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nnum_repeats = "2"\n',
        b'network_module = "networks.lora_flux"\n', b'network_module = "lycoris.kohya"\n'
        b'network_args = ["algo=abba"]\n', b"train_network.py --x 'open",
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.cfg"
    path.write_bytes(content)
    with pytest.raises((UsageError, RecipeError)) as caught:
        import_file(path)
    assert all(str(problem) and str(problem).isprintable() for problem in caught.value.problems)


def test_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.json"):
        with pytest.raises(UsageError):
            import_file(path)


# tables ---------------------------------------------------------------------------------------


def test_the_tables_name_real_settings_and_do_not_overlap() -> None:
    paths = {one.path for one in settings()}
    assert {field.path for field in FIELDS} <= paths
    every = [*BY_NAME, *HANDLED, *IDLE, *UNSUPPORTED]
    doubled = {name for name in every if every.count(name) > 1}
    assert doubled <= {"sample_every_n_epochs", "sample_every_n_steps"}
    keys = {path.removeprefix("network.") for path in paths if path.startswith("network.")}
    assert set(NETWORK_ARGS.values()) <= keys
    assert set(OPTIMIZERS.values()) == set(KINDS)
    row = setting("sample.sampler")
    assert row is not None
    assert set(KOHYA_NAMES.values()) <= set(row.choices)
