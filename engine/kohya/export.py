"""A recipe as the command of sd-scripts that comes nearest to it, and what differs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.kohya.arguments import FIELDS, Field
from engine.kohya.command import Option, command_text
from engine.kohya.names import ENDS_LOW
from engine.kohya.source import SCRIPTS
from engine.settings import Recipe
from engine.settings.walk import number_text, setting, settings, value_text

if TYPE_CHECKING:
    from engine.data.folders import ConceptFolder

DIFFERENCES = {
    "optim.te_stop_percent": "kohya takes the option and trains the text encoders to the end",
    "optim.te2_lr": "kohya's LoRA trainers use one rate for both text encoders",
    "train.ema_decay": "kohya keeps no average of the weights",
    "data.reg_ratio": "kohya draws as many regularisation samples as training samples",
    "data.background": "kohya drops transparency: the colours below it appear",
    "data.max_megapixels": "kohya has no such limit",
    "data.keep_empty_captions": "kohya falls back to the class text",
    "data.trigger": "folder names and captions carry it",
    "data.class_word": "folder names and captions carry it",
    "objective.p2_gamma": "kohya has no P2 weighting",
    "objective.timestep_shape": "kohya draws timesteps evenly",
    "objective.timestep_mean": "kohya draws timesteps evenly",
    "objective.timestep_spread": "kohya draws timesteps evenly",
    "network.overrides": "kohya's command has no values for single layers",
    "network.train_on_input": "LyCORIS does not read it from the arguments",
    "save.every_minutes": "kohya saves by epochs or steps",
    "save.copy_to": "copy the file by hand",
    "run.csv": "kohya writes no such file",
    "run.on_disconnect": "kohya ends with its terminal",
    "run.deterministic": "kohya has no such mode",
    "sample.every_minutes": "kohya makes pictures by epochs or steps",
}
"""What has no equivalent, in words; others are told as such."""


@dataclass(slots=True)
class Draft:
    """Options and differences while they are collected."""

    recipe: Recipe
    family: str
    options: list[Option] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    """Paths of settings that the options hold."""
    elsewhere: set[str] = field(default_factory=set)
    """Paths whose value stands in another form: in a file beside the command, or as what it means."""
    differences: dict[str, str] = field(default_factory=dict)

    def value(self, path: str) -> Any:
        """A setting of the recipe; None where its network has none."""
        section, _, key = path.partition(".")
        return getattr(getattr(self.recipe, section), key, None)

    def add(self, name: str, *values: Any, paths: Sequence[str] = ()) -> None:
        """Write an option."""
        self.options.append(Option(name, tuple(written_value(value) for value in values)))
        self.written.update(paths)

    def said(self, *paths: str) -> None:
        """These settings need no option: sd-scripts does the same without."""
        self.written.update(paths)

    def differs(self, path: str, words: str) -> None:
        """Say what is otherwise there."""
        self.differences.setdefault(path, words)


@dataclass(frozen=True, slots=True)
class Exported:
    """The command and the files it needs."""

    script: str
    options: tuple[Option, ...]
    differences: dict[str, str]
    """Settings that kohya cannot have as they are, with what is otherwise there."""
    elsewhere: frozenset[str]
    dataset: str = ""
    """Text of the data set configuration; empty where folder names say it all."""
    prompts: str = ""
    """Lines of the prompt file; empty without preview pictures."""

    def text(self, dataset_name: str = "dataset.toml", prompts_name: str = "prompts.txt") -> str:
        """The command as a script; names are those of the files beside it."""
        head = [
            "The nearest command of kohya's sd-scripts, made by `lyctui export`.",
            "Run it in the folder of sd-scripts, with its environment.",
        ]
        if self.differences:
            head += ["", "What differs there:"]
            head += [f"- {path}: {words}" for path, words in self.differences.items()]
        return command_text(self.script, self.with_files(dataset_name, prompts_name), head)

    def with_files(self, dataset_name: str, prompts_name: str) -> tuple[Option, ...]:
        """The options with those that name the files."""
        more = []
        if self.dataset:
            more.append(Option("dataset_config", (dataset_name,)))
        if self.prompts:
            more.append(Option("sample_prompts", (prompts_name,)))
        return (*self.options, *more)


def export(
    recipe: Recipe,
    *,
    family: str = "",
    prediction: str = "",
    concepts: Sequence[ConceptFolder] = (),
) -> Exported:
    """The command for a recipe whose open values are filled in.

    Args:
        family: the base's, where the recipe leaves it to the file.
        prediction: likewise.
        concepts: the folders as they are on disk, where they can be read.
    """
    from engine.kohya import export_data, export_network, export_train

    found = recipe.model.family if recipe.model.family != "auto" else family
    draft = Draft(recipe, found or "sd1")
    if not found:
        draft.differs(
            "model.family", "not known without the file: SDXL needs sdxl_train_network.py"
        )
    export_data.model(draft, prediction)
    dataset = export_data.folders(draft, concepts)
    export_train.idle(draft)
    _fields(draft)
    export_data.pictures(draft)
    export_network.network(draft)
    export_train.rates(draft)
    export_train.length(draft)
    export_train.files(draft)
    prompts = export_train.samples(draft)
    # A hint for the machine, not for the result.
    draft.elsewhere.add("train.threads")
    _rest(draft)
    script = SCRIPTS[0] if draft.family == "sdxl" else SCRIPTS[1]
    return Exported(
        script,
        tuple(draft.options),
        draft.differences,
        frozenset(draft.elsewhere),
        dataset,
        prompts,
    )


def written_value(value: Any) -> str:
    """A value as sd-scripts reads it."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float)):
        return number_text(value)
    return str(value)


def _fields(draft: Draft) -> None:
    """Settings that are arguments under another name."""
    for one in FIELDS:
        _field(draft, one)


def _field(draft: Draft, one: Field) -> None:
    ends_low = draft.recipe.schedule.scheduler in ENDS_LOW
    if one.path in draft.elsewhere or (one.path == "schedule.min_lr_ratio" and ends_low):
        return
    value = draft.value(one.path)
    row = setting(one.path)
    own = row.default if row is not None else None
    if value is None and one.default is not None:
        if draft.family != "sdxl" or one.path != "data.bucket_max":
            words = f"left open here; sd-scripts takes {value_text(one.default)}"
            draft.differs(one.path, words)
            return
        value = 2048
        draft.elsewhere.add(one.path)
    draft.said(one.path)
    left_out = own if one.default is None else one.default
    if value == left_out or value is None:
        return
    if one.kind == "flag":
        if value:
            draft.add(one.name)
        return
    if isinstance(value, str) and not value.strip() and value != left_out:
        draft.differs(one.path, "blank text cannot be given there")
        return
    draft.add(one.name, value)


def _rest(draft: Draft) -> None:
    """Whatever has been written nowhere and is not as it would be anyway."""
    for row in settings(draft.recipe):
        if row.path in draft.written | draft.elsewhere or row.path in draft.differences:
            continue
        value = draft.value(row.path)
        if value == row.default:
            continue
        if isinstance(value, Path | str) and not str(value):
            continue
        words = DIFFERENCES.get(row.path, "kohya has no such setting")
        draft.differs(row.path, words)
