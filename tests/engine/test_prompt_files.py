"""Files of prompts: lines, JSON and TOML, kohya's among them, with every mistake and its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import RecipeError
from engine.prompt_files import all_prompts, read_prompt_file
from engine.prompts import Prompt, line_of, parse_prompts

KOHYA = [
    {
        "prompt": "a cat",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 768,
        "seed": 3,
        "sample_steps": 20,
        "scale": 6.5,
        "sample_sampler": "euler_a",
    },
    {"prompt": "a\ndog", "negative_prompt": "", "sample_sampler": "k_lms"},
    "a bird --d 4",
]
READ = [
    Prompt("a cat", 512, 768, 3, 20, 6.5, "blurry", "euler_a"),
    Prompt("a dog", sampler="lms"),
    Prompt("a bird", seed=4),
]


def test_json_of_lines_and_of_kohyas_objects(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps(KOHYA))
    assert read_prompt_file(file) == (READ, [])


def test_text_file(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\ufeff# mine\n\na cat --ss unipc\n", encoding="utf-8")
    assert read_prompt_file(file) == ([Prompt("a cat", sampler="unipc")], [])


@pytest.mark.parametrize(
    "text",
    [
        'prompts = ["a --w 64", {prompt = "b", width = 64}]',
        '[[prompts]]\nprompt = "a"\nwidth = 64\n[[prompts]]\nprompt = "b"\nwidth = 64',
        '[[prompt]]\nprompt = "a"\nwidth = 64\n[[prompt]]\nprompt = "b"\nwidth = 64',
        '[prompt]\nwidth = 64\n[[prompt.subset]]\nprompt = "a"\n[[prompt.subset]]\nprompt = "b"',
    ],
)
def test_toml(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.toml"
    file.write_text(text)
    assert read_prompt_file(file) == ([Prompt("a", 64), Prompt("b", 64)], [])


def test_lines_and_file_are_added_up_and_their_mistakes_too(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    wrong = [{"prompt": "a --w 64", "foo": 1, "height": 100, "seed": True}, 5, "b --w 3"]
    file.write_text(json.dumps(wrong))
    with pytest.raises(RecipeError) as error:
        all_prompts(["x --q 1"], file)
    told = [
        (problem.where.removeprefix(str(file)), problem.what) for problem in error.value.problems
    ]
    assert [place for place, _ in told] == [
        "sample.prompts, line 1, column 3",
        ", prompt 1",
        ", prompt 1",
        ", prompt 1",
        ", prompt 1",
        ", prompt 2",
        ", prompt 3, line 1, column 3",
    ]
    words = " ".join(what for _, what in told)
    assert all(part in words for part in ('"foo"', "looks like a flag", "seed must be", '"100"'))
    file.write_text('["b"]')
    assert all_prompts(["a"], file) == (Prompt("a"), Prompt("b"))


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("p.json", b"{}", "must hold a list"),
        ("p.json", b"[" * 100_000, "cannot be read"),
        ("p.json", b"\xff\xfe", "cannot be read"),
        ("p.toml", b"a = 1", "holds no prompts"),
        ("p.toml", b"a = ", "cannot be read"),
        ("p.csv", b"a", "This kind of file"),
        ("p.txt", b"a" * 1_000_001, "larger than"),
    ],
)
def test_a_broken_file_is_said(tmp_path: Path, name: str, body: bytes, words: str) -> None:
    file = tmp_path / name
    file.write_bytes(body)
    prompts, (problem,) = read_prompt_file(file)
    assert prompts == [] and words in str(problem) and problem.path == "sample.prompts_file"
    assert str(file) in problem.where


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    _, (problem,) = read_prompt_file(tmp_path / "none.txt")
    assert "No such file" in problem.what


def test_text_in_an_object_is_never_a_comment(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('[{"prompt": "#hashtag"}]')
    _, (problem,) = read_prompt_file(file)
    assert "cannot begin" in problem.what


@pytest.mark.parametrize("prompt", [*READ, Prompt("", seed=1), Prompt("d 20 dice", guidance=0.0)])
def test_a_line_holds_all_of_a_prompt(prompt: Prompt) -> None:
    assert parse_prompts([line_of(prompt)]) == (prompt,)
