"""Recipes as files: read, written, changed."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.toml import (
    apply_sets,
    dumps,
    portable,
    read_recipe,
    read_toml,
    update_toml,
    write_recipe,
)
from engine.settings.walk import settings

FULL = {
    "model": {"path": "/m/base.safetensors", "clip_skip": 2},
    "data": {
        "folder": "/d/img",
        "reg_folder": "/d/reg",
        "trigger": 'vexi"lo',
        "resolution": [512, 640],
        "folders": [{"name": "10_dog", "repeats": 0, "flip": True}, {"name": "cat"}],
    },
    "network": {"algorithm": "lokr", "rank": "full", "factor": -1},
    "optim": {"lr": 1e-4, "te_lr": 0, "betas": [0.9, 0.99]},
    "sample": {"prompts": ["a [b] #c", "ünïcode --w 512"]},
    "save": {"copy_to": "/c/loras"},
    "train": {"seed": 0},
}


@pytest.mark.parametrize("data", [{}, FULL])
def test_what_is_written_is_read_back(tmp_path, data):
    recipe = parse(data)
    path = tmp_path / "run.toml"
    path.write_text(write_recipe(recipe), "utf-8")
    assert read_recipe(path) == recipe
    assert parse(tomllib.loads(dumps(recipe))) == recipe


def test_the_file_explains_each_setting_and_shows_the_unset_ones():
    text = write_recipe(Recipe())
    for row in settings(Recipe()):
        assert f"\n{row.key} = " in text or f"\n# {row.key} =    # blank: " in text, row.path
        assert row.help.split()[0] in text
    assert "# alpha =    # blank: half of the rank" in text
    assert max(map(len, text.splitlines())) <= 110


def test_paths_are_relative_to_the_file(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    path = folder / "a.toml"
    path.write_text(
        '[data]\nfolder = "img"\n[model]\npath = "/abs/base.ckpt"\n[run]\nfolder = "~/r"\n'
    )
    data = read_toml(path)
    assert data["data"]["folder"] == str(folder / "img")
    assert data["model"]["path"] == "/abs/base.ckpt"
    assert data["run"]["folder"] == str(Path("~/r").expanduser())


def test_paths_that_are_not_utf8_survive(tmp_path):
    odd = tmp_path / os.fsdecode(b"b\xff\xe4se.safetensors")
    odd.write_bytes(b"")
    recipe = parse({"model": {"path": odd}})
    path = tmp_path / "run.toml"
    path.write_text(write_recipe(recipe), "utf-8")
    assert read_recipe(path).model.path == odd


def test_a_real_name_with_a_backslash_is_not_decoded(tmp_path):
    plain = tmp_path / "a\\xffb"
    plain.mkdir()
    path = tmp_path / "run.toml"
    path.write_text(write_recipe(parse({"data": {"folder": plain}})), "utf-8")
    assert read_recipe(path).data.folder == plain


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[optim]\nlr = = 3\n", "line 2"),
        (b"[optim]\nlr = 1e-4\nlr = 2e-4\n", "not TOML"),
        (b'[run]\nname = "\xff"\n', "line 2 holds the byte 0xff"),
        (b"\xff\xfe[\x00", "not UTF-8"),
    ],
)
def test_a_broken_file_is_told_with_its_place(tmp_path, content, words):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=words):
        read_toml(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes("﻿[train]\nepochs = 3\n".encode())
    assert read_recipe(path).train.epochs == 3


def test_missing_files_and_folders_are_told(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe"):
        read_toml(tmp_path / "x.toml")
    with pytest.raises(RecipeError, match="a folder"):
        read_toml(tmp_path)


def test_mistakes_name_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[optim]\nlr = -1\n")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert caught.value.problems[0].where == str(path)


# changes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optim.lr=2e-4", 2e-4),
        ("optim.lr = .5", 0.5),
        ("train.epochs=12", 12),
        ("data.trigger=123", "123"),
        ("data.trigger=vexilo emblem", "vexilo emblem"),
        ('data.trigger="quo ted"', "quo ted"),
        ("data.trigger=", ""),
        ("data.separator=;", ";"),
        ("data.flip=yes", True),
        ("data.flip=false", False),
        ("data.resolution=512", [512, 512]),
        ("data.resolution=512,768", [512, 768]),
        ("data.resolution=[512, 768]", [512, 768]),
        ("data.resolution=640x448", [640, 448]),
        ("optim.betas=0.9,0.99", [0.9, 0.99]),
        ("network.alpha=", None),
        ("network.alpha=auto", None),
        ("train.seed=auto", None),
        ("network.rank=full", "full"),
        ("network.rank=8", 8),
        ("model.family=auto", "auto"),
        ("train.device=auto", "auto"),
        ("model.path=/a b/c=d.ckpt", "/a b/c=d.ckpt"),
        ("sample.prompts=a cat, sitting", ["a cat, sitting"]),
        ('sample.prompts=["a", "b"]', ["a", "b"]),
        ("sample.prompts=", []),
        ('data.folders=[{name="a", repeats=3}]', [{"name": "a", "repeats": 3}]),
    ],
)
def test_a_change_is_read_by_the_kind_of_its_setting(text, value):
    path = text.partition("=")[0].strip()
    section, _, key = path.partition(".")
    data = apply_sets({section: {"other": 1}}, [text])
    assert data[section][key] == value
    assert data[section]["other"] == 1


def test_a_setting_that_cannot_be_blank_takes_its_default_again():
    assert apply_sets({"train": {"epochs": 3}}, ["train.epochs="]) == {"train": {}}


def test_what_is_no_value_is_refused_by_the_check():
    data = apply_sets(
        {}, ["train.epochs=ten", "data.flip=perhaps", "optim.betas=1", "optim.eps=nan"]
    )
    with pytest.raises(RecipeError) as caught:
        parse(data)
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"train.epochs", "data.flip", "optim.betas", "optim.eps"}


def test_bad_changes_are_told_together_with_their_neighbours():
    with pytest.raises(RecipeError) as caught:
        apply_sets({}, ["optim.leraning_rate=3", "lr=3", "train.epochs"])
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 3
    assert "Did you mean optim.lr?" in told[0] and "Did you mean optim.lr?" in told[1]
    assert "section.key=value" in told[2]


def test_a_change_leaves_the_data_it_was_given_alone():
    data = {"optim": {"lr": 1.0}}
    apply_sets(data, ["optim.lr=2"])
    assert data == {"optim": {"lr": 1.0}}


def test_changing_a_file_keeps_its_comments():
    text = "# mine\n[optim]\n# careful\nlr = 1e-4  # slow\n\n[data]\nflip = true\n"
    changed = update_toml(
        text, {"optim.lr": 3e-4, "train.epochs": 5, "data.flip": None, "model.path": Path("/a")}
    )
    assert "# mine" in changed and "# careful" in changed and "# slow" in changed
    data = tomllib.loads(changed)
    assert data["optim"]["lr"] == 3e-4 and data["train"]["epochs"] == 5
    assert data["data"] == {} and data["model"]["path"] == "/a"


# leaving the machine --------------------------------------------------------------------------


def test_a_portable_recipe_holds_no_folder():
    text = portable(parse(FULL))
    assert "/d/" not in text and "/m/" not in text and "/c/" not in text
    recipe = parse(tomllib.loads(text))
    assert recipe.model.path == Path("base.safetensors")
    assert recipe.save.copy_to == Path("loras")
    assert recipe.optim == parse(FULL).optim


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=3))
def test_any_text_survives_the_file(trigger, prompts):
    recipe = parse({"data": {"trigger": trigger}, "sample": {"prompts": prompts}})
    assert parse(tomllib.loads(write_recipe(recipe))) == recipe
    assert parse(tomllib.loads(dumps(recipe))) == recipe
