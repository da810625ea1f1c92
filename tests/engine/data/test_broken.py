"""A corpus of broken data sets, one defect for each folder: the right check names each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image

from engine.data.buckets import BucketRules
from engine.data.checks import CHECKS
from engine.data.findings import Finding, merged
from engine.data.folders import FolderOverride
from engine.data.placing import check_placements
from engine.data.survey import Survey, SurveyRules, survey
from engine.errors import DataError, UsageError

Break = Callable[[Path], SurveyRules | None]


def paint(path: Path, size: tuple[int, int] = (64, 64), colour: str = "red", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def missing(root: Path) -> SurveyRules:
    return SurveyRules(folder=root / "nowhere")


def a_file(root: Path) -> SurveyRules:
    return SurveyRules(folder=paint(root / "a.png"))


def both(root: Path) -> None:
    paint(root / "a.png")
    paint(root / "10_dog" / "b.png")


def nothing(root: Path) -> None:
    (root / "readme.txt").write_text("no pictures here")


def only_junk(root: Path) -> None:
    paint(root / ".ipynb_checkpoints" / "a.png")


def one_level_deeper(root: Path) -> None:
    paint(root / "img" / "10_dog" / "a.png")


def empty_concept(root: Path) -> None:
    paint(root / "10_dog" / "a.png")
    (root / "5_cat").mkdir()


def all_off(root: Path) -> None:
    paint(root / "0_dog" / "a.png")
    paint(root / "0_cat" / "a.png")


def twice_by_link(root: Path) -> None:
    paint(root / "10_dog" / "a.png")
    (root / "5_dog").symlink_to(root / "10_dog")


def reg_is_training(root: Path) -> SurveyRules:
    paint(root / "10_dog" / "a.png")
    return SurveyRules(folder=root, reg_folder=root / "10_dog")


def unknown_setting(root: Path) -> SurveyRules:
    paint(root / "10_dog" / "a.png")
    return SurveyRules(folder=root, overrides={"10_dgo": FolderOverride(repeats=3)})


def negative(root: Path) -> None:
    paint(root / "-3_dog" / "a.png")


def a_date(root: Path) -> None:
    paint(root / "20230512_dog" / "a.png")


def mistyped(root: Path) -> None:
    paint(root / "10-dog" / "a.png")


def odd_but_read(root: Path) -> None:
    paint(root / "10__dog" / "a.png")


def one_off(root: Path) -> None:
    paint(root / "0_dog" / "a.png")
    paint(root / "1_cat" / "a.png")


def nested(root: Path) -> None:
    paint(root / "10_dog" / "a.png")
    paint(root / "10_dog" / "more" / "b.png")


def hidden_folder(root: Path) -> None:
    paint(root / "10_dog" / "a.png")
    paint(root / "__MACOSX" / "b.png")


def dangling(root: Path) -> None:
    paint(root / "a.png")
    (root / "b.png").symlink_to(root / "gone.png")


def loop(root: Path) -> None:
    paint(root / "a.png")
    (root / "b.png").symlink_to(root / "c.png")
    (root / "c.png").symlink_to(root / "b.png")


def folder_loop(root: Path) -> None:
    paint(root / "10_dog" / "a.png")
    (root / "20_cat").symlink_to(root)


def pipe(root: Path) -> None:
    paint(root / "a.png")
    os.mkfifo(root / "b.png")


def pipe_caption(root: Path) -> None:
    paint(root / "a.png")
    os.mkfifo(root / "a.txt")


def a_socket(root: Path) -> None:
    paint(root / "a.png")
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(root)  # The name of a socket is limited to about 100 bytes.
        try:
            one.bind("b.png")
        finally:
            os.chdir(here)


def outside(root: Path) -> None:
    paint(root / "10_dog" / "a.png")
    (root / "10_dog" / "b.png").symlink_to(paint(root.parent / "elsewhere.png", colour="blue"))


def link_twice(root: Path) -> None:
    paint(root / "a.png")
    (root / "b.png").symlink_to(root / "a.png")


def dotfile(root: Path) -> None:
    paint(root / "a.png")
    (root / "._a.png").write_bytes(b"resource fork")


def heic(root: Path) -> None:
    paint(root / "a.png")
    (root / "b.heic").write_bytes(b"....ftypheic")


def html(root: Path) -> None:
    paint(root / "a.png")
    (root / "b.jpg").write_text("<html>404</html>")


def cut(root: Path) -> None:
    paint(root / "a.png")
    whole = paint(root / "b.jpg", (200, 200)).read_bytes()
    (root / "b.jpg").write_bytes(whole[: len(whole) // 2])


def empty_file(root: Path) -> None:
    paint(root / "a.png")
    (root / "b.png").touch()


def huge(root: Path) -> SurveyRules:
    paint(root / "b.png", (1100, 1000))
    return SurveyRules(folder=root, max_megapixels=1)


def rotated(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(root / "b.jpg", exif=exif)


def alpha(root: Path) -> None:
    Image.new("RGBA", (64, 64), (1, 2, 3, 4)).save(root / "b.png")


def animated(root: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(root / "b.gif", save_all=True, append_images=frames[1:])


def cmyk(root: Path) -> None:
    Image.new("CMYK", (64, 64)).save(root / "b.jpg")


def same_stem(root: Path) -> None:
    paint(root / "b.png")
    paint(root / "b.jpg", colour="blue")


def no_caption(root: Path) -> None:
    paint(root / "10_dog" / "b.png")


def no_text(root: Path) -> None:
    paint(root / "10" / "b.png")


def blank_caption(root: Path) -> None:
    paint(root / "b.png")
    (root / "b.txt").write_text("\nsecond line")


def latin_1(root: Path) -> None:
    paint(root / "b.png")
    (root / "b.txt").write_bytes("Mädchen, Größe".encode("latin-1"))


def bom(root: Path) -> None:
    paint(root / "b.png")
    (root / "b.txt").write_text("dog", encoding="utf-8-sig")


def novel(root: Path) -> None:
    paint(root / "b.png")
    (root / "b.txt").write_text("word " * 20_000)


def wrong_extension(root: Path) -> None:
    paint(root / "b.png")
    (root / "b.tags").write_text("dog")


def mixed_extensions(root: Path) -> None:
    paint(root / "b.png")
    paint(root / "c.png")
    (root / "b.txt").write_text("dog")
    (root / "c.caption").write_text("cat")


def only_caption(root: Path) -> None:
    paint(root / "b.png")
    (root / "b.caption").write_text("dog")


def orphan(root: Path) -> None:
    paint(root / "a.png")
    (root / "b.txt").write_text("dog")


def no_trigger(root: Path) -> SurveyRules:
    paint(root / "b.png")
    (root / "b.txt").write_text("a dog")
    return SurveyRules(folder=root, trigger="vexilo", text="vexilo dog")


def other_text(root: Path) -> SurveyRules:
    paint(root / "10_sks dog" / "b.png")
    return SurveyRules(folder=root / "10_sks dog", text="vexilo dog")


def open_brace(root: Path) -> SurveyRules:
    paint(root / "b.png")
    (root / "b.txt").write_text("a {red|blue dog")
    return SurveyRules(folder=root, wildcards=True)


def no_mask(root: Path) -> SurveyRules:
    paint(root / "dog" / "b.png")
    (root / "masks").mkdir()
    return SurveyRules(folder=root / "dog", masks="folder", mask_folder=root / "masks")


def broken_mask(root: Path) -> SurveyRules:
    rules = no_mask(root)
    (root / "masks" / "b.png").write_bytes(b"<html>")
    return rules


def small_mask(root: Path) -> SurveyRules:
    rules = no_mask(root)
    paint(root / "masks" / "b.png", (10, 20), colour="white")
    return rules


def black_mask(root: Path) -> SurveyRules:
    rules = no_mask(root)
    paint(root / "masks" / "b.png", colour="black")
    return rules


def clear_picture(root: Path) -> SurveyRules:
    Image.new("RGBA", (64, 64)).save(root / "b.png")
    return SurveyRules(folder=root, masks="alpha", text="dog")


def mask_of_two(root: Path) -> SurveyRules:
    paint(root / "1_dog" / "b.png")
    paint(root / "1_cat" / "b.png", colour="#00ff00")
    paint(root.parent / "masks" / "b.png", colour="white")
    return SurveyRules(folder=root, masks="folder", mask_folder=root.parent / "masks")


def no_mask_folder(root: Path) -> SurveyRules:
    paint(root / "b.png")
    return SurveyRules(folder=root, masks="folder", mask_folder=root / "nowhere")


def too_small(root: Path) -> None:
    paint(root / "b.png", (50, 50))


def thin(root: Path) -> None:
    paint(root / "b.png", (64, 600))


CORPUS: dict[str, list[tuple[Break, tuple[str, ...]]]] = {
    "folder missing": [(missing, ()), (a_file, ())],
    "leaf and parent": [(both, ())],
    "no image": [(nothing, ()), (only_junk, ())],
    "wrong level": [(one_level_deeper, ())],
    "empty concept": [(empty_concept, ())],
    "nothing to train": [(all_off, ())],
    "duplicate folder": [(twice_by_link, ()), (reg_is_training, ())],
    "unknown folder": [(unknown_setting, ("10_dgo",))],
    "bad folder name": [(negative, ()), (a_date, ())],
    "odd folder name": [(mistyped, ())],
    "folder name": [(odd_but_read, ())],
    "switched off": [(one_off, ())],
    "nested folder": [(nested, ("more",))],
    "skipped folder": [(hidden_folder, ("__MACOSX",))],
    "broken link": [(dangling, ("b.png",)), (loop, ("b.png", "c.png"))],
    "odd link": [(folder_loop, ("20_cat",))],
    "special picture": [(pipe, ("b.png",)), (a_socket, ("b.png",))],
    "special file": [(pipe_caption, ("a.txt",))],
    "link outside": [(outside, ("b.png",))],
    "link twice": [(link_twice, ("b.png",))],
    "hidden file": [(dotfile, ("._a.png",))],
    "foreign format": [(heic, ("b.heic",))],
    "not decodable": [(html, ("b.jpg",))],
    "truncated": [(cut, ("b.jpg",)), (empty_file, ("b.png",))],
    "bomb": [(huge, ("b.png",))],
    "rotated": [(rotated, ("b.jpg",))],
    "alpha": [(alpha, ("b.png",))],
    "animated": [(animated, ("b.gif",))],
    "converted": [(cmyk, ("b.jpg",))],
    "shared stem": [(same_stem, ("b.jpg", "b.png"))],
    "caption missing": [(no_caption, ("b.png",))],
    "no caption text": [(no_text, ("b.png",))],
    "caption empty": [(blank_caption, ("b.txt",))],
    "caption encoding": [(latin_1, ("b.txt",))],
    "caption BOM": [(bom, ("b.txt",))],
    "caption too long": [(novel, ("b.txt",))],
    "caption extension": [(wrong_extension, ())],
    "caption extensions mixed": [(mixed_extensions, ())],
    "caption extension other": [(only_caption, ())],
    "caption without image": [(orphan, ("b.txt",))],
    "trigger missing": [(no_trigger, ())],
    "text from settings": [(other_text, ())],
    "wildcard braces": [(open_brace, ("b.txt",))],
    "mask missing": [(no_mask, ("b.png",))],
    "mask unreadable": [(broken_mask, ("b.png",))],
    "mask size": [(small_mask, ("b.png",))],
    "mask empty": [(black_mask, ("b.png",)), (clear_picture, ("b.png",))],
    "mask shared": [(mask_of_two, ("b.png",))],
    "mask folder": [(no_mask_folder, ())],
    "too small": [(too_small, ("b.png",))],
    "cropped": [(thin, ("b.png",))],
    "enlarged": [(too_small, ("b.png",))],
}
# "vanished" needs a change in the middle of a run and has a test of its own; "unreadable" needs a
# user who is not root; the others need a tokenizer, a second resolution, or a small step.
ELSEWHERE = {"vanished", "unreadable", "caption cut", "resolution skipped", "lonely buckets"}


def look(root: Path, breaking: Break, *, no_upscale: bool) -> tuple[Survey, tuple[Finding, ...]]:
    found = survey(breaking(root) or SurveyRules(folder=root), workers=1)
    rules = BucketRules(64, 64, 64, 1024 if not no_upscale else 128, 32, no_upscale)
    _, placing = check_placements(found.items, rules)
    return found, merged(found.findings, placing)


CASES = [
    pytest.param(check, breaking, files, id=f"{check}-{breaking.__name__}")
    for check, rows in CORPUS.items()
    for breaking, files in rows
]


@pytest.mark.parametrize(("check", "breaking", "files"), CASES)
def test_each_defect_is_named_by_its_check(
    tmp_path: Path, check: str, breaking: Break, files: tuple[str, ...]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    _, findings = look(root, breaking, no_upscale=check not in ("enlarged", "cropped"))
    named = {finding.check: finding for finding in findings}
    assert check in named, sorted(named)
    assert named[check].level == CHECKS[check].level
    assert named[check].files == files
    assert named[check].message
    if CHECKS[check].level == "error":
        # One defect, one error: nothing else is blamed (a damaged caption may leave no text).
        errors = {finding.check for finding in findings if finding.level == "error"}
        assert errors == {check}


REFUSED = [
    pytest.param(check, breaking, files, id=f"{check}-{breaking.__name__}")
    for check, rows in CORPUS.items()
    for breaking, files in rows
    if CHECKS[check].level == "error" and check != "too small"  # Which placing refuses.
]


@pytest.mark.parametrize(("check", "breaking", "files"), REFUSED)
def test_errors_refuse_and_name_folder_rule_and_remedy(
    tmp_path: Path, check: str, breaking: Break, files: tuple[str, ...]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    found, _ = look(root, breaking, no_upscale=True)
    with pytest.raises((DataError, UsageError)) as caught:
        found.raise_errors()
    usage = check in ("folder missing", "leaf and parent")
    assert caught.value.exit_code == (2 if usage else 4)
    text = str(caught.value)
    assert str(root) in text
    assert all(name in text for name in files)
    assert all(problem.remedy for problem in caught.value.problems)


def test_every_check_has_a_broken_data_set() -> None:
    assert CORPUS.keys() | ELSEWHERE == CHECKS.keys()


def test_unreadable_files_and_folders_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "10_dog" / "a.png")
    (tmp_path / "5_cat").mkdir()

    def refuse(path: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    # Permissions do not bind root, whom tests may run as.
    monkeypatch.setattr("engine.data.images.open_regular", refuse)
    plain = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda path: refuse(path) if path.name == "5_cat" else plain(path)
    )
    found = survey(SurveyRules(folder=tmp_path))
    named = [finding for finding in found.findings if finding.check == "unreadable"]
    assert {(Path(one.folder).name, one.files) for one in named} == {
        ("10_dog", ("a.png",)),
        ("5_cat", ()),
    }


def test_a_sound_data_set_has_no_finding(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / "10_vexilo emblem" / f"{number}.png", colour=f"#0000{number}0")
        (tmp_path / "10_vexilo emblem" / f"{number}.txt").write_text("vexilo emblem, blue")
    found = survey(SurveyRules(folder=tmp_path, trigger="vexilo"))
    assert found.findings == ()
    found.raise_errors()
