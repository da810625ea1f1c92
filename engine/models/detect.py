"""What a base model is, told from its headers in milliseconds. No torch, nothing is executed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ModelError, Problem
from engine.models.architecture import Architecture, UnusualShape, from_configs, from_tensors
from engine.models.facts import ASSUMED, Layout, ModelFacts, Prediction, settle_choice
from engine.models.folder import is_model_folder, read_config, weight_files
from engine.models.headers import Header, TensorInfo, main_dtype, read_header
from engine.models.recognise import (
    FAMILY_TITLES,
    INPAINTING_CHANNELS,
    LATENT_CHANNELS,
    PREDICTION_WORDS,
    REFINER,
    TEXT_PARTS,
    TRAINABLE,
    UNET,
    VAE,
    ZERO_SNR_MARK,
    Family,
    Recognised,
    marked_prediction,
    recognise,
    recognised,
)

__all__ = ["Layout", "ModelFacts", "Prediction", "find_models", "inspect_model", "settle_choice"]

SUFFIXES: dict[str, Layout] = {
    ".safetensors": "single",
    ".ckpt": "ckpt",
    ".pt": "ckpt",
    ".pth": "ckpt",
}
SD2_DOUBT = "the 768 models of Stable Diffusion 2 predict v, and this file does not tell"
SDXL_DOUBT = "some relatives of SDXL predict v, and this file does not tell"
DEEPEST_SEARCH = 4
MOST_FOUND = 500


def inspect_model(path: Path) -> ModelFacts:
    """Facts of a file or folder. ModelError where it cannot be read; unsuitable ones have problems."""
    path = path.expanduser()
    if path.is_dir():
        return _folder_facts(path)
    if not path.exists():
        raise _model_error(path, "There is no such file or folder.", "Check the path.")
    layout = SUFFIXES.get(path.suffix.lower())
    if layout is None:
        raise _model_error(
            path,
            f"A base model is a .safetensors or .ckpt file or a diffusers folder, not {path.suffix}"
            if path.suffix
            else "A base model is a .safetensors or .ckpt file or a diffusers folder.",
        )
    if layout == "ckpt":
        return ModelFacts(path, "ckpt", path.stat().st_size)
    return file_facts(path, read_header(path), "single")


def file_facts(path: Path, header: Header, layout: Layout) -> ModelFacts:
    """Facts of a checkpoint in the original layout from its tensors' names and shapes."""
    tensors = header.tensors
    found = recognise(tensors)
    prediction, source = _prediction(found, header)
    architecture, problems = None, list(_unsuitable(path, found))
    if found.family in TRAINABLE and not problems:
        try:
            architecture = from_tensors(found.family, tensors, header.metadata)
        except UnusualShape as error:
            problems.append(_problem(path, f"Its {error}."))
    return ModelFacts(
        path,
        layout,
        path.stat().st_size,
        family=found.family,
        prediction=prediction,
        prediction_source=source,
        dtype=main_dtype(info for name, info in tensors.items() if name.startswith(UNET)),
        inpainting=found.inpainting,
        zero_terminal_snr=ZERO_SNR_MARK in tensors,
        has_vae=any(name.startswith(VAE) for name in tensors),
        unet_parameters=_count(tensors, UNET),
        te_parameters=_text_parameters(tensors, found.family, architecture),
        architecture=architecture,
        problems=tuple(problems),
    )


def _count(tensors: dict[str, TensorInfo], prefix: str) -> int:
    return sum(
        info.count
        for name, info in tensors.items()
        if name.startswith(prefix) and not name.endswith("position_ids")
    )


def _text_parameters(
    tensors: dict[str, TensorInfo], family: Family | None, architecture: Architecture | None
) -> int:
    """Numbers of the text encoders, without what the file holds beyond their last layer that is read."""
    prefixes = TEXT_PARTS.get(family or "", {})
    total = sum(_count(tensors, prefix) for prefix in prefixes.values())
    if family != "sd2" or architecture is None:
        return total
    prefix = prefixes["text_encoder"]
    unread = f"transformer.resblocks.{architecture.text_encoder['num_hidden_layers']}."
    return total - sum(
        _count(tensors, prefix + name) for name in (unread, "text_projection", "logit_scale")
    )


def _prediction(found: Recognised, header: Header) -> tuple[Prediction | None, str]:
    marked = marked_prediction(header.tensors, header.metadata)
    if marked is not None:
        return marked
    return _usual_prediction(found.family)


def _usual_prediction(family: Family | None) -> tuple[Prediction | None, str]:
    match family:
        case "sd1":
            return "epsilon", "usual for Stable Diffusion 1; the file has no other mark"
        case "sd2":
            return "epsilon", f"{ASSUMED}; {SD2_DOUBT}"
        case "sdxl":
            return "epsilon", f"{ASSUMED}; {SDXL_DOUBT}"
        case None:
            return None, "unknown"
        case _:
            return None, "not visible in the file"


