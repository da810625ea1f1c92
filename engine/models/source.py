"""Opens a base model of any layout: its facts and, part by part, its tensors under the file's names.

Nothing stays mapped from the disk: a file that is overwritten or cut while a run goes on changes no
weight. Each tensor is read by itself and brought to its number format at once, so that no more than
one of them is there twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from engine.errors import ModelError, Problem
from engine.models.architecture import Config, count_of, told_by_header, vae_sizes
from engine.models.ckpt import read_pickled
from engine.models.detect import ModelFacts, file_facts, inspect_model
from engine.models.folder import read_config, weight_files
from engine.models.headers import Header, TensorInfo, read_header
from engine.models.recognise import TEXT_PARTS, UNET, VAE
from engine.models.vae_facts import SCALE, other_scale, vae_folder, vae_problem
from engine.safetensors_dtypes import DTYPES
from engine.safetensors_header import Entry, HeaderFault, read_raw

Part = Literal["unet", "vae", "text_encoder", "text_encoder_2"]
DTYPE_OF_TORCH = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A base model that is open: facts, and tensors as they lie on the disk."""

    facts: ModelFacts
    pickled: Mapping[str, Tensor] | None = None

    def tensors(self, part: Part, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Tensors of one part, copied; of U-Net and VAE with the prefix of the original layout, if any.

        Those of numbers with fractions come in `dtype`, or as they are stored without it.
        """
        path = self.facts.path
        if self.facts.layout == "folder":
            return read_files(weight_files(path / part, part), dtype=dtype)
        prefixes = {"unet": UNET, "vae": VAE, **TEXT_PARTS[self.facts.family or ""]}
        prefix = prefixes[part]
        if self.pickled is None:
            found = read_safetensors(path, prefix, dtype)
        else:
            own = {name: t for name, t in self.pickled.items() if name.startswith(prefix)}
            found = copied(own, dtype)
        if part not in ("unet", "vae"):
            return {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        return found


def open_source(path: Path) -> Source:
    """Open a model; a .ckpt is read whole, since nothing else tells what is in it."""
    facts = inspect_model(path)
    if facts.layout != "ckpt":
        return Source(facts)
    pickled = read_pickled(facts.path)
    return Source(file_facts(facts.path, header_of(pickled), "ckpt"), pickled)


def header_of(tensors: Mapping[str, Tensor]) -> Header:
    """What a .safetensors header would say of these tensors."""
    infos = {
        name: TensorInfo(DTYPE_OF_TORCH.get(str(tensor.dtype), ""), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    return Header(infos, {})


def read_safetensors(
    path: Path, prefix: str = "", dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix`, in memory of their own."""
    try:
        entries = read_raw(path).entries
        # Unbuffered: bytes go straight into their tensor.
        with path.open("rb", buffering=0) as file:
            return {
                name: _converted(_read(file, entry), dtype)
                for name, entry in entries.items()
                if name.startswith(prefix)
            }
    except HeaderFault as fault:
        raise _unreadable(path, f"The file {fault.what}.", fault.remedy) from fault
    except OSError as error:
        raise _unreadable(path, f"The file cannot be read: {error.strerror or error}.") from error


def _read(file: Any, entry: Entry) -> Tensor:
    tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    if not tensor.numel():
        return tensor
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    room = memoryview(flat)
    file.seek(entry.start)
    place = 0
    while place < len(room):
        count = file.readinto(room[place:])
        if not count:
            raise OSError("it became shorter while it was read")
        place += count
    return tensor


def copied(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The same tensors in memory of their own: those of a pickled file may be mapped from it."""
    return {name: _converted(tensor, dtype, copy=True) for name, tensor in tensors.items()}


def _converted(tensor: Tensor, dtype: torch.dtype | None, *, copy: bool = False) -> Tensor:
    """In `dtype`, where there is one and the numbers have fractions."""
    kept = dtype is None or not tensor.is_floating_point()
    return tensor.to(tensor.dtype if kept else dtype, copy=copy)


def _unreadable(path: Path, what: str, remedy: str = "") -> ModelError:
    return ModelError(
        Problem(what, str(path), remedy or "Download or copy it again.", "model.path")
    )


def read_files(
    files: tuple[Path, ...], setting: str = "model.path", dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Tensors of all files of a part, in memory of their own."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors |= read_safetensors(file, dtype=dtype)
        else:
            tensors |= copied(read_pickled(file, setting), dtype)
    return tensors


@dataclass(frozen=True, slots=True)
class VaeSource:
    """A VAE's tensors and its configuration."""

    tensors: Mapping[str, Tensor]
    config: Config
    where: str


def open_vae(path: Path, base: Config) -> VaeSource:
    """A VAE file or folder given in place of the checkpoint's own; `base` is the family's configuration."""
    path = path.expanduser()
    if not path.exists():
        raise _vae_error(path, "There is no such file or folder.")
    if path.is_dir():
        return _vae_folder(path, base)
    if path.suffix.lower() == ".safetensors":
        told = told_by_header(read_header(path).metadata)["vae"]
        tensors = read_safetensors(path)
    else:
        told, tensors = {}, copied(read_pickled(path, "model.vae"))
    return _sized(path, tensors, base | told)


def _vae_folder(folder: Path, base: Config) -> VaeSource:
    inner = vae_folder(folder)
    files = weight_files(inner, "vae")
    if not files:
        raise _vae_error(folder, "The folder holds no VAE.")
    config = read_config(inner / "config.json")
    known = {name: config[name] for name in base if config.get(name) is not None}
    told, own = known.get(SCALE, base[SCALE]), base[SCALE]
    if told != own:
        raise ModelError(other_scale(inner, told, own))
    return _sized(inner, read_files(files, "model.vae"), base | known)


def _sized(path: Path, tensors: Mapping[str, Tensor], config: Config) -> VaeSource:
    if any(name.startswith(VAE) for name in tensors):
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(VAE)}
    elif any(name.startswith("encoder.down.") for name in tensors):
        coders = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
        tensors = {VAE + name: t for name, t in tensors.items() if name.startswith(coders)}
    shapes = {name.removeprefix(VAE): tuple(tensor.shape) for name, tensor in tensors.items()}
    original = any(name.startswith(VAE) for name in tensors)
    try:
        sizes = vae_sizes(shapes) if original else _diffusers_sizes(shapes)
    except (KeyError, IndexError) as error:
        raise _vae_error(path, "This is no VAE of this family.") from error
    if sizes["latent_channels"] != config["latent_channels"]:
        channels = sizes["latent_channels"]
        raise _vae_error(path, f"This VAE has {channels} latent channels, the base has 4.")
    return VaeSource(tensors, config | sizes, str(path))


def _diffusers_sizes(shapes: Mapping[str, tuple[int, ...]]) -> Config:
    levels = count_of(shapes, r"encoder\.down_blocks\.(\d+)\.")
    first = "encoder.down_blocks.{}.resnets.0.conv1.weight"
    return {
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[first.format(level)][0] for level in range(levels)],
        "layers_per_block": count_of(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _vae_error(path: Path, what: str) -> ModelError:
    return ModelError(vae_problem(path, what))
