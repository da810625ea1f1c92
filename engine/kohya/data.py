"""Model, pictures, captions, resolution and caches."""

from __future__ import annotations

import re
from pathlib import Path

from engine.kohya.arguments import FIELDS, Field
from engine.kohya.given import Work

CAPTIONS = frozenset({".txt", ".caption", ".cap", ".tags", ".text", ".wildcard"})
"""Extensions that caption files really have; another one was a trick to switch captions off."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
STEP = 8


def fields(work: Work) -> None:
    """Every argument that is a setting of ours by another name."""
    for field in FIELDS:
        value = _read(work, field)
        if value is not None:
            work.taken(field.name, field.path, value, field.note)
        elif field.default is not None:
            work.default(field.name, field.path, field.default, differs=_differs(field))
            work.row(field.name, "no effect", (), "blank")


def _read(work: Work, field: Field) -> object:
    match field.kind:
        case "flag":
            return work.flag(field.name)
        case "whole":
            return work.whole(field.name)
        case "number":
            return work.number(field.name)
        case "path":
            return work.path(field.name)
        case _:
            text = work.text(field.name)
            return text if field.path != "objective.loss" or text is None else text.lower()


def _differs(field: Field) -> bool:
    """Whether our own default is another one."""
    from engine.settings.walk import setting

    row = setting(field.path)
    return row is not None and row.default != field.default


def model(work: Work) -> None:
    """Base model and family."""
    _base(work)
    script = work.text("script")
    if script == "sdxl_train_network.py":
        work.set("model.family", "sdxl")
    elif work.flag("v2"):
        work.set("model.family", "sd2")
    elif script is not None:
        work.set("model.family", "sd1")
    work.row("script", "translated", ("model.family",), str(work.values.get("model.family", "")))
    if work.flag("v2"):
        work.row("v2", "translated", ("model.family",), "the family is found in the file, too")
    work.row("v2", "no effect", (), "off")
    v = work.flag("v_parameterization")
    work.default("v_parameterization", "model.prediction", "v" if v else "epsilon", not v)
    work.row("v_parameterization", "translated", ("model.prediction",), "v" if v else "epsilon")
    _clip_skip(work)
    tokens = work.whole("max_token_length")
    if tokens is not None:
        work.taken("max_token_length", "model.max_tokens", tokens)
    work.row("max_token_length", "no effect", (), "blank: 75")


def _clip_skip(work: Work) -> None:
    skip = work.whole("clip_skip")
    sdxl = work.values.get("model.family") == "sdxl"
    if skip:
        note = "no effect on SDXL" if sdxl else ""
        work.taken("clip_skip", "model.clip_skip", skip, note)
        return
    work.default("clip_skip", "model.clip_skip", 1, differs=False)
    if skip == 0 and not sdxl:
        note = "kohya takes the words before the first layer then; here it is 1, the last layer"
        work.row("clip_skip", "unsupported", ("model.clip_skip",), note)
    work.row("clip_skip", "translated", ("model.clip_skip",), "1, the last layer")


def _base(work: Work) -> None:
    name = "pretrained_model_name_or_path"
    text = work.text(name)
    path = work.path(name)
    if text is None or path is None:
        work.row(name, "no effect", (), "blank: choose a base model")
    elif (
        HUB_NAME.fullmatch(text)
        and not path.exists()
        and path.suffix not in (".safetensors", ".ckpt")
    ):
        note = "a name on the Hugging Face hub: download the model and give its file or folder"
        work.unsupported(name, note)
    else:
        work.taken(name, "model.path", path, _place(text))


def _place(text: str) -> str:
    """What is odd about a path of another machine."""
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return "a path of Windows: give the one on this machine"
    return "" if Path(text).expanduser().is_absolute() else "seen from the folder of this file"


def pictures(work: Work) -> None:
    """Folders, captions, sizes, masks and caches, where no data set configuration says it."""
    folder = work.path("train_data_dir")
    if folder is not None:
        note = "; ".join(filter(None, (_place(work.text("train_data_dir") or ""),)))
        work.taken("train_data_dir", "data.folder", folder, note)
        work.set("data.layout", "parent")
    work.row("train_data_dir", "no effect", (), "blank")
    caption_extension(work)
    resolution(work)
    _masks(work)
    _caches(work)


def caption_extension(work: Work) -> None:
    """Blank means .caption; an extension that no caption has was a way to switch captions off."""
    name = "caption_extension" if work.has("caption_extension") else "caption_extention"
    text = work.text(name)
    found = (text or "").strip().lower()
    if found and not found.startswith("."):
        found = f".{found}"
    if not found:
        missing = "caption_extension" not in work.given
        work.default("caption_extension", "data.caption_extension", ".caption", differs=missing)
        work.row("caption_extension", "translated", ("data.caption_extension",), "blank: .caption")
    elif found in CAPTIONS:
        work.taken(name, "data.caption_extension", found)
    else:
        note = "no caption has this extension, so the folder's name is the caption"
        work.translated(name, "data.captions", False, note)


def resolution(work: Work) -> None:
    """Width and height, and the step of bucket sides: both in eights."""
    found = work.given.get("resolution")
    size = _size(found.value) if found is not None else None
    if found is not None and size is None and work.has("resolution"):
        work.wrong("resolution", "one or two whole numbers such as 512 or 512,768")
    if size is None:
        work.default("resolution", "data.resolution", (512, 512), differs=True)
        work.row("resolution", "translated", ("data.resolution",), "blank: 512")
    else:
        down = tuple(side // STEP * STEP for side in size)
        note = (
            "" if down == size else f"rounded down to {down[0]}×{down[1]}: sides are multiples of 8"
        )
        work.set("data.resolution", down)
        work.row("resolution", "translated" if note else "taken", ("data.resolution",), note)
    step = work.whole("bucket_reso_steps")
    if step is None:
        step = 64
    down_step = max(STEP, step // STEP * STEP)
    note = "" if down_step == step else f"{down_step}: steps are multiples of 8"
    work.set("data.bucket_step", down_step)
    work.row("bucket_reso_steps", "translated" if note else "taken", ("data.bucket_step",), note)
    if work.values.get("data.no_upscale"):
        for name in ("min_bucket_reso", "max_bucket_reso"):
            row = work.rows.get(name)
            if row is not None and row.status == "taken":
                note = "kohya ignores it with bucket_no_upscale"
                work.retell(name, "taken", row.settings, note)


def _size(value: object) -> tuple[int, int] | None:
    """ "512", "512,768", 512 or [512, 768]."""
    parts = (
        list(value)
        if isinstance(value, (list, tuple))
        else re.split(r"[\s,x×]+", str(value).strip())
    )
    try:
        sides = [int(float(part)) for part in parts if not isinstance(part, bool)]
    except (ValueError, TypeError, OverflowError):
        return None
    if len(sides) not in (1, 2) or any(not 1 <= side <= 65536 for side in sides):
        return None
    return sides[0], sides[-1]


def _masks(work: Work) -> None:
    """Masks come from transparency, or from pictures of their own; the mean is kohya's.

    Transparency masks with alpha_mask alone, pictures of masks only with masked_loss (train_network.py,
    `args.masked_loss or alpha_masks in batch`); where both are there the pictures are read
    (custom_train_functions.py, apply_masked_loss).
    """
    alpha, masked = bool(work.flag("alpha_mask")), bool(work.flag("masked_loss"))
    folder = _mask_folder(work) if masked else None
    if folder is not None:
        work.set("data.masked_loss", "folder")
        work.taken("conditioning_data_dir", "data.mask_folder", folder)
        work.row("alpha_mask", "no effect", (), "pictures of masks win" if alpha else "off")
    elif alpha:
        work.set("data.masked_loss", "alpha")
    if folder is not None or alpha:
        work.set("data.mask_mean", "picture")
        paths = ("data.masked_loss", "data.mask_mean")
        for name, on in (("masked_loss", masked), ("alpha_mask", alpha)):
            if on:
                work.row(name, "translated", paths, "mean as kohya has it")
    elif masked:
        work.idle("masked_loss", "kohya needs alpha_mask or pictures of masks beside it")
    for name in ("masked_loss", "alpha_mask"):
        work.row(name, "no effect", (), "off")
    work.row("conditioning_data_dir", "no effect", (), "kohya reads it with masked_loss alone")


def _mask_folder(work: Work) -> Path | None:
    """The folder of masks; sd-scripts reads it from a data set configuration alone."""
    name = "conditioning_data_dir"
    folder = work.path(name)
    if folder is None or work.given[name].key.startswith("dataset: "):
        return folder
    work.idle(name, "LoRA trainers of kohya read it in a data set configuration alone")
    return None


def _caches(work: Work) -> None:
    disk, ram = work.flag("cache_latents_to_disk"), work.flag("cache_latents")
    place = "disk" if disk else "ram" if ram else "off"
    work.default("cache_latents", "data.cache_latents", place, differs=False)
    for name in ("cache_latents", "cache_latents_to_disk"):
        work.row(name, "translated", ("data.cache_latents",), place)
    te_disk = "cache_text_encoder_outputs_to_disk"
    work.row(te_disk, "no effect", (), "the text cache is always on disk")
