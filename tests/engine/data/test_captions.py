"""Captions: found, decoded, counted, and drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.caption_files import Census, extension_of, read_captions
from engine.data.captions import (
    CaptionRules,
    caption_variants,
    common_leading_tags,
    draw_caption,
    longest_captions,
    split_tags,
)
from engine.data.findings import Finding, Findings


def read(folder: Path, files: dict[str, bytes], **options):
    """Captions of a folder of (empty) pictures and text files."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png")
    others = [path for path in folder.iterdir() if path.suffix.lower() != ".png"]
    findings = Findings()
    found = read_captions(folder, pictures, others, findings, **options)
    return found, {finding.check: finding for finding in findings.done()}


def test_txt_is_read_and_caption_is_accepted(tmp_path: Path) -> None:
    files = {"a.png": b"", "a.txt": b"one, two\n", "b.png": b"", "b.caption": b" three \n"}
    found, checks = read(tmp_path, files)
    assert found.texts == ("one, two", "three")
    assert "caption extensions mixed" in checks


def test_the_expected_extension_wins_where_both_are_there(tmp_path: Path) -> None:
    found, _ = read(tmp_path, {"a.png": b"", "a.txt": b"t", "a.caption": b"c"})
    assert found.texts == ("t",)
    assert found.census == Census(expected=1, second=1, both=1)
    found, _ = read(tmp_path, {}, extension="caption")
    assert found.texts == ("c",)


def test_names_match_in_any_case_but_the_exact_one_first(tmp_path: Path) -> None:
    files = {"A.png": b"", "a.png": b"", "a.TXT": b"small", "A.txt": b"big", "B.png": b""}
    found, _ = read(tmp_path, {**files, "b.txt": b"other case"})
    assert found.texts == ("big", "other case", "small")


def test_census_counts_every_kind(tmp_path: Path) -> None:
    files = {f"{name}.png": b"" for name in "abcde"}
    files |= {"a.txt": b"x", "b.caption": b"x", "c.txt": b"x", "c.caption": b"x", "d.tags": b"x"}
    found, _ = read(tmp_path, files)
    assert found.census == Census(expected=2, second=2, both=1, other=1, none=1)
    assert found.census.used == 3


def test_another_extension_is_named_with_the_setting(tmp_path: Path) -> None:
    _, checks = read(tmp_path, {"a.png": b"", "a.tags": b"x", "b.png": b"", "b.tags": b"y"})
    finding = checks["caption extension"]
    assert finding.level == "warning"
    assert ".tags" in finding.message and "data.caption_extension" in finding.remedy


def test_caches_of_other_trainers_are_no_captions(tmp_path: Path) -> None:
    found, checks = read(tmp_path, {"a.png": b"", "a.npz": b"x"})
    assert found.census == Census(none=1)
    assert "caption extension" not in checks


def test_only_caption_files_is_a_note(tmp_path: Path) -> None:
    found, checks = read(tmp_path, {"a.png": b"", "a.caption": b"x"})
    assert found.texts == ("x",)
    assert checks["caption extension other"].level == "note"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"first\nsecond", "first"),
        (b"first\r\nsecond", "first"),
        (b"first\rsecond", "first"),
        (b"\xef\xbb\xbffirst", "first"),
        ("Zöe, 柴犬".encode(), "Zöe, 柴犬"),
        (b"a\xe2\x80\xa8b", "a\u2028b"),
    ],
)
def test_the_first_line_is_the_caption(tmp_path: Path, data: bytes, text: str) -> None:
    found, checks = read(tmp_path, {"a.png": b"", "a.txt": data})
    assert found.texts == (text,)
    assert ("caption BOM" in checks) == data.startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("data", [b"", b"\n", b"  \n second line", b"\xef\xbb\xbf"])
def test_empty_captions_are_told_and_fall_back(tmp_path: Path, data: bytes) -> None:
    found, checks = read(tmp_path, {"a.png": b"", "a.txt": data})
    assert found.texts == (None,)
    assert checks["caption empty"].level == "warning"
    found, _ = read(tmp_path, {}, keep_empty=True)
    assert found.texts == ("",)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("Größe, Mädchen, Straße, schöne Bäume".encode("latin-1"), "looks like"),
        ("text in utf-16".encode("utf-16"), "UTF-16 LE"),
        ("text in utf-16".encode("utf-16-be"), "UTF-16 BE"),
    ],
)
def test_other_encodings_are_refused_and_named(tmp_path: Path, data: bytes, named: str) -> None:
    _, checks = read(tmp_path, {"a.png": b"", "a.txt": data})
    finding: Finding = checks["caption encoding"]
    assert finding.level == "error"
    assert finding.files == ("a.txt",)
    assert named in finding.details[0]
    assert finding.fix == "convert"


def test_huge_captions_are_refused(tmp_path: Path) -> None:
    found, checks = read(tmp_path, {"a.png": b"", "a.txt": b"x" * (64 * 1024 + 1)})
    assert checks["caption too long"].level == "error"
    assert found.texts == (None,)


