"""The pages of the wizard: their order, and which settings each one asks. Every setting is on one page."""

from __future__ import annotations

from dataclasses import dataclass

from lyctui.fields import FormField, form_fields


@dataclass(frozen=True, slots=True)
class Step:
    """One page: at most seven questions stay open, the rest of its sections unfolds."""

    name: str
    question: str
    first: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    """Settings that the page asks in a way of its own, outside the form."""


STEPS: tuple[Step, ...] = (
    Step("goal", "What do you want to teach?"),
    Step(
        "model",
        "Which base model do you train on?",
        ("model.path", "model.prompt_style"),
        ("model",),
    ),
    Step(
        "dataset",
        "Which pictures?",
        (
            "data.folder",
            "data.trigger",
            "data.class_word",
            "data.repeats",
            "data.captions",
            "data.reg_folder",
        ),
        ("data",),
    ),
    Step(
        "network",
        "What kind of network?",
        ("network.rank", "network.alpha", "network.factor", "network.targets"),
        ("network",),
        ("network.algorithm",),
    ),
    Step(
        "training",
        "How is it trained?",
        (
            "train.batch_size",
            "data.resolution",
            "train.epochs",
            "optim.optimizer",
            "optim.lr",
            "train.precision",
            "train.checkpointing",
        ),
        ("optim", "schedule", "train", "objective"),
    ),
    Step(
        "samples",
        "Which pictures and files do you want on the way?",
        (
            "sample.prompts",
            "sample.every_epochs",
            "save.every_epochs",
            "run.name",
            "save.copy_to",
        ),
        ("sample", "save", "run"),
    ),
    Step("review", "Is this what you want?"),
)
NAMES = tuple(step.name for step in STEPS)
_ELSEWHERE = {"data.resolution": "training"}
LEVELS = ("basic", "advanced", "expert")


def step(name: str) -> Step:
    """A page by name; the first one for a name of another version."""
    return next((one for one in STEPS if one.name == name), STEPS[0])


def page_of(path: str) -> str:
    """The page that asks a setting."""
    if path in _ELSEWHERE:
        return _ELSEWHERE[path]
    section = path.partition(".")[0]
    return next((one.name for one in STEPS if section in one.sections), "review")


def page_fields(page: str, algorithm: str, depth: int = 0) -> tuple[FormField, ...]:
    """Fields of a page: the first ones, with depth 1 also the advanced, with 2 the expert ones."""
    chosen = step(page)
    every = {one.path: one for one in form_fields(algorithm)}
    first = [every[path] for path in chosen.first if path in every]
    rest = [
        one
        for one in every.values()
        if page_of(one.path) == page and one.path not in (*chosen.first, *chosen.own)
    ]
    # What is basic but not among the first seven comes first when the page unfolds.
    rest.sort(key=lambda one: LEVELS.index(one.level))
    deepest = 0 if depth == 0 else depth + 1
    return (*first, *(one for one in rest if LEVELS.index(one.level) < deepest))
