"""Whether a VAE given in place of the checkpoint's own can fit its base, before it is loaded. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.errors import ModelError, Problem
from engine.inert import inert
from engine.models.architecture import Config, full_size
from engine.models.facts import ModelFacts
from engine.models.folder import read_config, weight_files
from engine.models.headers import LONGEST_PATH, Header, read_header
from engine.models.recognise import FAMILY_TITLES, TRAINABLE, VAE, recognise

DECODER_STARTS = (VAE + "decoder.", "decoder.")
SCALE = "scaling_factor"


def vae_problems(path: Path | None, base: ModelFacts | None) -> tuple[Problem, ...]:
    """What stands against a given VAE, as far as names and configuration tell; or that there is none.

    A lone VAE of another family passes: nothing in such a file tells what it is of.
    """
    if base is None or base.architecture is None:
        return ()
    if path is None:
        what, remedy = "The file has no VAE.", "Give a VAE of the family as model.vae."
        return () if base.has_vae else (Problem(what, _where(base.path), remedy, "model.vae"),)
    path = path.expanduser()
    if not path.exists():
        return (vae_problem(path, "There is no such file or folder."),)
    try:
        if path.is_dir():
            return _folder_problems(path, base.architecture.vae)
        if path.suffix.lower() == ".safetensors":
            return _file_problems(path, read_header(path), base)
    except ModelError as error:
        return tuple(replace(problem, path="model.vae") for problem in error.problems)
    return ()


def vae_folder(folder: Path) -> Path:
    """The folder that holds the VAE itself, of a VAE's or a whole model's folder."""
    return folder / "vae" if (folder / "vae").is_dir() else folder


def vae_problem(path: Path, what: str) -> Problem:
    """A mistake at the setting `model.vae`."""
    return Problem(
        what, _where(path), "Give a VAE file or folder of the base's family.", "model.vae"
    )


def _where(path: Path) -> str:
    return inert(str(path), LONGEST_PATH)


def other_scale(path: Path, told: object, own: object) -> Problem:
    """Latents of another size: such a VAE trains a shift of all colours."""
    what = f"This VAE is of another family: it scales latents by {told}, the base by {own}."
    return vae_problem(path, what)


def _folder_problems(folder: Path, config: Config) -> tuple[Problem, ...]:
    inner = vae_folder(folder)
    if not weight_files(inner, "vae"):
        return (vae_problem(folder, "The folder holds no VAE."),)
    told = read_config(inner / "config.json").get(SCALE)
    if told is not None and told != config[SCALE]:
        return (other_scale(inner, told, config[SCALE]),)
    return ()


def _file_problems(path: Path, header: Header, base: ModelFacts) -> tuple[Problem, ...]:
    assert base.architecture is not None, "asked only where it is known"
    if not any(name.startswith(DECODER_STARTS) for name in header.tensors):
        return (vae_problem(path, "The file holds no VAE."),)
    family = recognise(header.tensors).family
    if family is None or family == base.family:
        return ()
    own = base.architecture.vae[SCALE]
    if family in TRAINABLE and full_size(family).vae[SCALE] == own:
        return ()
    titles = FAMILY_TITLES[family], FAMILY_TITLES[base.family or ""]
    return (vae_problem(path, f"This VAE is of {titles[0]}, the base is {titles[1]}."),)
