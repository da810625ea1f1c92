"""Drafts: answers over a preset, files that survive, lists."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.errors import RecipeError
from lyctui.draft import Draft, draft_from_recipe, drafts_folder, list_drafts


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LYCTUI_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_answers_win_over_the_preset_and_can_be_taken_back() -> None:
    draft = Draft()
    draft.choose_preset("style", {"network": {"rank": 16}, "train": {"epochs": 5}})
    assert (draft.value("network.rank"), draft.origin("network.rank")) == (16, "preset")
    draft.set("network.rank", 128)
    assert (draft.value("network.rank"), draft.origin("network.rank")) == (128, "you")
    assert draft.changed() == ("network.rank",)
    draft.clear("network.rank")
    assert draft.value("network.rank") == 16


def test_an_answer_equal_to_the_preset_is_no_change() -> None:
    draft = Draft()
    draft.choose_preset("style", {"train": {"epochs": 5}})
    draft.set("train.epochs", 9)
    draft.set("train.epochs", 5)
    assert draft.changed() == () and draft.origin("train.epochs") == "preset"


def test_another_preset_keeps_the_answers() -> None:
    draft = Draft()
    draft.choose_preset("style", {"train": {"epochs": 5}})
    draft.set("optim.lr", 2e-4)
    draft.choose_preset("character", {"train": {"epochs": 12}})
    assert draft.recipe().train.epochs == 12
    assert draft.recipe().optim.lr == 2e-4


def test_a_preset_never_says_whose_files() -> None:
    draft = Draft()
    draft.choose_preset(
        "odd", {"model": {"path": "/x"}, "run": {"name": "n"}, "train": {"epochs": 3}}
    )
    assert draft.preset_values == {"train.epochs": 3}


def test_only_settings_of_the_algorithm_are_sent() -> None:
    draft = Draft()
    draft.set("network.algorithm", "lokr")
    draft.set("network.factor", 4)
    assert draft.recipe().network.algorithm == "lokr"
    draft.set("network.algorithm", "lora")
    assert "factor" not in draft.data()["network"], "LoRA has no factor"
    assert draft.answers["network.factor"] == 4, "but going back finds it again"


def test_a_presets_rank_says_nothing_about_another_algorithm() -> None:
    draft = Draft()
    draft.choose_preset("style", {"network": {"algorithm": "lora", "rank": 16, "targets": "full"}})
    draft.set("network.algorithm", "lokr")
    network = draft.recipe().network
    assert network.rank is None and network.targets == "full"


def test_problems_come_all_at_once_with_their_paths() -> None:
    draft = Draft()
    draft.set("optim.lr", -1)
    draft.set("train.epochs", 0)
    checked = draft.check()
    assert checked.recipe is None
    assert {problem.path for problem in checked.problems} == {"optim.lr", "train.epochs"}
    assert checked.at("optim.lr") is not None and checked.at("data.repeats") is None
    with pytest.raises(RecipeError):
        draft.recipe()


def test_a_draft_comes_back_as_it_was_saved() -> None:
    draft = Draft(page="network", visited=["goal", "model"], consent_shown=True)
    draft.choose_preset("style", {"data": {"resolution": (640, 512)}})
    draft.set("data.folder", Path("/data/初音ミク"))
    path = draft.save()
    again = Draft.load(path)
    assert again.to_dict() == draft.to_dict()
    assert again.recipe() == draft.recipe()


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"/data/caf\xe9"))
    draft = Draft()
    draft.set("data.folder", odd)
    path = draft.save()
    assert path.read_text("ascii"), "the file itself is plain ASCII"
    assert os.fsencode(Draft.load(path).answers["data.folder"]) == b"/data/caf\xe9"
    assert Draft.load(path).recipe().data.folder == odd


def test_saving_leaves_no_half_file_and_no_rest(state: Path) -> None:
    draft = Draft()
    draft.set("data.trigger", "vexilo")
    draft.save()
    draft.set("data.trigger", "zwerg")
    draft.save()
    assert [one.name for one in drafts_folder().iterdir()] == [f"{draft.id}.json"]
    assert list_drafts().drafts[0].value("data.trigger") == "zwerg"


def test_the_list_is_newest_first_and_names_what_is_no_draft() -> None:
    first, second = Draft(), Draft()
    for number, draft in enumerate((first, second)):
        draft.id = f"d{number}"
        draft.set("data.trigger", f"word{number}")
        draft.save()
    (drafts_folder() / "broken.json").write_text("{")
    (drafts_folder() / "old.json").write_text(json.dumps({"version": 99}))
    found = list_drafts()
    assert [draft.id for draft in found.drafts] == ["d1", "d0"]
    assert len(found.unreadable) == 2
    first.delete()
    assert [draft.id for draft in list_drafts().drafts] == ["d1"]


def test_asking_for_drafts_creates_nothing(state: Path) -> None:
    assert list_drafts().drafts == ()
    assert not state.exists()


def test_a_hand_made_draft_with_wrong_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    good = Draft().to_dict()
    for wrong in ({"answers": ["a"]}, {"answers": {"no dots": 1}}, {"saved_at": "soon"}):
        path.write_text(json.dumps(good | wrong))
        with pytest.raises(ValueError):
            Draft.load(path)


def test_the_title_is_what_a_person_would_call_it() -> None:
    draft = Draft()
    assert draft.title == "no name yet"
    draft.set("data.folder", "/data/emblem")
    assert draft.title == "emblem"
    draft.set("data.trigger", "vexilo")
    draft.set("data.class_word", "emblem")
    assert draft.title == "vexilo emblem"


def test_a_recipe_becomes_a_draft() -> None:
    draft = draft_from_recipe(
        {"version": 1, "optim": {"lr": 2e-4}, "network": {"algorithm": "lokr"}}
    )
    assert draft.recipe().optim.lr == 2e-4 and draft.algorithm == "lokr"
