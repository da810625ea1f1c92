"""A recipe written as kohya's command and read back is the same wherever kohya has the setting."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as sized
from hypothesis import strategies as st

from engine.data.folders import read_folders
from engine.kohya.export import Exported, export
from engine.kohya.load import import_file
from engine.kohya.names import KOHYA_CONV
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.walk import settings

WORDS = st.text("abc XYZ-_'\"$\\#äß", max_size=12).filter(lambda text: text == text.strip())
SHARE = st.integers(0, 99).map(lambda number: number / 100)
RATE = st.sampled_from([1e-6, 5e-5, 1e-4, 0.003, 1.0])
ON = st.booleans()


def fixed(**values: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A section whose keys are drawn."""
    return st.fixed_dictionaries(values)


MODEL = fixed(
    path=st.just("/m/my base.safetensors"),
    family=st.sampled_from(["sd1", "sd2", "sdxl"]),
    prediction=st.sampled_from(["epsilon", "v"]),
    clip_skip=st.integers(1, 3),
    max_tokens=st.sampled_from([75, 150, 225]),
    weighted_prompts=st.just(False),
)
DATA = fixed(
    folder=st.just("/d/pictures"),
    layout=st.sampled_from(["leaf", "parent"]),
    repeats=st.integers(1, 9),
    trigger=st.sampled_from(["zwx", ""]),
    class_word=st.just(""),
    captions=ON,
    caption_extension=st.sampled_from([".txt", ".caption"]),
    shuffle_tags=ON,
    keep_tokens=st.integers(0, 3),
    keep_separator=st.sampled_from(["", "|||"]),
    tag_dropout=SHARE,
    caption_dropout=SHARE,
    prefix=WORDS,
    suffix=WORDS,
    resolution=st.sampled_from([[512, 512], [640, 448]]),
    more_resolutions=st.sampled_from([[], [768]]),
    buckets=ON,
    no_upscale=ON,
    bucket_max=st.sampled_from([1024, 1536]),
    flip=ON,
    colour=st.just(False),
    cache_latents=st.sampled_from(["disk", "ram", "off"]),
    masked_loss=st.sampled_from(["off", "alpha"]),
    mask_mean=st.just("picture"),
    cache_text=st.none(),
    validation=SHARE.map(lambda share: share / 2),
)
PLAIN = fixed(
    algorithm=st.just("lora"),
    rank=st.integers(1, 64),
    alpha=st.sampled_from([0.0, 0.5, 16.0, 181.02]),
    dropout=SHARE,
    rank_dropout=SHARE,
    module_dropout=SHARE,
    max_norm=SHARE,
)
SIZED = {"rank": st.integers(1, 64), "alpha": st.sampled_from([0.0, 8.0])}
LYCORIS = st.one_of(
    fixed(
        algorithm=st.sampled_from(["locon", "loha"]),
        targets=st.sampled_from(["full-lin", "attn-only", "unet-only"]),
        conv_rank=st.sampled_from([None, 0, 8]),
        conv_alpha=st.sampled_from([None, 0.0, 4.0]),
        scalar=ON,
        dora=st.sampled_from(["off", "input", "output"]),
        train_norm=ON,
        **SIZED,
    ),
    fixed(
        algorithm=st.just("lokr"),
        rank=st.sampled_from([4, 32, "full"]),
        alpha=st.just(1.0),
        factor=st.sampled_from([-1, 4, 8]),
        unbalanced=ON,
    ),
    fixed(algorithm=st.just("dylora"), rank=st.just(16), alpha=st.just(8.0), block_size=st.just(8)),
    fixed(algorithm=st.just("glora"), **SIZED),
    fixed(
        algorithm=st.sampled_from(["diag-oft", "boft"]),
        rank=st.just(8),
        constraint=SHARE,
        rescaled=ON,
    ),
    fixed(algorithm=st.sampled_from(["ia3", "full"]), module_dropout=SHARE),
)
OPTIM = fixed(
    optimizer=st.sampled_from(["adamw", "adamw8bit", "lion", "adafactor", "came", "rmsprop"]),
    lr=RATE,
    te_lr=st.one_of(st.just(0.0), RATE),
    unet_lr=st.one_of(st.none(), RATE),
    weight_decay=st.sampled_from([None, 0.0, 0.1]),
    max_grad_norm=st.sampled_from([0.0, 0.5, 1.0]),
)
SCHEDULE = fixed(
    scheduler=st.sampled_from(
        ["cosine", "polynomial", "rex", "warmup_stable_decay", "cosine_with_min_lr"]
    ),
    warmup_percent=st.integers(0, 999).map(lambda number: number / 10),
    power=st.sampled_from([1.0, 2.5]),
    cycles=st.integers(1, 4),
    min_lr_ratio=SHARE,
    decay_percent=st.integers(0, 100).map(float),
)
OBJECTIVE = fixed(
    min_snr_gamma=st.sampled_from([0.0, 1.0, 5.0]),
    noise_offset=SHARE,
    adaptive_noise_scale=st.sampled_from([-0.1, 0.0, 0.2]),
    multires_iterations=st.integers(0, 8),
    multires_discount=SHARE,
    ip_noise_gamma=SHARE,
    zero_terminal_snr=ON,
    debiased=ON,
    loss=st.sampled_from(["l2", "l1", "huber", "smooth_l1"]),
    huber_c=st.sampled_from([0.1, 0.5]),
    prior_loss_weight=st.sampled_from([0.0, 1.0, 2.0]),
    p2_gamma=st.sampled_from([0.0, 0.5]),
)
TRAIN = fixed(
    epochs=st.integers(1, 20),
    batch_size=st.integers(1, 8),
    accumulation=st.integers(1, 4),
    max_steps=st.sampled_from([None, 700]),
    precision=st.sampled_from(["no", "fp16", "bf16"]),
    checkpointing=ON,
    seed=st.sampled_from([None, 0, 7, 2**32 - 1]),
)
SAVE = fixed(
    every_epochs=st.integers(0, 3),
    every_steps=st.sampled_from([0, 100]),
    precision=st.sampled_from(["fp16", "bf16", "fp32"]),
    keep_last=st.sampled_from([None, 3]),
    metadata=st.sampled_from(["full", "private", "minimal"]),
    comment=WORDS,
    title=WORDS,
)
RUN = fixed(name=st.just("two words"), folder=st.just("/out put"), wandb=ON, tensorboard=ON)
SAMPLE = fixed(
    every_epochs=st.integers(0, 2),
    every_steps=st.sampled_from([0, 50]),
    at_start=ON,
    prompts=st.sampled_from([[], ["a hill --s 20"], ["a hill --ss dpmpp_2m"]]),
    sampler=st.sampled_from(["ddim", "euler_a", "unipc", "dpmpp_2m"]),
)
RECIPES = fixed(
    model=MODEL,
    data=DATA,
    network=PLAIN | LYCORIS,
    optim=OPTIM,
    schedule=SCHEDULE,
    objective=OBJECTIVE,
    train=TRAIN,
    save=SAVE,
    run=RUN,
    sample=SAMPLE,
)


