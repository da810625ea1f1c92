"""Names of modules in a network file, as kohya's tools write them. No torch.

A name is never turned back by replacing "_" with ".": it is looked up in a table made from the
model's own paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

from engine.inert import inert as inert
from engine.inert import inert_text as inert_text
from engine.unet_names import original_unet_names

Place = tuple[str, str]
"""Component and path of a module in the model."""

PREFIXES = {"unet": "lora_unet", "te": "lora_te", "te2": "lora_te2"}
"""Prefix written, by component, for a model with one text encoder."""
PREFIXES_OF_TWO = PREFIXES | {"te": "lora_te1"}
"""The same for a model with two text encoders."""
READ = {
    "unet": ("lora_unet", "lycoris"),
    "te": ("lora_te", "lora_te1"),
    "te2": ("lora_te2",),
}
"""Every prefix that stands for a component."""
FLAT_STARTS = tuple(f"{prefix}_" for prefixes in READ.values() for prefix in prefixes)
TEXT_ROOT = "text_model."


def name_of(component: str, path: str) -> str:
    """Name of a module of Stable Diffusion 1 or 2 in a file; `file_names` has those of any family.

    Text encoders carry `text_model_`: transformers 5.6 dropped that level from CLIPTextModel, and a
    file without it is known to nobody.
    """
    return flat_name(PREFIXES[component], path)


def flat_name(prefix: str, path: str) -> str:
    """Prefix and dotted path as one name."""
    if prefix.startswith("lora_te") and not path.startswith(TEXT_ROOT):
        path = TEXT_ROOT + path
    return f"{prefix}_{path.replace('.', '_')}"


def is_sdxl(places: Iterable[Place]) -> bool:
    """Whether a model's layers are those of SDXL: it alone has an added embedding, or two encoders."""
    return any(
        component == "te2" or path.startswith("add_embedding.") for component, path in places
    )


def file_names(places: Iterable[Place], *, sdxl: bool | None = None) -> Mapping[Place, str]:
    """Name of each of a model's modules as it is written.

    SDXL has the names of the original layout in the U-Net and `lora_te1`; others have those of
    diffusers and `lora_te`. `places` must be all layers of a U-Net, not a choice of them; where
    they are not all components of the model, `sdxl` tells what they cannot.
    """
    places = tuple(places)
    return _file_names(places, is_sdxl(places) if sdxl is None else sdxl)


@lru_cache(maxsize=8)
def _file_names(places: tuple[Place, ...], sdxl: bool) -> Mapping[Place, str]:
    """Kept, since a form that counts a network at every answer asks for the same again and again."""
    if not sdxl:
        return MappingProxyType({place: name_of(*place) for place in places})
    original = _original(places)
    return MappingProxyType(
        {
            (component, path): flat_name(
                PREFIXES_OF_TWO[component], original(path) if component == "unet" else path
            )
            for component, path in places
        }
    )


def name_table(modules: Iterable[Place]) -> dict[str, Place]:
    """Every name a file may use for a module, to its place; a name of two modules is left out."""
    modules = tuple(modules)
    original = _original(modules)
    table: dict[str, Place] = {}
    doubtful: set[str] = set()
    for component, path in modules:
        paths = (path, original(path)) if component == "unet" else (path,)
        names = {flat_name(prefix, one) for prefix in READ[component] for one in paths}
        if component != "unet":
            # Written by tools that took transformers' new paths as they are.
            bare = path.removeprefix(TEXT_ROOT).replace(".", "_")
            names |= {f"{prefix}_{bare}" for prefix in READ[component]}
        place = (component, path)
        doubtful |= {name for name in names if table.setdefault(name, place) != place}
    return {name: place for name, place in table.items() if name not in doubtful}


def _original(places: Iterable[Place]) -> Callable[[str], str]:
    return original_unet_names(path for component, path in places if component == "unet")


def split_key(key: str) -> tuple[str, str]:
    """(module name, tensor suffix) of a key: the suffix begins at the first dot."""
    name, _, suffix = key.partition(".")
    return name, suffix
