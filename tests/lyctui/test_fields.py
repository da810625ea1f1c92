"""Settings as form fields: every one has a kind, its text leads back to its value."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.network import Override
from engine.settings.toml import write_recipe
from lyctui.draft import Draft, plain_value
from lyctui.fields import (
    FieldError,
    algorithms,
    form_field,
    form_fields,
    from_text,
    path_text,
    shown_value,
    suggestion,
    text_path,
    to_text,
)
from lyctui.steps import NAMES, page_fields, page_of, step


@pytest.mark.parametrize("algorithm", algorithms())
def test_every_default_survives_the_way_through_its_text(algorithm: str) -> None:
    for form in form_fields(algorithm):
        value = plain_value(form.default)
        back = from_text(form, to_text(form, form.default))
        assert plain_value(back) == value or (value is None and back in (None, "")), form.path


@pytest.mark.parametrize("algorithm", algorithms())
def test_every_setting_is_asked_on_exactly_one_page(algorithm: str) -> None:
    asked = [form.path for page in NAMES for form in page_fields(page, algorithm, 2)] + [
        path for page in NAMES for path in step(page).own
    ]
    assert sorted(asked) == sorted(form.path for form in form_fields(algorithm))


@pytest.mark.parametrize("page", NAMES)
def test_no_page_opens_with_more_than_seven_questions(page: str) -> None:
    for algorithm in algorithms():
        assert len(page_fields(page, algorithm)) <= 7


def test_unfolding_goes_from_basic_to_everything() -> None:
    first, advanced, every = (page_fields("training", "lora", depth) for depth in range(3))
    assert len(first) < len(advanced) < len(every)
    assert first == advanced[: len(first)], "what was open stays where it is"
    assert all(form.level != "expert" for form in advanced)


def test_the_network_fields_follow_the_algorithm() -> None:
    assert "network.factor" in {form.path for form in form_fields("lokr", "network")}
    assert "network.factor" not in {form.path for form in form_fields("lora", "network")}
    assert page_of("data.resolution") == "training"


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.epochs", "1 920", 1920),
        ("train.epochs", " 12 ", 12),
        ("optim.lr", "1e-4", 1e-4),
        ("optim.lr", "0,5", 0.5),
        ("optim.lr", "", None),
        ("data.resolution", "512", [512, 512]),
        ("data.resolution", "640x448", [640, 448]),
        ("data.resolution", "640 × 448", [640, 448]),
        ("optim.betas", "0.9, 0.99", [0.9, 0.99]),
        ("train.checkpointing", "YES", True),
        ("train.checkpointing", "", None),
        ("data.flip", "off", False),
        ("schedule.scheduler", "Cosine", "cosine"),
        ("sample.prompts", "a dog\n\n  a cat \n", ["a dog", "a cat"]),
        ("data.trigger", " vexilo ", "vexilo"),
        ("data.prefix", "by me, ", "by me, "),
        ("data.folders", "10_a: repeats=3, flip=yes\nb",
         [{"name": "10_a", "repeats": 3, "flip": True}, {"name": "b"}]),
    ],
)  # fmt: skip
def test_text_becomes_a_value(path: str, text: str, value: object) -> None:
    assert from_text(form_field(path), text) == value


def test_a_mixed_rank_takes_a_number_or_the_word() -> None:
    rank = form_field("network.rank", "lokr")
    assert from_text(rank, "8") == 8 and from_text(rank, "Full") == "full"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("train.epochs", "ten"),
        ("train.epochs", "1.5"),
        ("optim.lr", "fast"),
        ("optim.lr", "nan"),
        ("optim.lr", "inf"),
        ("data.flip", "maybe"),
        ("schedule.scheduler", "round"),
        ("data.resolution", "512x512x3"),
        ("optim.betas", "0.9"),
        ("data.folders", "a: colour=red"),
    ],
)
def test_text_that_is_no_value_says_what_is_expected(path: str, text: str) -> None:
    form = form_field(path)
    with pytest.raises(FieldError) as caught:
        from_text(form, text)
    problem = caught.value.problem
    assert problem.path == path
    assert form.label in problem.what and text in problem.what


def test_numbers_are_shown_as_people_type_them() -> None:
    rate = form_field("optim.lr")
    assert [to_text(rate, value) for value in (1e-4, 0.5, 1.0, 0.00025, None)] == [
        "1e-4", "0.5", "1", "2.5e-4", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", [b"plain", b"caf\xe9", "初音ミク".encode(), b"new\nline", b"esc\x1b[31m", b"a b"]
)
def test_any_path_can_be_shown_and_typed(name: bytes) -> None:
    path = Path(os.fsdecode(b"/data/" + name))
    shown = path_text(path)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert text_path(shown) == path


def test_a_real_backslash_in_a_name_stays(tmp_path: Path) -> None:
    odd = tmp_path / "a\\x41"
    odd.mkdir()
    assert text_path(str(odd)) == odd


def test_home_is_short_and_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_text(tmp_path / "x") == "~/x"
    assert text_path("~/x") == tmp_path / "x"
    assert text_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_the_suggestion_names_both_values() -> None:
    rank = form_field("network.rank")
    assert suggestion(rank, 128, 16, differs=True) == "recommended 16, you set 128"
    assert suggestion(rank, 16, 16, differs=False) == ""


def test_values_for_reading_have_units() -> None:
    assert shown_value(form_field("train.seed"), None) == "drawn"
    assert "px" in shown_value(form_field("data.resolution"), (512, 640))
    assert shown_value(form_field("sample.prompts"), ("a", "b")) == "a · b"


def test_every_answer_of_a_choice_is_accepted_by_the_check() -> None:
    for form in form_fields("lora"):
        for _, text in form.options() if form.picks else ():
            if not text or form.path in ("network.algorithm",):
                continue
            draft = Draft()
            draft.set(form.path, from_text(form, text))
            checked = draft.check()
            own = [problem for problem in checked.problems if problem.path == form.path]
            # A rule across sections may speak; the value itself must be known.
            assert isinstance(checked.recipe, Recipe) or not own or "must be" not in own[0].what


ENTRY_VALUES: dict[str, object] = {
    "exclude": True,
    "algorithm": "lokr",
    "rank": 8,
    "alpha": 4.0,
    "conv_rank": 2,
    "conv_alpha": 0.5,
    "rs_lora": True,
    "tucker": False,
    "scalar": True,
    "dora": "off",
    "factor": -1,
    "decompose_both": True,
    "unbalanced": False,
    "block_size": 2,
    "detach_lower": False,
    "constraint": 1e-4,
    "rescaled": True,
    "train_on_input": True,
    "min_rank": 2,
    "mask_alpha": 1.5,
    "orthogonality": 0.1,
    "sig_type": "last",
    "use_data_init": False,
}


@pytest.mark.parametrize("key", [key for key in Override.model_fields if key != "pattern"])
def test_everything_of_an_override_survives_form_and_file(key: str) -> None:
    entry = Override.model_validate({"pattern": "mid_block.*", key: ENTRY_VALUES[key]})
    form = form_field("network.overrides")

    (typed,) = from_text(form, to_text(form, (entry,)))
    assert Override.model_validate(typed) == entry
    recipe = Recipe.model_validate({"network": {"algorithm": "lora", "overrides": [typed]}})
    assert parse(tomllib.loads(write_recipe(recipe))) == recipe
