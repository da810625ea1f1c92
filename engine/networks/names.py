"""Names of modules in a network file, as kohya's tools write them. No torch.

A name is never turned back by replacing "_" with ".": it is looked up in a table made from the
model's own paths.
"""

from __future__ import annotations

from collections.abc import Iterable

PREFIXES = {"unet": "lora_unet", "te": "lora_te", "te1": "lora_te1", "te2": "lora_te2"}
"""Prefix written, by component."""
ALSO_READ = {"unet": ("lycoris",), "te": ("lora_te1",)}
"""Prefixes of other programs for the same component."""
TEXT_ROOT = "text_model."


def name_of(component: str, path: str) -> str:
    """Name of a module in a file. Text encoders always carry `text_model_`.

    transformers 5.6 dropped that level from CLIPTextModel; a file without it is known to nobody.
    """
    return _named(PREFIXES[component], component, path)


def _named(prefix: str, component: str, path: str) -> str:
    if component != "unet" and not path.startswith(TEXT_ROOT):
        path = TEXT_ROOT + path
    return f"{prefix}_{path.replace('.', '_')}"


def name_table(modules: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Every name a file may use for a module, to its (component, path)."""
    table: dict[str, tuple[str, str]] = {}
    for component, path in modules:
        for prefix in (PREFIXES[component], *ALSO_READ.get(component, ())):
            table.setdefault(_named(prefix, component, path), (component, path))
    return table


def split_key(key: str) -> tuple[str, str]:
    """(module name, tensor suffix) of a key: the suffix begins at the first dot."""
    name, _, suffix = key.partition(".")
    return name, suffix


def inert(text: str, longest: int = 120) -> str:
    """A name from a file, fit for a message: no control characters, no escapes, not endless."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:longest])
    return shown if len(text) <= longest else shown + "…"


def inert_text(text: str) -> str:
    """A text from a file with its line ends but without other control characters."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