def test_captions_without_picture_are_noted(tmp_path: Path) -> None:
    _, checks = read(tmp_path, {"a.png": b"", "a.txt": b"x", "zz.txt": b"x"})
    assert checks["caption without image"].files == ("zz.txt",)


def test_extension_spellings() -> None:
    spelt = [extension_of(text) for text in ("txt", ".TXT", "", " .caption ")]
    assert spelt == [".txt", ".txt", ".txt", ".caption"]


# Drawing ------------------------------------------------------------------------------------------

TAGS = "trigger, class, red, green, blue, , yellow"


def draw(rules: CaptionRules, *, step: int = 1, sample: int = 0, epoch: int = 1, raw: str = TAGS):
    return draw_caption(raw, rules, seed=3, step=step, sample=sample, epoch=epoch)


def test_without_rules_the_caption_stays_as_it_is() -> None:
    assert draw(CaptionRules()) == TAGS
    assert draw(CaptionRules(), raw=" a dog,  running ") == "a dog,  running"


def test_keep_counts_tags() -> None:
    rules = CaptionRules(shuffle=True, keep=1)
    drawn = [split_tags(draw(rules, step=step)) for step in range(40)]
    assert all(tags[0] == "trigger" for tags in drawn)
    assert {tags[1] for tags in drawn} == {"class", "red", "green", "blue", "yellow"}
    assert all(sorted(tags) == sorted(split_tags(TAGS)) for tags in drawn)


def test_shuffled_tags_are_joined_with_comma_and_blank_and_empty_ones_dropped() -> None:
    text = draw(CaptionRules(shuffle=True))
    assert text.count(", ") == 5 and ", ," not in text


def test_dropout_of_captions() -> None:
    assert all(draw(CaptionRules(dropout=1.0), step=step) == "" for step in range(20))
    shares = Counter(draw(CaptionRules(dropout=0.25), step=step) == "" for step in range(2000))
    assert 400 < shares[True] < 600


def test_every_nth_epoch_is_empty_counted_from_one() -> None:
    rules = CaptionRules(dropout_every=3)
    empty = [epoch for epoch in range(1, 10) if draw(rules, epoch=epoch) == ""]
    assert empty == [3, 6, 9]


def test_tag_dropout_never_drops_kept_tags() -> None:
    rules = CaptionRules(tag_dropout=1.0, keep=2)
    assert draw(rules) == "trigger, class"
    some = CaptionRules(tag_dropout=0.5, keep=2)
    drawn = {draw(some, step=step) for step in range(60)}
    assert len(drawn) > 5
    assert all(text.startswith("trigger, class") for text in drawn)


def test_prefix_and_suffix_are_added_once() -> None:
    rules = CaptionRules(prefix="vexilo,", suffix=", flat colours")
    assert draw(rules, raw="a dog") == "vexilo, a dog, flat colours"
    assert draw(rules, raw="vexilo, a dog, flat colours") == "vexilo, a dog, flat colours"
    assert draw(CaptionRules(prefix="vexilo", suffix="outdoors"), raw="") == "vexilo outdoors"
    assert draw(rules.for_reg(), raw="woman") == "woman"


def test_the_prefix_is_there_before_the_shuffle() -> None:
    rules = CaptionRules(prefix="vexilo,", shuffle=True, keep=1)
    assert all(draw(rules, step=step, raw="a, b, c").startswith("vexilo, ") for step in range(10))


@given(st.text(max_size=60), st.integers(0, 5), st.integers(0, 9), st.integers(0, 9))
def test_draws_depend_on_step_and_sample_only(raw: str, keep: int, step: int, sample: int) -> None:
    rules = CaptionRules(shuffle=True, keep=keep, tag_dropout=0.3)
    drawn = {
        draw_caption(raw, rules, seed=1, step=step, sample=sample, epoch=epoch) for epoch in (1, 2)
    }
    assert len(drawn) == 1
    assert set(split_tags(drawn.pop())) <= set(split_tags(raw))


def test_another_separator() -> None:
    rules = CaptionRules(separator=";", shuffle=True, keep=1)
    assert draw(rules, raw="one; two") == "one; two"


MARKED = "vexilo, emblem ||| red, blue;;;dark, round ||| best quality"


def test_a_separator_marks_the_part_that_is_kept_whatever_the_number() -> None:
    rules = CaptionRules(shuffle=True, tag_dropout=0.5, keep=1, keep_separator="|||")
    drawn = {draw(rules, step=step, raw=MARKED) for step in range(80)}
    assert all(text.startswith("vexilo, emblem") for text in drawn)
    assert all(text.endswith("best quality") and "|||" not in text for text in drawn)
    assert {text.split(", ")[2] for text in drawn} >= {"red", "round", "blue;;;dark"}
    # Without the mark in it a caption goes by the number, and without the setting it is a tag.
    assert draw(rules, step=3).startswith("trigger")
    literal = CaptionRules(shuffle=True)
    assert "|||" in draw(literal, raw=MARKED)


def test_the_mark_of_the_kept_part_goes_without_shuffling_too() -> None:
    rules = CaptionRules(keep_separator="|||")
    assert draw(rules, raw=MARKED) == "vexilo, emblem, red, blue;;;dark, round, best quality"


