"""Masks: which part of a picture is learnt. Found beside the data set, checked, brought to size.

White, or opaque, is learnt; greys count in part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from engine.data.facts import Progress, mapped
from engine.data.files import scan
from engine.data.findings import Findings
from engine.data.images import ImageFact, PictureError, load_rgb, quick_fact, read_image_fact

if TYPE_CHECKING:
    from engine.data.survey import Item

MaskKind = Literal["off", "alpha", "folder"]
BLACK = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Mask:
    """Where the mask of a picture comes from."""

    path: Path | None = None
    """None: what is opaque in the picture itself."""
    sha256: str = ""

    @property
    def content(self) -> str:
        """What a cache key needs to know: two masks of one content are the same."""
        return self.sha256 if self.path is not None else "alpha"


class MaskFolder:
    """Finds masks by the stem of the picture, exact case before any case.

    A folder inside it that is named like a concept holds that concept's masks; else they lie side
    by side. Regularisation pictures have masks in such a folder only: their names often repeat.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._flat: Mapping[str, Path] | None = None
        self._own: dict[str, Mapping[str, Path]] = {}
        self._folders: dict[str, Path] = {}

    def of(self, concept: str, picture: Path, *, is_reg: bool) -> Path | None:
        """The mask of a picture, or None where there is none."""
        if self._flat is None:
            found = scan(self._folder, Findings())
            self._flat = _by_stem(found.pictures)
            self._folders = {folder.name: folder for folder in found.folders}
        if concept in self._folders:
            if concept not in self._own:
                inside = scan(self._folders[concept], Findings())
                self._own[concept] = _by_stem(inside.pictures)
            masks = self._own[concept]
        else:
            masks = {} if is_reg else self._flat
        return masks.get(picture.stem) or masks.get(picture.stem.casefold())


def _by_stem(pictures: tuple[Path, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in pictures:
        found.setdefault(path.stem.casefold(), path)
    # Exact names last: they replace another's lower-case form.
    return found | {path.stem: path for path in pictures}


@dataclass(frozen=True, slots=True)
class MaskFact:
    """What is known of a mask picture."""

    image: ImageFact
    empty: bool = False
    """Nothing in it is learnt."""


def read_mask_fact(path: Path, *, decode: bool, max_megapixels: float) -> MaskFact | PictureError:
    """Look at a mask; with `decode` the whole of it."""
    try:
        if not decode:
            return MaskFact(quick_fact(path, max_megapixels=max_megapixels))
        fact = read_image_fact(path, max_megapixels=max_megapixels)
        mask = load_mask(path, sha256=fact.sha256, max_megapixels=max_megapixels)
        return MaskFact(fact, empty=mask.getbbox() is None)
    except PictureError as error:
        return error


def load_mask(path: Path, *, sha256: str, max_megapixels: float) -> Image.Image:
    """A mask picture as grey (mode L), upright; what is transparent in it is black."""
    rgb = load_rgb(path, BLACK, sha256=sha256, max_megapixels=max_megapixels)
    return rgb.convert("L")


# Of a data set -----------------------------------------------------------------------------------


def with_masks(
    items: Sequence[Item],
    kind: MaskKind,
    folder: Path | None,
    *,
    decode: bool,
    max_megapixels: float,
    findings: Findings,
    progress: Progress | None = None,
    workers: int | None = None,
) -> tuple[Item, ...]:
    """The items with their masks; what is odd about those goes to `findings`."""
    if kind == "alpha":
        return tuple(_with_alpha(item, decode, findings) for item in items)
    if kind == "off":
        return tuple(items)
    if folder is None or not folder.is_dir():
        message = "No folder of masks is given." if folder is None else "There is no such folder."
        findings.add("mask folder", folder or "", message=message)
        return tuple(items)
    masks, users = MaskFolder(folder), dict[Path, str]()
    wanted = [masks.of(item.concept, item.image.path, is_reg=item.is_reg) for item in items]
    for item, path in zip(items, wanted, strict=True):
        if path is not None and users.setdefault(path, item.concept) != item.concept:
            findings.add("mask shared", item.image.path.parent, item.image.path.name)

    def examine(path: Path) -> MaskFact | PictureError:
        return read_mask_fact(path, decode=decode, max_megapixels=max_megapixels)

    facts: dict[Path, MaskFact | PictureError] = {}
    for path, fact in mapped(examine, list(users), workers if decode else 1):
        facts[path] = fact
        if progress is not None:
            progress(len(facts), len(users))
    return tuple(
        _with_mask(item, None if path is None else facts[path], findings)
        for item, path in zip(items, wanted, strict=True)
    )


def _with_alpha(item: Item, decode: bool, findings: Findings) -> Item:
    folder, name = item.image.path.parent, item.image.path.name
    if item.image.invisible:
        findings.add("mask empty", folder, name)
    if item.image.alpha:
        return replace(item, mask=Mask())
    if decode and not item.is_reg:
        findings.add("mask missing", folder, name)
    return item


def _with_mask(item: Item, fact: MaskFact | PictureError | None, findings: Findings) -> Item:
    if fact is None:
        if not item.is_reg:
            findings.add("mask missing", item.image.path.parent, item.image.path.name)
        return item
    if isinstance(fact, PictureError):
        detail = fact.detail or str(fact.check)
        findings.add("mask unreadable", fact.path.parent, fact.path.name, detail=detail)
        return item
    image = fact.image
    folder, name = image.path.parent, image.path.name
    if fact.empty:
        findings.add("mask empty", folder, name)
    if (image.width, image.height) != (item.image.width, item.image.height):
        sizes = f"{image.width}x{image.height} for {item.image.width}x{item.image.height}"
        findings.add("mask size", folder, name, detail=sizes)
    return replace(item, mask=Mask(image.path, image.sha256))
