"""What a setting does, what the guides say about it, and this run's numbers.

The texts are data: `presets/guides/<section>.md`, a heading `## section.key` for each setting. A last
paragraph that begins with "Here: " holds placeholders for numbers of the run; of it only those
sentences are shown whose numbers are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine.errors import Problem, UsageError
from engine.settings.names import find_setting, nearest_key
from engine.settings.walk import Setting, algorithms, sections, settings
from lyctui.run_numbers import COMPUTED, PLACEHOLDERS, products, run_numbers
from presets import GUIDES_PATH

__all__ = [
    "COMPUTED",
    "PLACEHOLDERS",
    "GuideText",
    "explain",
    "explained",
    "filled",
    "find",
    "guides",
    "missing_texts",
    "placeholders",
    "read_guides",
    "run_numbers",
]

HERE = "Here: "
COUNTED = "cycle|epoch|file|layer|line|minute|picture|repeat|sample|step|tag|thread|time|worker"
"""What the texts count, for a single one."""


@dataclass(frozen=True, slots=True)
class GuideText:
    """The explanation of one setting."""

    path: str
    text: str
    """Paragraphs, separated by empty lines."""
    here: str = ""
    """Sentences with placeholders, without the leading "Here: "."""


# explaining -----------------------------------------------------------------------------------


def explain(name: str, numbers: Mapping[str, str] | None = None) -> str:
    """The guide text of a setting, with this run's numbers where they are known.

    `name` is a path, a bare key or a near name ("batch size"); `numbers` come from `run_numbers`.
    Empty for a setting that has no text. Raises UsageError for an unknown name.
    """
    guide = guides().get(find(name).path)
    if guide is None:
        return ""
    here = filled(guide.here, numbers or {})
    return f"{guide.text}\n\n{HERE}{here}" if here else guide.text


def explained(name: str, numbers: Mapping[str, str] | None = None) -> str:
    """Everything about a setting: name, help, type, default, then its guide text.

    The name of a section gives a list of its settings.
    """
    if name.strip().strip("[]") in sections():
        return _section_list(name.strip().strip("[]"))
    row = find(name)
    lines = [f"{row.path} · {row.label}", row.help, "", f"Type: {row.type}."]
    lines.append(f"Default: {row.default_text}.")
    if row.algorithms and len(row.algorithms) < len(algorithms()):
        lines.append(f"Only for {', '.join(row.algorithms)}.")
    text = explain(row.path, numbers)
    if text:
        lines += ["", text]
    if row.path in RELATED:
        lines += ["", f"See also: {', '.join(RELATED[row.path])}"]
    return "\n".join(lines)


def _section_list(name: str) -> str:
    rows = [row for row in settings() if row.section == name]
    return "\n".join([sections()[name], "", *(f"{row.path}: {row.help}" for row in rows)])


RELATED = {
    "data.captions": ("data.trigger", "data.keep_tokens", "data.shuffle_tags"),
    "data.keep_tokens": ("data.shuffle_tags", "data.tag_dropout", "data.captions"),
    "data.reg_folder": ("data.reg_ratio", "objective.prior_loss_weight"),
    "data.repeats": ("train.epochs",),
    "network.alpha": ("network.rank", "optim.lr"),
    "network.rank": ("network.alpha", "network.algorithm"),
    "objective.prior_loss_weight": ("data.reg_folder", "data.reg_ratio"),
    "optim.lr": ("optim.te_lr", "network.alpha", "train.batch_size"),
    "train.batch_size": ("train.accumulation", "train.checkpointing", "optim.lr"),
    "train.epochs": ("data.repeats", "save.every_epochs"),
}


def find(name: str) -> Setting:
    """The setting that a name means; raises UsageError with the nearest one."""
    row = find_setting(name)
    if row is not None:
        return row
    near = nearest_key(name)
    remedy = f"Did you mean {near}?" if near else "`lyctui explain` lists every setting."
    raise UsageError(Problem(f'There is no setting "{name}".', remedy=remedy, path=name))


def filled(template: str, numbers: Mapping[str, str]) -> str:
    """The sentences whose placeholders are all known, with their values."""
    known = _resolved(numbers)
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z{])", template)
    shown = []
    for sentence in sentences:
        needed = placeholders(sentence)
        if needed and all(known.get(name) for name in needed):
            shown.append(re.sub(r"\{(\w+)\}", lambda found: known[found[1]], sentence))
    return _singular(" ".join(shown))


def _singular(words: str) -> str:
    """ "1 repeats" as people say it."""
    return re.sub(rf"(?<![\d.,] )(?<![\d.,])\b1 ({COUNTED})s\b", r"1 \1", words)


def placeholders(template: str) -> set[str]:
    """Names in braces."""
    return set(re.findall(r"\{(\w+)\}", template))


def _resolved(numbers: Mapping[str, str]) -> dict[str, str]:
    """Numbers by placeholder; dotted paths are accepted too, and what follows from them is computed."""
    known = {
        name: str(numbers.get(name) or numbers.get(path) or "")
        for name, path in PLACEHOLDERS.items()
    }
    known |= {name: str(numbers.get(name, "")) for name in COMPUTED}
    for name, value in products(known).items():
        known[name] = known.get(name) or value
    return known


# the files ------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def guides() -> dict[str, GuideText]:
    """Every explanation by dotted path."""
    found: dict[str, GuideText] = {}
    for name in sections():
        path = GUIDES_PATH / f"{name}.md"
        if path.is_file():
            for guide in read_guides(path):
                found[guide.path] = guide
    return found


def read_guides(path: Path) -> list[GuideText]:
    """The explanations of one file, in its order."""
    parts = re.split(r"(?m)^## +(\S+) *$", path.read_text("utf-8"))
    return [_guide(name, body) for name, body in zip(parts[1::2], parts[2::2], strict=True)]


def _guide(name: str, body: str) -> GuideText:
    """Lines of a paragraph are joined: a screen breaks them where it wants."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", body) if part.strip()]
    here = ""
    if paragraphs and paragraphs[-1].startswith(HERE):
        here = paragraphs.pop().removeprefix(HERE)
    return GuideText(name, "\n\n".join(paragraphs), here)


def missing_texts() -> list[str]:
    """Basic and advanced settings without an explanation."""
    return [row.path for row in settings() if row.level != "expert" and row.path not in guides()]
