"""Length, precision, saving, logging and preview pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from engine.kohya.given import Work
from engine.kohya.names import SAMPLERS
from engine.kohya.report import Row
from engine.prompts import parse_prompt

HIDDEN_STEPS = 1600
"""What sd-scripts trains where neither epochs nor steps are given."""
SAMPLES_AN_EPOCH = Callable[[Path], int]
PRECISIONS = {"float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
FLAG = re.compile(r"(?:^|\s)--(?=[A-Za-z])")


def length(work: Work, gui: bool, samples: int | None) -> None:
    """Epochs or steps. `samples` are pictures × repeats of an epoch, where the folder can be read."""
    epochs, steps = work.whole("max_train_epochs"), work.whole("max_train_steps")
    if epochs:
        work.taken("max_train_epochs", "train.epochs", epochs, "it wins over steps")
        work.row("max_train_steps", "no effect", (), "max_train_epochs wins")
        work.row("epoch", "no effect", (), "max_train_epochs wins")
        return
    work.row("max_train_epochs", "no effect", (), "blank")
    own = work.whole("epoch") if gui and not work.has("dataset_config") else None
    if not steps and own:
        work.taken(
            "epoch", "train.epochs", own, "epochs are real ones, not steps computed from them"
        )
        work.row("max_train_steps", "no effect", (), "blank or 0: the epochs count")
        return
    _steps(work, steps or HIDDEN_STEPS, hidden=not steps, samples=samples)
    words = "max_train_steps wins" if steps else "only without dataset_config"
    work.row("epoch", "no effect", (), words if gui else "no argument of sd-scripts")


def _steps(work: Work, steps: int, *, hidden: bool, samples: int | None) -> None:
    """A limit of steps, and as many epochs as they can need at most."""
    batch = max(1, int(work.values.get("train.batch_size", 1)))
    accumulation = max(1, int(work.values.get("train.accumulation", 1)))
    an_epoch = math.ceil(samples / batch / accumulation) if samples else 1
    epochs = max(1, math.ceil(steps / max(1, an_epoch)))
    work.set("train.max_steps", steps)
    work.set("train.epochs", epochs)
    note = f"an explicit limit of {steps} steps; epochs enough for it: {epochs}"
    if hidden:
        note = f"neither epochs nor steps: kohya trains {HIDDEN_STEPS} steps; {note}"
    if "max_train_steps" in work.given:
        work.row("max_train_steps", "translated", ("train.max_steps", "train.epochs"), note)
    else:
        paths = ("train.max_steps", "train.epochs")
        work.extra.append(Row("max_train_steps", "", "default", paths, f"missing: {note}"))


def precision(work: Work) -> None:
    """Half networks, attention, threads."""
    half = "fp16" if work.flag("full_fp16") else "bf16" if work.flag("full_bf16") else "fp32"
    work.default("full_bf16", "train.network_precision", half, differs=False)
    for name in ("full_fp16", "full_bf16"):
        on = bool(work.flag(name))
        note = "bf16 rounds at random here" if on and half == "bf16" else "" if on else "off"
        work.row(name, "translated" if on else "no effect", ("train.network_precision",) * on, note)
    work.set("train.attention", "sdpa")
    for name in ("xformers", "sdpa", "mem_eff_attn"):
        on = bool(work.flag(name))
        note = (
            "torch's own attention: the same result"
            if on and name != "sdpa"
            else ""
            if on
            else "off"
        )
        work.row(name, "translated" if on else "no effect", ("train.attention",) * on, note)


def saving(work: Work) -> None:
    """Files: names, precision, how many are kept."""
    name, folder = work.text("output_name"), work.path("output_dir")
    if name is not None:
        work.taken("output_name", "run.name", name, "a number is added where it is taken")
    if folder is not None:
        work.translated(
            "output_dir", "run.folder", folder, "each run gets a folder of its own there"
        )
    for key in ("output_name", "output_dir"):
        work.row(key, "no effect", (), "blank")
    _file_precision(work)
    kind = (work.text("save_model_as") or "safetensors").lower()
    note = (
        ""
        if kind == "safetensors"
        else "always safetensors: other files run code and hold no metadata"
    )
    work.row("save_model_as", "translated" if note else "taken", (), note)
    if work.flag("no_metadata"):
        work.translated("no_metadata", "save.metadata", "minimal", "what loaders need stays")
    work.row("no_metadata", "no effect", (), "off")
    _kept(work)


def _file_precision(work: Work) -> None:
    text = work.text("save_precision")
    if text is None:
        work.default("save_precision", "save.precision", "fp32", differs=True)
        work.row(
            "save_precision", "translated", ("save.precision",), "blank: as it is trained, fp32"
        )
    else:
        ours = PRECISIONS.get(text.lower(), text)
        status_same = ours == text
        work.set("save.precision", ours)
        work.row("save_precision", "taken" if status_same else "translated", ("save.precision",))


def _kept(work: Work) -> None:
    """kohya keeps the files of the last n epochs or steps; ours counts files."""
    ratio = work.whole("save_n_epoch_ratio")
    epochs = work.values.get("train.epochs")
    if ratio and epochs and "train.max_steps" not in work.values:
        every = max(1, int(epochs) // ratio)
        work.translated("save_n_epoch_ratio", "save.every_epochs", every, f"every {every} epochs")
    for name, path in (
        ("save_last_n_epochs", "save.every_epochs"),
        ("save_last_n_steps", "save.every_steps"),
    ):
        last, every = work.whole(name), int(work.values.get(path) or 0)
        if not last:
            work.row(name, "no effect", (), "blank")
        elif not every:
            work.idle(name, "nothing is saved on the way")
        else:
            files = max(1, math.ceil(last / every))
            work.translated(
                name, "save.keep_last", files, f"the last {files} of the files on the way"
            )


def logging(work: Work) -> None:
    """Trackers. Nothing leaves the machine unless wandb is named."""
    kind = (work.text("log_with") or "").lower()
    folder = work.path("logging_dir")
    if kind in ("wandb", "all"):
        work.set("run.wandb", True)
        project = work.text("log_tracker_name")
        if project:
            work.taken("log_tracker_name", "run.wandb_project", project)
    if kind in ("tensorboard", "all") or (not kind and folder is not None):
        work.set("run.tensorboard", True)
    paths = tuple(path for path in ("run.tensorboard", "run.wandb") if work.values.get(path))
    work.row("log_with", "translated" if paths else "no effect", paths, "" if paths else "blank")
    note = "logs are in the run's folder"
    work.row("logging_dir", "translated" if paths else "no effect", paths[:1], note)
    work.row("log_tracker_name", "no effect", (), "the run's name is used")


def samples(work: Work, gui: bool) -> None:
    """Preview pictures."""
    _prompts(work, gui)
    epochs, steps = work.whole("sample_every_n_epochs"), work.whole("sample_every_n_steps")
    if epochs:
        work.row("sample_every_n_steps", "no effect", (), "sample_every_n_epochs wins")
        steps = 0
    for name, value, path in (
        ("sample_every_n_epochs", epochs, "sample.every_epochs"),
        ("sample_every_n_steps", steps, "sample.every_steps"),
    ):
        work.default(name, path, value or 0, differs=False)
        work.row(
            name,
            "taken" if value else "no effect",
            (path,) if value else (),
            "" if value else "off",
        )
    sampler = work.text("sample_sampler")
    if sampler is None:
        work.set("sample.sampler", "ddim")
        work.row("sample_sampler", "no effect", (), "blank: ddim")
    elif sampler.lower() in SAMPLERS:
        ours = SAMPLERS[sampler.lower()]
        work.set("sample.sampler", ours)
        same = ours == sampler
        work.row(
            "sample_sampler",
            "taken" if same else "translated",
            ("sample.sampler",),
            "" if same else ours,
        )
    else:
        work.set("sample.sampler", "ddim")
        work.unsupported("sample_sampler", "no such sampler here; ddim is taken")


def _prompts(work: Work, gui: bool) -> None:
    name = "sample_prompts"
    found = work.given.get(name)
    work.set("sample.prompts", [])
    if found is None or not work.has(name):
        work.row(name, "no effect", (), "no preview pictures")
        return
    if not gui and isinstance(found.value, str) and "\n" not in found.value:
        path = work.path(name)
        assert path is not None
        work.taken(name, "sample.prompts_file", path, "the file is read at the start")
        return
    if isinstance(found.value, list) and all(isinstance(one, str) for one in found.value):
        text = "\n".join(found.value)
    else:
        text = work.text(name) or ""
    lines, dropped = [], []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            kept, lost = usable(line.strip())
            lines.append(kept)
            dropped += lost
    work.set("sample.prompts", lines)
    note = f"left out: {', '.join(dropped[:5])}" if dropped else "pictures have the training size"
    work.row(name, "translated" if dropped else "taken", ("sample.prompts",), note)


def usable(line: str) -> tuple[str, list[str]]:
    """A prompt without the flags that are not known here, and those flags."""
    if not parse_prompt(line)[1]:
        return line, []
    starts = [match.start() for match in FLAG.finditer(line)]
    kept, lost = line[: starts[0]].rstrip() if starts else line, []
    for start, end in zip(starts, [*starts, len(line)][1:], strict=True):
        part = line[start:end].strip()
        if parse_prompt(f"{kept} {part}")[1]:
            lost.append(part[:40])
        else:
            kept = f"{kept} {part}"
    return kept.strip(), lost
