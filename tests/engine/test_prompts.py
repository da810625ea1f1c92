"""Flags at the end of a prompt; everything else is text."""

from __future__ import annotations

import pytest

from engine.errors import RecipeError
from engine.prompts import Prompt, line_of, parse_prompts


def one(line: str) -> Prompt:
    (prompt,) = parse_prompts([line])
    return prompt


def test_all_flags_are_read_in_any_order() -> None:
    prompt = one("vexilo emblem --d 42 --w 512 --h 768 --s 20 --l 6.5 --n blurry, dark")
    assert prompt == Prompt(
        "vexilo emblem", 512, 768, seed=42, steps=20, guidance=6.5, negative="blurry, dark"
    )
    assert one("a --n blurry, dark --w 64").negative == "blurry, dark"
    assert one("plain") == Prompt("plain")


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("euler_a", "euler_a"),
        ("k_euler_a", "euler_a"),
        ("dpmsolver++", "dpmpp_2m"),
        ("DDIM", "ddim"),
    ],
)
def test_samplers_are_known_by_their_names_in_other_tools_too(written: str, ours: str) -> None:
    prompt = one(f"a cat --ss {written} --s 5")
    assert prompt.sampler == ours
    assert line_of(prompt) == f"a cat --s 5 --ss {ours}"


def test_a_sampler_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"k_dpm_2.*one of ddim, euler"):
        one("a cat --ss k_dpm_2")


@pytest.mark.parametrize(
    "line",
    [
        "n 64 controller photo",
        "d 20 dice",
        "a -- b",
        "a -- 5",
        "well--known",
        "w 512",
        "a --- b",
        "5 --7",
        "((masterpiece)), [red] \x1b[31mnot a colour",
    ],
)
def test_what_is_no_flag_is_text(line: str) -> None:
    assert one(line) == Prompt(line)


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ("a --w=512", 3, '"--w=512" is no flag'),
        ("a --width 512", 3, '"--width" is no flag'),
        ("cat --d 20 dice", 5, '"--d 20 dice" is not valid'),
        ("a --w 500", 3, "multiple of 8"),
        ("a --w 8", 3, "from 64"),
        ("a --w 99999999999999999999", 3, "multiple of 8"),
        ("a --w", 3, "multiple of 8"),
        ("a --n", 3, "words"),
        ("a --s 0", 3, "1 to 1000"),
        ("a --s 1001", 3, "1 to 1000"),
        ("a --d -1", 3, "0 to 4294967295"),
        ("a --d 4294967296", 3, "0 to 4294967295"),
        ("a --l inf", 3, "0 to 50"),
        ("a --l 51", 3, "0 to 50"),
        ("a --l 1e3", 3, "0 to 50"),
        ("a --w 64 --w 128", 10, "twice"),
        ("a --W 64", 3, "no flag"),
        ("a --w \u0661\u0662\u0668", 3, "multiple of 8"),
    ],
)
def test_a_wrong_flag_is_an_error_with_its_place(line: str, column: int, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_prompts([line])
    (problem,) = error.value.problems
    assert f"line 1, column {column}" in problem.where
    assert words in str(problem)
    assert problem.path == "sample.prompts"


def test_comments_and_blank_lines_are_skipped_and_still_counted() -> None:
    text = "# first\n\n  \na cat\n  # more\n--d 3"
    assert parse_prompts([text]) == (Prompt("a cat"), Prompt("", seed=3))
    with pytest.raises(RecipeError, match="line 3"):
        parse_prompts(["# a", "b", "c --x 1"])


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        parse_prompts(["a --w 1 --q 2", "fine", "b --l no"])
    assert [problem.where[-19:] for problem in error.value.problems] == [
        "s, line 1, column 3",
        "s, line 1, column 9",
        "s, line 3, column 3",
    ]


def test_bounds_are_allowed() -> None:
    prompt = one("a --w 64 --h 4096 --d 4294967295 --s 1000 --l 0")
    assert prompt == Prompt("a", 64, 4096, 4294967295, 1000, 0.0)
