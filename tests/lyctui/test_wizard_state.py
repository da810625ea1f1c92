"""The wizard between its pages: what is filled, why, what keeps a page from being done."""

from __future__ import annotations

from pathlib import Path

import pytest

from lyctui.draft import Draft
from lyctui.steps import NAMES
from tests.lyctui.wizard_parts import NO_GPU, filled_draft, gpu_machine, pictures, settled


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYCTUI_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LYCTUI_RUNS", str(tmp_path / "runs"))


def test_nothing_chosen_names_model_and_pictures() -> None:
    wizard = settled(Draft())
    assert wizard.first_open_page() == "model"
    assert "No base model" in wizard.page_problems("model")[0].what
    assert "No pictures" in wizard.page_problems("dataset")[0].what
    assert not wizard.reachable("review") and wizard.reachable("model")
    wizard.close()


def test_model_and_pictures_are_all_that_must_be_answered(base: Path, tmp_path: Path) -> None:
    wizard = settled(filled_draft(base, pictures(tmp_path / "emblem")))
    assert [page for page in NAMES if wizard.page_problems(page)] == []
    assert wizard.first_open_page() == "review"
    assert wizard.survey is not None and wizard.survey.decoded
    assert wizard.plan is not None and wizard.plan.steps == sum(wizard.plan.steps_per_epoch) > 0
    wizard.close()


def test_the_number_of_steps_follows_each_answer(base: Path, tmp_path: Path) -> None:
    wizard = settled(filled_draft(base, pictures(tmp_path / "emblem", 4)))
    wizard.set("train.batch_size", 2)
    wizard.set("train.epochs", 3)
    wizard.set("data.repeats", 5)
    assert wizard.settle() and wizard.plan is not None
    assert wizard.plan.steps == 4 * 5 // 2 * 3
    wizard.clear("train.epochs")
    assert wizard.settle() and wizard.plan.recipe.train.epochs == 10
    wizard.close()


@pytest.mark.parametrize("gib", [8, 12, 24])
def test_what_is_proposed_comes_from_the_memory_and_says_so(gib: float) -> None:
    wizard = settled(Draft(), gpu_machine(gib))
    values = {path: wizard.recommended(f"train.{path}") for path in ("batch_size", "checkpointing")}
    assert values["batch_size"][0] == {8: 2, 12: 4, 24: 8}[int(gib)]
    assert "free" in values["batch_size"][1].reason
    assert values["checkpointing"][0] is (gib < 24)
    assert wizard.effective("train.precision") == "bf16"
    wizard.close()


def test_a_changed_value_keeps_its_recommendation() -> None:
    draft = Draft()
    draft.choose_preset("style", {"network": {"rank": 16}})
    wizard = settled(draft)
    wizard.set("network.rank", 128)
    assert wizard.effective("network.rank") == 128 and wizard.origin("network.rank").source == "you"
    value, origin = wizard.recommended("network.rank")
    assert (value, origin.source, origin.reason) == (16, "preset", "style")
    assert wizard.effective("network.alpha") == 64, "what hangs on it is filled from it"
    wizard.close()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    wizard = settled(filled_draft(tmp_path / "none.safetensors", pictures(tmp_path / "p")))
    problems = wizard.page_problems("model")
    assert problems and "no such file" in problems[0].what.lower()
    wizard.close()


def test_a_folder_is_no_model_and_a_lora_neither(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}, lora)
    for path, words in ((lora, "not a base model"), (tmp_path, "no model")):
        wizard = settled(filled_draft(path, pictures(tmp_path / "p")))
        assert words in str(wizard.page_problems("model")[0])
        wizard.close()


def test_broken_pictures_are_found_and_named(base: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "emblem")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    wizard = settled(filled_draft(base, folder))
    found = " ".join(map(str, wizard.page_problems("dataset")))
    assert "broken.jpg" in found
    assert not wizard.reachable("network")
    (folder / "broken.jpg").unlink()
    wizard.look_again()
    assert wizard.settle() and not wizard.page_problems("dataset")
    wizard.close()


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_a_wrong_folder_says_what_is_wrong(base: Path, tmp_path: Path, make: str) -> None:
    place = tmp_path / "x"
    if make == "empty":
        place.mkdir()
    elif make == "file":
        place.write_text("no folder")
    wizard = settled(filled_draft(base, place))
    assert wizard.page_problems("dataset")
    assert all(problem.what for problem in wizard.page_problems("dataset"))
    wizard.close()


def test_only_the_newest_folder_counts(base: Path, tmp_path: Path) -> None:
    draft = filled_draft(base, pictures(tmp_path / "a", 3))
    wizard = settled(draft)
    second = pictures(tmp_path / "b", 6)
    for folder in (tmp_path / "gone", tmp_path / "a", second):
        wizard.set("data.folder", folder)
    assert wizard.settle() and wizard.survey is not None
    assert wizard.survey.training_images == 6 and wizard.plan is not None
    assert wizard.plan.images == 6
    wizard.close()


def test_wrong_answers_do_not_lose_the_good_ones(base: Path, tmp_path: Path) -> None:
    wizard = settled(filled_draft(base, pictures(tmp_path / "p")))
    wizard.set("optim.lr", 99)
    assert wizard.problem_at("optim.lr") is not None
    assert [page for page in NAMES if wizard.page_problems(page)] == ["training"]
    wizard.set("optim.lr", 2e-4)
    assert wizard.settle() and not wizard.page_problems("training")
    assert wizard.filled is not None and wizard.filled.recipe.optim.lr == 2e-4
    wizard.close()


def test_a_gpu_that_torch_cannot_use_is_found_before_the_start(base: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from engine.hardware import TorchBuild

    machine = replace(gpu_machine(12), torch=TorchBuild("2.9.0+cpu", None))
    wizard = settled(filled_draft(base, pictures(tmp_path / "p")), machine)
    assert "without CUDA" in str(wizard.page_problems("review")[0])
    wizard.set("train.device", "cpu")
    assert wizard.settle() and not wizard.page_problems("review")
    wizard.close()


def test_prediction_that_contradicts_the_file_is_refused(tmp_path: Path, base: Path) -> None:
    import shutil

    marked = tmp_path / "v.safetensors"
    shutil.copy(base, marked)
    wizard = settled(filled_draft(marked, pictures(tmp_path / "p")))
    wizard.set("model.family", "sd1")
    assert wizard.settle() and not wizard.page_problems("model")
    wizard.close()


def test_news_reach_listeners_and_stop(base: Path) -> None:
    wizard = settled(Draft())
    told: list[int] = []
    stop = wizard.listen(lambda: told.append(1))
    wizard.set("model.path", base)
    assert wizard.settle() and told
    stop()
    told.clear()
    wizard.set("model.path", base.with_name("other.safetensors"))
    assert wizard.settle() and not told
    wizard.close()


def test_the_hardware_is_read_beside_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    from lyctui.wizard import Wizard

    monkeypatch.setattr("engine.hardware.read_hardware", lambda: NO_GPU)
    wizard = Wizard(Draft())
    wizard.begin()
    assert wizard.settle() and wizard.hardware is NO_GPU and wizard.filled is not None
    wizard.close()