def test_the_secondary_separator_holds_tags_together_and_then_becomes_the_separator() -> None:
    rules = CaptionRules(shuffle=True, tag_dropout=0.4, secondary_separator=";;;")
    drawn = [draw(rules, step=step, raw="a, b;;;c, d, e") for step in range(60)]
    assert all(("b, c" in text) == ("b" in text) == ("c" in text) for text in drawn)
    assert any("b" not in text for text in drawn) and not any(";" in text for text in drawn)
    assert draw(CaptionRules(secondary_separator=";;;"), raw="a, b;;;c") == "a, b, c"
    assert draw(CaptionRules(), raw="a, b;;;c") == "a, b;;;c"


def test_wildcards_draw_a_line_and_an_alternative_by_step_and_sample() -> None:
    raw = "a {red|blue} dog\ntwo dogs"
    rules = CaptionRules(wildcards=True, prefix="vexilo,")
    texts = {"vexilo, a red dog", "vexilo, a blue dog", "vexilo, two dogs"}
    counts = Counter(draw(rules, step=step, raw=raw) for step in range(400))
    assert counts.keys() == texts
    assert 150 < counts["vexilo, two dogs"] < 250  # Lines are equally likely, not texts.
    assert len({draw(rules, sample=sample, raw=raw) for sample in range(30)}) == 3
    assert len({draw(rules, epoch=epoch, raw=raw) for epoch in range(1, 9)}) == 1


def test_without_wildcards_braces_are_plain_text() -> None:
    assert draw(CaptionRules(), raw="a {red|blue} dog") == "a {red|blue} dog"


def test_wildcards_are_drawn_before_tags_are_moved() -> None:
    rules = CaptionRules(wildcards=True, shuffle=True, keep=1)
    drawn = {draw(rules, step=step, raw="t, {a, b|c}") for step in range(40)}
    assert drawn == {"t, a, b", "t, b, a", "t, c"}


def test_dropout_comes_before_the_choice_of_a_line() -> None:
    rules = CaptionRules(wildcards=True, dropout=0.3)
    plain = CaptionRules(dropout=0.3)
    for step in range(60):
        dropped = draw(plain, step=step, raw="x") == ""
        assert (draw(rules, step=step, raw="{a|b}\nc") == "") == dropped


def test_wildcards_read_every_line_that_is_not_empty(tmp_path: Path) -> None:
    data = b"first, {a|b}\r\n\n  second \n"
    found, checks = read(tmp_path, {"a.png": b"", "a.txt": data}, wildcards=True)
    assert found.texts == ("first, {a|b}\nsecond",)
    assert checks == {}
    found, _ = read(tmp_path, {})
    assert found.texts == ("first, {a|b}",)


def test_braces_that_do_not_pair_are_named(tmp_path: Path) -> None:
    files = {"a.png": b"", "a.txt": b"a {b|c", "b.png": b"", "b.txt": b"ok\n:} smile"}
    _, checks = read(tmp_path, files, wildcards=True)
    finding = checks["wildcard braces"]
    assert finding.files == ("a.txt", "b.txt")
    assert "character 3" in finding.details[0] and "character 2" in finding.details[1]
    assert "\\{ and \\}" in finding.remedy
    _, checks = read(tmp_path, {})
    assert "wildcard braces" not in checks  # Braces mean nothing while wildcards are off.


def test_the_longest_text_of_each_line() -> None:
    rules = CaptionRules(wildcards=True, prefix="p,", keep_separator="|||", shuffle=True)
    assert longest_captions("a, {b|cc} ||| d\ne", rules) == ("p, a, cc, d", "p, e")


# Variants -----------------------------------------------------------------------------------------


def test_variants_name_every_text_that_can_be_drawn() -> None:
    for rules in (
        CaptionRules(),
        CaptionRules(dropout=0.5, prefix="p"),
        CaptionRules(dropout_every=2),
        CaptionRules(shuffle=True, keep=1),
        CaptionRules(tag_dropout=0.5, keep=1),
        CaptionRules(shuffle=True, tag_dropout=0.5, keep=1),
        CaptionRules(wildcards=True, dropout=0.2),
        CaptionRules(wildcards=True, shuffle=True, keep=2),
    ):
        raw = "t, {a|x {y|z}}, b\nother" if rules.wildcards else "t, a, b, c"
        variants = caption_variants(raw, rules)
        assert variants is not None
        drawn = {draw(rules, step=step, epoch=step, raw=raw) for step in range(1, 400)}
        assert drawn == set(variants)


def test_too_many_variants_are_none() -> None:
    assert caption_variants(", ".join("abcdefghij"), CaptionRules(shuffle=True)) is None
    assert caption_variants("{a|b}" * 5, CaptionRules(wildcards=True)) is None
    assert caption_variants("{a|b}" * 5, CaptionRules()) == ("{a|b}" * 5,)


def test_common_leading_tags() -> None:
    assert common_leading_tags(["x, y, red", "x, y, blue"]) == 2
    assert common_leading_tags(["x", "y"]) == 0
    assert common_leading_tags([]) == 0
