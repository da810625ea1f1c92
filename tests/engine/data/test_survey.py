"""The survey: concepts, items, texts, weights, the fingerprint, and the two forms."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from engine.data.buckets import BucketRules
from engine.data.findings import Finding, shown
from engine.data.folders import FolderOverride, read_folders
from engine.data.placing import place_all
from engine.data.survey import SurveyRules, survey
from engine.errors import DataError, RecipeError


@pytest.fixture
def concepts(tmp_path: Path, picture) -> Path:
    """Two concepts and regularisation."""
    for name, count in (("10_sks dog", 3), ("free cat", 2), ("reg/1_animal", 2)):
        base = tmp_path / ("data" if "/" not in name else "")
        for number in range(count):
            picture(base / name / f"{number}.png", seed=number + len(name))
    (tmp_path / "data" / "10_sks dog" / "1.txt").write_text("sks dog, running\n")
    return tmp_path


def test_parent_concepts_items_and_texts(concepts: Path) -> None:
    rules = SurveyRules(folder=concepts / "data", reg_folder=concepts / "reg", repeats=4)
    found = survey(rules)
    assert [(c.name, c.text, c.repeats, c.is_reg, c.images) for c in found.concepts] == [
        ("10_sks dog", "sks dog", 10, False, 3),
        ("free cat", "free cat", 4, False, 2),
        ("1_animal", "animal", 1, True, 2),
    ]
    assert [item.index for item in found.items] == list(range(7))
    captions = [item.caption_raw for item in found.items]
    assert captions[:3] == ["sks dog", "sks dog, running", "sks dog"]
    assert captions[5:] == ["animal", "animal"]
    assert (found.training_images, found.reg_images, found.captioned) == (5, 2, 1)


def test_a_leaf_takes_the_text_of_trigger_and_class(tmp_path: Path, picture) -> None:
    picture(tmp_path / "holiday" / "a.png")
    found = survey(SurveyRules(folder=tmp_path / "holiday", text="vexilo emblem", repeats=7))
    assert (found.layout, found.concepts[0].text) == ("leaf", "vexilo emblem")
    assert found.concepts[0].repeats == 7
    named = picture(tmp_path / "10_sks dog" / "a.png").parent
    found = survey(SurveyRules(folder=named, repeats=7))
    assert (found.concepts[0].text, found.concepts[0].repeats) == ("sks dog", 10)


def test_the_only_free_folder_of_a_parent_takes_it_too_but_not_several(
    tmp_path: Path, picture
) -> None:
    picture(tmp_path / "pictures" / "a.png")
    rules = SurveyRules(folder=tmp_path, text="vexilo emblem")
    assert survey(rules).concepts[0].text == "vexilo emblem"
    picture(tmp_path / "more" / "a.png")
    assert [concept.text for concept in survey(rules).concepts] == ["more", "pictures"]


def test_the_recipe_wins_over_the_name(concepts: Path) -> None:
    overrides = {
        "10_sks dog": FolderOverride(repeats=0),
        "free cat": FolderOverride(repeats=2, text="zork cat", flip=True),
    }
    found = survey(SurveyRules(folder=concepts / "data", overrides=overrides))
    assert [(c.text, c.repeats) for c in found.concepts] == [("sks dog", 0), ("zork cat", 2)]
    assert {item.concept for item in found.items} == {"free cat"}
    assert all(item.flip for item in found.items)


def test_an_override_settles_a_name_that_would_be_refused(tmp_path: Path, picture) -> None:
    picture(tmp_path / "-3_dog" / "a.png")
    found = survey(
        SurveyRules(folder=tmp_path, overrides={"-3_dog": FolderOverride(repeats=3, text="dog")})
    )
    found.raise_errors()
    assert found.concepts[0].samples == 3


def test_layout_chooses_between_leaf_and_parent(tmp_path: Path, picture) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "10_dog" / "b.png")
    leaf = survey(SurveyRules(folder=tmp_path, layout="leaf", text="x"))
    parent = survey(SurveyRules(folder=tmp_path, layout="parent"))
    assert [item.image.path.name for item in leaf.items] == ["a.png"]
    assert [item.image.path.name for item in parent.items] == ["b.png"]
    assert any("beside the concepts; pictures: 1" in skip.reason for skip in parent.skipped)


def test_folders_and_files_come_in_the_order_of_their_bytes(tmp_path: Path, picture) -> None:
    for name in ("b", "B", "ä", "10", "a"):
        picture(tmp_path / f"1_{name}" / f"{name}.png")
    found = survey(SurveyRules(folder=tmp_path, text="x"))
    assert [concept.name for concept in found.concepts] == ["1_10", "1_B", "1_a", "1_b", "1_ä"]


def test_a_picture_without_picture_extension_is_found_by_its_content(
    tmp_path: Path, picture
) -> None:
    picture(tmp_path / "a.png").rename(tmp_path / "photo")
    (tmp_path / "notes.md").write_text("BM is not a bitmap")
    found = survey(SurveyRules(folder=tmp_path))
    assert [item.image.path.name for item in found.items] == ["photo"]


def test_names_of_any_bytes_are_kept_and_shown_escaped(tmp_path: Path, picture) -> None:
    name = os.fsdecode(b"10_d\xffg \x1b[31m[red]")
    folder = tmp_path / name
    picture(folder / "ü 柴犬 \\ 'x'.png")
    bad = folder / "b\n\x1b[2J.png"
    bad.write_bytes(b"no picture")
    found = survey(SurveyRules(folder=tmp_path))
    assert found.items[0].image.path.parent.name == name
    found.items[0].text.encode("utf-8")  # No lone surrogate reaches the tokenizer.
    with pytest.raises(DataError) as caught:
        found.raise_errors()
    text = str(caught.value)
    assert "\x1b" not in text and "\\xff" in text and "\\n" in text
    assert shown("ü 柴犬") == "ü 柴犬"


def test_captions_switched_off(tmp_path: Path, picture) -> None:
    picture(tmp_path / "1_dog" / "a.png")
    (tmp_path / "1_dog" / "a.txt").write_bytes(b"\xff\xfe not utf-8")
    found = survey(SurveyRules(folder=tmp_path, captions=False))
    assert found.items[0].caption_raw == "dog"
    assert found.findings == ()


def test_the_quick_form_sees_the_same_without_decoding(concepts: Path) -> None:
    rules = SurveyRules(folder=concepts / "data", reg_folder=concepts / "reg")
    quick, full = survey(rules, decode=False), survey(rules)
    assert not quick.decoded and full.decoded
    assert quick.concepts == full.concepts
    sizes = [(item.image.width, item.caption_raw, item.repeats) for item in quick.items]
    assert sizes == [(item.image.width, item.caption_raw, item.repeats) for item in full.items]
    with pytest.raises(ValueError, match="decoded"):
        quick.fingerprint()


def test_the_result_does_not_depend_on_workers(concepts: Path) -> None:
    rules = SurveyRules(folder=concepts / "data", reg_folder=concepts / "reg")
    (concepts / "data" / "free cat" / "broken.png").write_bytes(b"x")
    assert survey(rules, workers=1) == survey(rules, workers=4)


def test_the_fingerprint_follows_pictures_captions_and_weights_not_places(
    concepts: Path, picture
) -> None:
    def mark(folder: Path) -> str:
        return survey(SurveyRules(folder=folder)).fingerprint()

    first = mark(concepts / "data")
    moved = shutil.move(concepts / "data", concepts / "moved")
    folder = Path(moved)
    assert mark(folder) == first
    (folder / "10_sks dog" / "1.txt").write_text("another caption")
    changed = mark(folder)
    assert changed != first
    picture(folder / "10_sks dog" / "0.png", seed=99)
    assert mark(folder) not in (first, changed)
    before = mark(folder)
    (folder / "10_sks dog").rename(folder / "11_sks dog")
    assert mark(folder) != before


def test_progress_is_told_and_may_stop(concepts: Path) -> None:
    seen: list[tuple[int, int]] = []
    survey(SurveyRules(folder=concepts / "data"), progress=lambda *pair: seen.append(pair))
    assert seen == [(done, 5) for done in range(1, 6)]

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        survey(SurveyRules(folder=concepts / "data"), progress=stop)


def test_a_reg_folder_that_is_missing_is_named(concepts: Path) -> None:
    found = survey(SurveyRules(folder=concepts / "data", reg_folder=concepts / "nope"))
    with pytest.raises(Exception, match="nope"):
        found.raise_errors()


def test_a_free_reg_leaf_takes_the_class_word(tmp_path: Path, picture) -> None:
    picture(tmp_path / "a" / "10_sks dog" / "a.png")
    picture(tmp_path / "regs" / "a.png")
    found = survey(SurveyRules(tmp_path / "a", tmp_path / "regs", reg_text="dog", repeats=9))
    assert (found.concepts[1].text, found.concepts[1].repeats) == ("dog", 1)


def test_all_problems_come_at_once(tmp_path: Path, picture) -> None:
    picture(tmp_path / "10_dog" / "a.png")
    (tmp_path / "10_dog" / "b.png").write_bytes(b"x")
    (tmp_path / "-1_cat").mkdir()
    with pytest.raises(DataError) as caught:
        survey(SurveyRules(folder=tmp_path)).raise_errors()
    assert len(caught.value.problems) == 3


def test_many_files_are_counted_and_the_first_named() -> None:
    files = tuple(f"{number}.png" for number in range(30))
    problem = Finding("truncated", "error", "/data", files, "30 pictures are cut short.").problem()
    assert "0.png" in problem.what and "and 22 more" in problem.what


def test_skipped_paths_are_listed_with_reasons(tmp_path: Path, picture) -> None:
    picture(tmp_path / "10_dog" / "a.png")
    picture(tmp_path / "10_dog" / "inner" / "b.png")
    (tmp_path / "@eaDir").mkdir()
    listing = read_folders(tmp_path)
    assert {skip.path.name: bool(skip.reason) for skip in listing.skipped} == {
        "@eaDir": True,
        "inner": True,
    }


# Placing ------------------------------------------------------------------------------------------


def test_place_all_names_every_picture_that_is_too_small(tmp_path: Path, picture) -> None:
    picture(tmp_path / "a.png", (512, 512))
    picture(tmp_path / "b.png", (50, 50))
    picture(tmp_path / "c.png", (600, 100))
    found = survey(SurveyRules(folder=tmp_path))
    with pytest.raises(DataError) as caught:
        place_all(found.items, BucketRules(512, 512))
    text = str(caught.value)
    assert "b.png" in text and "50x50" in text and "c.png" in text and "a.png" not in text
    assert "data.no_upscale" in text
    placements = place_all(found.items, BucketRules(512, 512, no_upscale=False))
    assert len(placements) == 3


def test_wrong_bucket_rules_are_recipe_errors(tmp_path: Path, picture) -> None:
    picture(tmp_path / "a.png")
    found = survey(SurveyRules(folder=tmp_path))
    with pytest.raises(RecipeError) as caught:
        place_all(found.items, BucketRules(128, 128, 256, 32))
    assert {problem.path for problem in caught.value.problems} == {
        "data.bucket_min",
        "data.bucket_max",
    }
