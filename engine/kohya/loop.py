"""Length, precision, saving, logging and preview pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from engine.kohya.given import Work
from engine.kohya.report import Row, Status
from engine.prompts import parse_prompt
from engine.sampler_names import sampler_named

HIDDEN_STEPS = 1600
"""What sd-scripts trains where neither epochs nor steps are given."""
SAMPLES_AN_EPOCH = Callable[[Path], int]
PRECISIONS = {"float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
FLAG = re.compile(r"(?:^|\s)--(?=[A-Za-z])")
SAMPLER_FLAG = re.compile(r"((?:^|\s)--ss +)(\S+)")


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
    epochs = _epochs(work, steps, samples) if samples else steps
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


def _epochs(work: Work, steps: int, samples: int) -> int:
    """Epochs that so many optimizer steps take."""
    batch = max(1, int(work.values.get("train.batch_size", 1)))
    accumulation = max(1, int(work.values.get("train.accumulation", 1)))
    an_epoch = max(1, math.ceil(math.ceil(samples / batch) / accumulation))
    return max(1, math.ceil(steps / an_epoch))


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


def saving(work: Work, samples: int | None) -> None:
    """Files: names, precision, how many are kept. `samples` as for `length`."""
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
    _ratio(work, samples)
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


def _ratio(work: Work, samples: int | None) -> None:
    """So many files over the run. sd-scripts counts its epochs from the steps, whatever was given."""
    name, path = "save_n_epoch_ratio", "save.every_epochs"
    ratio = work.whole(name)
    if not ratio or ratio < 0:
        work.row(name, "no effect", (), "off")
        return
    epochs, steps = work.values.get("train.epochs"), work.values.get("train.max_steps")
    if steps is not None and samples is None:
        note = "kohya counts epochs from the steps; the pictures cannot be counted here"
        work.unsupported(name, note)
        return
    if steps is not None and samples is not None:
        reg = work.values.get("data.reg_folder")
        # As many samples of regularisation make an epoch twice as long.
        doubled = isinstance(reg, Path) and reg.is_dir()
        epochs = _epochs(work, int(steps), samples * (2 if doubled else 1))
    every = max(1, int(epochs or 1) // ratio)
    words = f"every {every} epochs" if every > 1 else "every epoch"
    work.translated(name, path, every, f"{words}: {epochs} / {ratio}, rounded down")
    work.retell("save_every_n_epochs", "no effect", (), f"{name} wins")


def _kept(work: Work) -> None:
    """How many of the files on the way stay.

    sd-scripts (get_remove_epoch_no, get_remove_step_no) keeps the last n files of epochs; of steps it
    keeps those of the last n steps and the one before them.
    """
    for name, path in (
        ("save_last_n_epochs", "save.every_epochs"),
        ("save_last_n_steps", "save.every_steps"),
    ):
        last, every = work.whole(name), int(work.values.get(path) or 0)
        if last is None:
            work.row(name, "no effect", (), "blank")
        elif not every:
            work.idle(name, "nothing is saved on the way")
        elif last == 0 and name == "save_last_n_epochs":
            work.unsupported(name, "kohya deletes each file at once then; here all are kept")
        else:
            _keep(work, name, last if name == "save_last_n_epochs" else last // every + 1)


def _keep(work: Work, name: str, files: int) -> None:
    """One number holds for files of epochs and of steps: the larger."""
    known = work.values.get("save.keep_last")
    if known is None:
        note = f"the last {files} of the files on the way"
        work.translated(name, "save.keep_last", files, note)
        return
    more = max(int(known), files)
    work.set("save.keep_last", more)
    for each in ("save_last_n_epochs", name):
        note = f"one number holds for the files of epochs and steps: {more}"
        work.retell(each, "unsupported", ("save.keep_last",), note)


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
    elif ours := sampler_named(sampler):
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
    written = [line.strip() for line in text.splitlines()]
    written = [line for line in written if line and not line.startswith("#")]
    for line in written:
        kept, lost = usable(line)
        lines.append(kept)
        dropped += lost
    work.set("sample.prompts", lines)
    note = f"left out: {', '.join(dropped[:5])}" if dropped else "pictures have the training size"
    status: Status = "translated" if dropped or lines != written else "taken"
    work.row(name, status, ("sample.prompts",), note)


def usable(line: str) -> tuple[str, list[str]]:
    """A prompt without the flags that are not known here, and those flags.

    Samplers get our names.
    """
    line = SAMPLER_FLAG.sub(lambda found: found[1] + (sampler_named(found[2]) or found[2]), line)
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