def read_back(exported: Exported, folder: Path) -> Recipe:
    """The recipe of the command and its files."""
    (folder / "data set.toml").write_text(exported.dataset, encoding="utf-8")
    (folder / "prompts.txt").write_text(exported.prompts, encoding="utf-8")
    command = folder / "cmd.sh"
    command.write_text(exported.text("data set.toml"), encoding="utf-8")
    return import_file(command).recipe


def different(before: Recipe, after: Recipe, exported: Exported) -> dict[str, tuple[Any, Any]]:
    """Settings that came back otherwise though the command was to hold them."""
    if before.network.algorithm != after.network.algorithm:
        return {"network.algorithm": (before.network.algorithm, after.network.algorithm)}
    found = {}
    for row in settings(before):
        if row.path in exported.differences or row.path in exported.elsewhere:
            continue
        values = [getattr(getattr(one, row.section), row.key) for one in (before, after)]
        if values[0] != values[1]:
            found[row.path] = (values[0], values[1])
    return found


@sized(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=RECIPES)
def test_what_kohya_has_comes_back(data: dict[str, Any], tmp_path: Path) -> None:
    recipe = parse(data)
    exported = export(recipe)
    assert different(recipe, read_back(exported, tmp_path), exported) == {}


@pytest.mark.parametrize(
    "data",
    [
        {"train": {"network_precision": "bf16", "precision": "bf16"}},
        {"model": {"weighted_prompts": True}},
        {"network": {"algorithm": "locon", "targets": "full", "tucker": True}},
        {
            "network": {
                "algorithm": "locon",
                "targets": "full",
                "conv_rank": 4,
                "conv_alpha": 2.0,
                "overrides": [{"pattern": KOHYA_CONV, "exclude": True}],
            }
        },
        {"optim": {"optimizer": "prodigy", "d_coef": 2.0, "arguments": ["weight_decouple=False"]}},
        {"optim": {"optimizer": "adafactor", "arguments": ["eps1=1e-30", "eps2=0.01"]}},
        {"optim": {"loraplus_ratio": 16.0}},
        {"schedule": {"scheduler": "piecewise_constant", "rules": "1:5,0.1"}},
        {"schedule": {"warmup_steps": 30}},
        {"schedule": {"scheduler": "cosine_with_min_lr", "min_lr_ratio": 0.1}},
        {"schedule": {"scheduler": "warmup_stable_decay", "decay_percent": 0.0}},
        {"save": {"every_steps": 10, "keep_last": 1}},
        {
            "network": {
                "algorithm": "locon",
                "targets": "full",
                "conv_rank": 0,
                "conv_alpha": 0.0,
                "overrides": [{"pattern": KOHYA_CONV, "exclude": True}],
            }
        },
        {"data": {"captions": False}},
    ],
)
def test_what_goes_another_way_comes_back(data: dict[str, Any], tmp_path: Path) -> None:
    base: dict[str, Any] = {"model": {"family": "sd1", "prediction": "epsilon"}}
    recipe = parse({**base, **data, "model": base["model"] | data.get("model", {})})
    exported = export(recipe)
    after = read_back(exported, tmp_path)
    for section, content in data.items():
        for key in content:
            assert getattr(getattr(after, section), key) == getattr(getattr(recipe, section), key)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optim.te_stop_percent", 40.0),
        ("train.ema_decay", 0.99),
        ("data.reg_ratio", 2.0),
        ("objective.p2_gamma", 1.0),
        ("objective.timestep_shape", "cosine"),
        ("save.every_minutes", 5.0),
        ("data.background", "black"),
    ],
)
def test_what_kohya_lacks_stands_in_a_comment(path: str, value: Any) -> None:
    section, key = path.split(".")
    exported = export(parse({section: {key: value}}))
    assert path in exported.differences
    assert f"# - {path}: " in exported.text()


