"""Sample prompts: text, then flags at the end of the line.

A flag is `--`, a known letter, a space and a valid value. Everything before the first flag is the
prompt; "64 -- bit" or "well--known" are text like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from engine.errors import Problem, RecipeError
from engine.sampler_names import SAMPLER_NAMES, SamplerName, sampler_named

SETTING = "sample.prompts"
FLAG = re.compile(r"(?:^|(?<=\s))--(?=[^\W\d_])")
"""Two dashes at the beginning of a word that begins with a letter."""
SMALLEST_SIDE, LARGEST_SIDE, SIDE_STEP = 64, 4096, 8
MOST_STEPS = 1000
LARGEST_SEED = 2**32 - 1
LARGEST_GUIDANCE = 50.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """One picture to make; None takes the run's own value."""

    text: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    sampler: SamplerName | None = None


def parse_prompts(lines: Iterable[str]) -> tuple[Prompt, ...]:
    """Prompts of some lines; blank lines and # comments are skipped. RecipeError with every mistake."""
    prompts, problems = read_lines(lines)
    if problems:
        raise RecipeError(*problems)
    return tuple(prompts)


def read_lines(
    lines: Iterable[str], where: str = SETTING, setting: str = SETTING
) -> tuple[list[Prompt], list[Problem]]:
    """Prompts of some lines and every mistake; `where` names what the lines are counted in."""
    prompts: list[Prompt] = []
    problems: list[Problem] = []
    split = (line for text in lines for line in text.splitlines())
    for number, line in enumerate(split, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        prompt, wrong = parse_prompt(line)
        prompts.append(prompt)
        problems += [
            Problem(what, f"{where}, line {number}, column {column}", remedy, setting)
            for column, what, remedy in wrong
        ]
    return prompts, problems


Mistake = tuple[int, str, str]


def parse_prompt(line: str) -> tuple[Prompt, list[Mistake]]:
    """One line's prompt, and its mistakes as (column, what, remedy)."""
    starts = [match.start() for match in FLAG.finditer(line)]
    text = line[: starts[0]] if starts else line
    values: dict[str, int | float | str] = {}
    mistakes: list[Mistake] = []
    for start, end in zip(starts, [*starts, len(line)][1:], strict=True):
        word, _, value = line[start:end].strip().partition(" ")
        letter = word.removeprefix("--")
        reader = READERS.get(letter)
        if reader is None:
            mistakes.append((start + 1, f'"{word[:40]}" is no flag.', KNOWN))
            continue
        name, read, rule = reader
        if name in values:
            mistakes.append((start + 1, f'"{word}" stands twice.', "Keep one of them."))
            continue
        read_value = read(value.strip())
        if read_value is None:
            what = f'"{word} {value.strip()[:40]}" is not valid: {rule}.'
            mistakes.append((start + 1, what, "Flags stand at the end of the line."))
            continue
        values[name] = read_value
    return _prompt(text.strip(), values), mistakes


def _prompt(text: str, values: dict[str, int | float | str]) -> Prompt:
    def whole(name: str) -> int | None:
        value = values.get(name)
        return value if isinstance(value, int) else None

    guidance, negative = values.get("guidance"), values.get("negative")
    sampler = values.get("sampler")
    return Prompt(
        text,
        width=whole("width"),
        height=whole("height"),
        seed=whole("seed"),
        steps=whole("steps"),
        guidance=float(guidance) if guidance is not None else None,
        negative=negative if isinstance(negative, str) else None,
        sampler=next((name for name in SAMPLER_NAMES if name == sampler), None),
    )


def prompt_of(text: str, values: Mapping[str, str]) -> tuple[Prompt, list[str]]:
    """A prompt of its text and of values as text by flag letter; and what is wrong, in words."""
    read: dict[str, int | float | str] = {}
    wrong: list[str] = []
    for letter, value in values.items():
        name, reader, rule = READERS[letter]
        found = reader(value.strip())
        if found is None:
            wrong.append(f'"{value.strip()[:40]}" is not valid: {rule}.')
        else:
            read[name] = found
    return _prompt(text, read), wrong


def line_of(prompt: Prompt) -> str:
    """The prompt as one line with flags: the inverse of `parse_prompt` for every prompt from a line."""
    flags = {
        "n": prompt.negative,
        "w": prompt.width,
        "h": prompt.height,
        "d": prompt.seed,
        "s": prompt.steps,
        "l": None if prompt.guidance is None else f"{prompt.guidance:g}",
        "ss": prompt.sampler,
    }
    parts = [f"--{letter} {value}" for letter, value in flags.items() if value is not None]
    return " ".join([prompt.text, *parts] if prompt.text else parts)


def _whole(value: str, low: int, high: int) -> int | None:
    if not re.fullmatch(r"[0-9]{1,10}", value):
        return None
    number = int(value)
    return number if low <= number <= high else None


def _side(value: str) -> int | None:
    number = _whole(value, SMALLEST_SIDE, LARGEST_SIDE)
    return number if number is not None and number % SIDE_STEP == 0 else None


def _guidance(value: str) -> float | None:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{0,6})?", value):
        return None
    number = float(value)
    return number if math.isfinite(number) and number <= LARGEST_GUIDANCE else None


Reader = Callable[[str], int | float | str | None]
SIDE_RULE = f"a multiple of {SIDE_STEP} from {SMALLEST_SIDE} to {LARGEST_SIDE}"
READERS: dict[str, tuple[str, Reader, str]] = {
    "w": ("width", _side, SIDE_RULE),
    "h": ("height", _side, SIDE_RULE),
    "d": ("seed", lambda value: _whole(value, 0, LARGEST_SEED), f"0 to {LARGEST_SEED}"),
    "s": ("steps", lambda value: _whole(value, 1, MOST_STEPS), f"1 to {MOST_STEPS}"),
    "l": ("guidance", _guidance, f"a number from 0 to {LARGEST_GUIDANCE:g}"),
    "n": ("negative", lambda value: value or None, "words that the picture should not show"),
    "ss": (
        "sampler",
        sampler_named,
        f"one of {', '.join(SAMPLER_NAMES)}",
    ),
}
KNOWN = (
    "Known flags: --w 512 --h 512 --d 1 (seed) --s 30 (steps) --l 7.5 (guidance) --n words "
    "--ss euler_a (sampler)."
)
