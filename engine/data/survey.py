"""The look at a data set before a run: concepts, pictures, captions, and everything odd about them.

Two forms: `decode=True` decodes every picture and is what a run stands on; `decode=False` reads
headers only and is quick enough for a line that follows the typing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.data.caption_files import Census, FolderCaptions, read_captions
from engine.data.facts import Progress, image_facts
from engine.data.files import Skipped
from engine.data.findings import Finding, Findings, error_of, merged
from engine.data.folders import (
    ConceptFolder,
    FolderListing,
    FolderOverride,
    FoundLayout,
    Layout,
    duplicate_folders,
    read_folders,
    unknown_overrides,
)
from engine.data.images import ImageFact
from engine.data.masks import Mask, MaskKind, with_masks


@dataclass(frozen=True, slots=True)
class SurveyRules:
    """What is to be read, in plain values. An empty extension means .txt."""

    folder: Path
    reg_folder: Path | None = None
    layout: Layout = "auto"
    overrides: Mapping[str, FolderOverride] = field(default_factory=dict)
    repeats: int = 1
    """Of folders whose name and settings do not say."""
    text: str = ""
    """What trigger and class make (`class_text`); for a single concept without a telling name."""
    reg_text: str = ""
    """The class word; for a single regularisation folder without a telling name."""
    trigger: str = ""
    captions: bool = True
    caption_extension: str = ".txt"
    keep_empty_captions: bool = False
    prefix: str = ""
    flip: bool = False
    max_megapixels: float = 100.0
    wildcards: bool = False
    """Every line of a caption file is read, and braces are checked."""
    masks: MaskKind = "off"
    mask_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Concept:
    """One folder that is trained, or drawn from as regularisation."""

    name: str
    path: Path
    text: str
    repeats: int
    is_reg: bool
    images: int
    census: Census

    @property
    def samples(self) -> int:
        """Pictures x repeats."""
        return self.images * self.repeats


@dataclass(frozen=True, slots=True)
class Item:
    """One picture that is trained. `index` is its place in `Survey.items`."""

    index: int
    image: ImageFact
    caption_raw: str
    """The caption before any draw: that of its file, or the class text.

    With wildcards on it has a line for each that can be drawn.
    """
    has_caption: bool
    """Whether `caption_raw` comes from a file of its own."""
    text: str
    concept: str
    repeats: int
    is_reg: bool
    flip: bool
    mask: Mask | None = None
    """None: the whole picture is learnt."""

    @property
    def name(self) -> str:
        """Folder and file, as a person knows the picture."""
        return f"{self.image.path.parent.name}/{self.image.path.name}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything found. `items` are the pictures that can be used; errors are in `findings`."""

    layout: FoundLayout
    concepts: tuple[Concept, ...]
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    findings: tuple[Finding, ...]
    decoded: bool

    @property
    def training_images(self) -> int:
        """Pictures to learn from, without regularisation."""
        return sum(not item.is_reg for item in self.items)

    @property
    def reg_images(self) -> int:
        """Regularisation pictures."""
        return sum(item.is_reg for item in self.items)

    @property
    def captioned(self) -> int:
        """Training pictures with a caption of their own."""
        return sum(item.has_caption and not item.is_reg for item in self.items)

    def levels(self) -> Counter[str]:
        """Number of findings of each level."""
        return Counter(finding.level for finding in self.findings)

    def raise_errors(self) -> None:
        """Raise one typed error with everything that refuses the data set; nothing otherwise."""
        error = error_of(self.findings)
        if error is not None:
            raise error

    def fingerprint(self) -> str:
        """Hash of every picture, caption, weight, mirror switch and mask, in order."""
        if not self.decoded:
            raise ValueError("only a decoded survey has a fingerprint")
        digest = hashlib.sha256()
        for item in self.items:
            parts: list[object] = [item.image.sha256, item.caption_raw, item.repeats]
            parts += [item.is_reg, item.flip]
            if item.mask is not None:
                parts.append(item.mask.content)
            digest.update("\x1f".join(map(str, parts)).encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def survey(
    rules: SurveyRules,
    *,
    decode: bool = True,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Survey:
    """Look at a data set. Mistakes are findings; `progress(done, total)` may raise to stop."""
    listings = _listings(rules)
    folders = tuple(concept for listing in listings for concept in listing.concepts)
    groups = [listing.findings for listing in listings]
    groups.append(duplicate_folders(folders))
    groups.append(unknown_overrides(rules.folder, rules.overrides, folders))
    active = [folder for folder in folders if folder.repeats > 0]
    findings = Findings()
    if folders and not any(not folder.is_reg for folder in active):
        findings.add("nothing to train", rules.folder)
    captions = {folder.path: _captions(folder, rules, findings) for folder in active}
    facts = image_facts(
        [path for folder in active for path in folder.pictures],
        findings,
        decode=decode,
        max_megapixels=rules.max_megapixels,
        progress=progress,
        workers=workers,
    )
    plain = tuple(_items(active, facts, captions, rules))
    items = with_masks(
        plain,
        rules.masks,
        rules.mask_folder,
        decode=decode,
        max_megapixels=rules.max_megapixels,
        findings=findings,
        progress=progress,
        workers=workers,
    )
    _tell_items(items, rules, findings)
    return Survey(
        layout=listings[0].layout,
        concepts=tuple(_concept(folder, captions) for folder in folders),
        items=items,
        skipped=tuple(skip for listing in listings for skip in listing.skipped),
        findings=merged(*groups, findings.done()),
        decoded=decode,
    )


def _listings(rules: SurveyRules) -> list[FolderListing]:
    chosen = [(rules.folder, rules.layout, rules.text, False)]
    if rules.reg_folder is not None:
        chosen.append((rules.reg_folder, "auto", rules.reg_text, True))
    return [
        read_folders(
            folder,
            layout=layout,
            overrides=rules.overrides,
            default_repeats=1 if is_reg else rules.repeats,
            default_text=text,
            is_reg=is_reg,
        )
        for folder, layout, text, is_reg in chosen
    ]


def _concept(folder: ConceptFolder, captions: Mapping[Path, FolderCaptions]) -> Concept:
    read = captions.get(folder.path)
    return Concept(
        name=folder.name,
        path=folder.path,
        text=folder.text,
        repeats=folder.repeats,
        is_reg=folder.is_reg,
        images=len(folder.pictures),
        census=read.census if read else Census(),
    )


def _captions(folder: ConceptFolder, rules: SurveyRules, findings: Findings) -> FolderCaptions:
    if not rules.captions:
        count = len(folder.pictures)
        return FolderCaptions((None,) * count, Census(none=count))
    return read_captions(
        folder.path,
        folder.pictures,
        folder.others,
        findings,
        extension=rules.caption_extension,
        keep_empty=rules.keep_empty_captions,
        class_text=folder.text,
        wildcards=rules.wildcards,
    )


def _items(
    folders: Sequence[ConceptFolder],
    facts: Mapping[Path, ImageFact],
    captions: Mapping[Path, FolderCaptions],
    rules: SurveyRules,
) -> Iterator[Item]:
    index = 0
    for folder in folders:
        for path, caption in zip(folder.pictures, captions[folder.path].texts, strict=True):
            if path not in facts:
                continue
            yield Item(
                index=index,
                image=facts[path],
                caption_raw=folder.text if caption is None else caption,
                has_caption=caption is not None,
                text=folder.text,
                concept=folder.name,
                repeats=folder.repeats,
                is_reg=folder.is_reg,
                flip=rules.flip if folder.flip is None else folder.flip,
            )
            index += 1


def _tell_items(items: Sequence[Item], rules: SurveyRules, findings: Findings) -> None:
    stems = Counter((item.image.path.parent, item.image.path.stem.casefold()) for item in items)
    for item in items:
        image = item.image
        folder, name = image.path.parent, image.path.name
        if image.exif_rotated:
            findings.add("rotated", folder, name)
        if image.alpha and rules.masks != "alpha":
            findings.add("alpha", folder, name)
        if image.animated:
            findings.add("animated", folder, name)
        if image.converted:
            findings.add("converted", folder, name, detail=image.converted)
        if stems[folder, image.path.stem.casefold()] > 1:
            findings.add("shared stem", folder, name)
        if not item.has_caption and not item.text:
            findings.add("no caption text", folder, name)
    _tell_trigger(items, rules, findings)


def _tell_trigger(items: Sequence[Item], rules: SurveyRules, findings: Findings) -> None:
    trigger = rules.trigger.strip().casefold()
    if not trigger or trigger in rules.prefix.casefold():
        return
    texts = [item.caption_raw.casefold() for item in items if not item.is_reg]
    if texts and not any(trigger in text for text in texts):
        findings.add("trigger missing", rules.folder)