@pytest.mark.parametrize("named", [True, False])
def test_folders_are_told_by_their_names_or_by_a_data_set_file(tmp_path: Path, named: bool) -> None:
    folder = tmp_path / "img" / ("5_zwx cat" if named else "zwx cat")
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"")
    recipe = parse({"data": {"folder": str(tmp_path / "img"), "layout": "parent"}})
    exported = export(recipe, concepts=read_folders(tmp_path / "img").concepts)
    names = {option.name for option in exported.options}
    assert ("train_data_dir" in names) is named
    assert (exported.dataset == "") is named
    if not named:
        assert 'class_tokens = "zwx cat"' in exported.dataset
        assert f'image_dir = "{folder}"' in exported.dataset


def test_the_command_has_one_option_a_line_and_survives_a_shell(tmp_path: Path) -> None:
    recipe = parse({"model": {"path": "/a b/it's $x.safetensors", "family": "sdxl"}})
    text = export(recipe).text()
    command = text[text.index("accelerate") :]
    assert command.startswith("accelerate launch sdxl_train_network.py \\\n  --")
    words = shlex.split(command)
    assert f"--pretrained_model_name_or_path={recipe.model.path}" in words
    assert all(line.count(" --") == 1 for line in command.splitlines()[1:])


def written(data: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Options of the command for a recipe."""
    return {option.name: option.values for option in export(parse(data)).options}


@pytest.mark.parametrize("name", ["cosine_with_min_lr", "warmup_stable_decay"])
def test_the_lowest_rate_is_always_written(name: str) -> None:
    options = written({"schedule": {"scheduler": name, "cycles": 3}})
    assert options["lr_scheduler_min_lr_ratio"] == ("0.1",)
    assert "lr_scheduler_num_cycles" not in options
    assert "lr_scheduler_min_lr_ratio" not in written({"schedule": {"scheduler": "cosine"}})


def test_rex_does_not_bend_the_polynomial_in_its_place() -> None:
    assert "lr_scheduler_power" not in written({"schedule": {"scheduler": "rex", "power": 3.0}})


def test_samplers_of_prompts_get_kohyas_names() -> None:
    prompts = ["a --ss dpmpp_2m --n b", "--ss unipc --s 9"]
    exported = export(parse({"sample": {"prompts": prompts, "steps": 20}}))
    lines = exported.prompts.splitlines()
    assert lines[0].startswith("a --ss dpmsolver++ --")
    assert lines[0].endswith(" --n b")
    assert lines[1].startswith("--s 9 ")
    assert "unipc" in exported.differences["sample.prompts"]
    known = export(parse({"sample": {"prompts": ["a hill --ss euler_a"]}}))
    assert "sample.prompts" not in known.differences


def test_a_limit_of_norms_beside_lycoris_is_told() -> None:
    lycoris = export(parse({"network": {"algorithm": "loha", "max_norm": 1.0}}))
    assert "network.max_norm" in lycoris.differences
    plain = {"algorithm": "lora", "targets": "attn-mlp", "max_norm": 1.0}
    assert "network.max_norm" not in export(parse({"network": plain})).differences
    off = export(parse({"network": {"algorithm": "loha"}}))
    assert "network.max_norm" not in off.differences


def test_files_of_epochs_are_counted_and_those_of_steps_reach_back() -> None:
    both = {"every_epochs": 2, "every_steps": 50, "keep_last": 3}
    options = written({"save": both})
    assert (options["save_last_n_epochs"], options["save_last_n_steps"]) == (("3",), ("100",))
    assert "save.keep_last" in export(parse({"save": both})).differences


def test_a_folder_of_masks_is_told(tmp_path: Path) -> None:
    data = {"masked_loss": "folder", "mask_folder": str(tmp_path)}
    exported = export(parse({"data": data}))
    assert "data.mask_folder" in exported.differences
    assert "conditioning_data_dir" not in {option.name for option in exported.options}