def _unsuitable(path: Path, found: Recognised) -> Iterable[Problem]:
    if found.family is None:
        yield _problem(path, f"This is {found.other}.")
    elif found.family not in TRAINABLE:
        title = FAMILY_TITLES[found.family]
        trained = ", ".join(FAMILY_TITLES[family] for family in TRAINABLE)
        yield _problem(
            path,
            f"This is {title}; this version trains {trained}.",
            "Choose SD 1.5, SDXL or a relative of them.",
        )
    elif found.edits_pictures:
        yield _problem(path, "This is an InstructPix2Pix model, which is not trained here.")
    elif found.channels not in (LATENT_CHANNELS, INPAINTING_CHANNELS):
        yield _problem(
            path,
            f"Its U-Net reads {found.channels} channels, as depth models and upscalers do.",
            "Choose the text-to-image model of the family.",
        )


def _folder_facts(folder: Path) -> ModelFacts:
    if not is_model_folder(folder):
        raise _model_error(
            folder,
            "This folder is no model in diffusers' layout: it has no model_index.json.",
            "Give the file itself, or the folder that holds unet, vae and text_encoder.",
        )
    found = _recognise_folder(folder)
    family = found.family
    encoders = tuple(TEXT_PARTS.get(family or "", {}))
    parts = ("unet", "vae", *encoders)
    configs = {part: read_config(folder / part / "config.json") for part in parts}
    problems = list(_unsuitable(folder, found))
    architecture = None
    tensors = {part: _part_tensors(folder, part) for part in parts}
    if not problems:
        problems += _missing_parts(folder, ("unet", *encoders))
    if not problems and family is not None:
        try:
            architecture = from_configs(family, configs)
        except UnusualShape as error:
            problems.append(_problem(folder, f"Its {error}."))
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    prediction, source = _folder_prediction(scheduler, family)
    return ModelFacts(
        folder,
        "folder",
        sum(file.stat().st_size for part in parts for file in weight_files(folder / part, part)),
        family=family,
        prediction=prediction,
        prediction_source=source,
        dtype=main_dtype(tensors["unet"].values()),
        inpainting=found.inpainting,
        zero_terminal_snr=scheduler.get("rescale_betas_zero_snr") is True,
        has_vae=bool(weight_files(folder / "vae", "vae")),
        unet_parameters=_count(tensors["unet"], ""),
        te_parameters=sum(_count(tensors[part], "") for part in encoders),
        architecture=architecture,
        problems=tuple(problems),
    )


def _recognise_folder(folder: Path) -> Recognised:
    family = _folder_family(folder)
    if family == "sdxl" and not (folder / "text_encoder").is_dir():
        return Recognised(other=REFINER)
    channels = read_config(folder / "unet" / "config.json").get("in_channels")
    return recognised(family, channels if isinstance(channels, int) else LATENT_CHANNELS)


def _folder_family(folder: Path) -> Family | None:
    """By parts and structure: SD2 has linear projections or OpenCLIP's activation."""
    if (folder / "text_encoder_2").is_dir():
        return "sdxl" if (folder / "unet").is_dir() else "flux"
    if (folder / "transformer").is_dir():
        name = str(read_config(folder / "model_index.json").get("_class_name", ""))
        return "flux" if name.startswith("Flux") else "sd3"
    unet = read_config(folder / "unet" / "config.json")
    text = read_config(folder / "text_encoder" / "config.json")
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    if unet.get("use_linear_projection") or text.get("hidden_act") == "gelu":
        return "sd2"
    return "sd1"


def _missing_parts(folder: Path, parts: Iterable[str]) -> Iterable[Problem]:
    for part in parts:
        if not (folder / part / "config.json").is_file():
            yield _problem(folder, f"The folder has no {part}/config.json.")
        elif not weight_files(folder / part, part):
            yield _problem(folder, f"The folder has no weights in {part}.")


def _part_tensors(folder: Path, part: str) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(folder / part, part):
        if file.suffix == ".safetensors":
            tensors |= read_header(file).tensors
    return tensors


def _folder_prediction(
    scheduler: Mapping[str, Any], family: Family | None
) -> tuple[Prediction | None, str]:
    word = PREDICTION_WORDS.get(str(scheduler.get("prediction_type", "")).lower())
    if word is not None:
        return word, "the folder's scheduler_config.json"
    return _usual_prediction(family)


def find_models(folders: Iterable[Path]) -> tuple[ModelFacts, ...]:
    """Base models below some folders, by name; files that are something else are left out."""
    found: dict[Path, ModelFacts] = {}
    for folder in folders:
        for path in _candidates(folder.expanduser()):
            if len(found) >= MOST_FOUND:
                break
            try:
                facts = inspect_model(path)
            except (ModelError, OSError):
                continue
            if facts.family is not None or facts.layout == "ckpt":
                found[path.resolve()] = facts
    return tuple(sorted(found.values(), key=lambda facts: str(facts.path).lower()))


def _candidates(folder: Path) -> Iterable[Path]:
    for place, inside, files in os.walk(folder):
        here = Path(place)
        if is_model_folder(here):
            inside.clear()
            yield here
            continue
        if len(here.relative_to(folder).parts) >= DEEPEST_SEARCH:
            inside.clear()
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in (".safetensors", ".ckpt"):
                yield here / name


def _problem(path: Path, what: str, remedy: str = "") -> Problem:
    return Problem(what, where=str(path), remedy=remedy, path="model.path")


def _model_error(path: Path, what: str, remedy: str = "") -> ModelError:
    return ModelError(_problem(path, what, remedy))
