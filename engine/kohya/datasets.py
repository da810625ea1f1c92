"""Data set configurations of sd-scripts: [general], [[datasets]] and [[datasets.subsets]].

A value of a subset wins over that of its data set, that over [general], and that over the command
line (config_util.py of sd-scripts). Ours has one value for all pictures, but for repeats, class text
and flip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.data.folders import FolderOverride, parse_folder_name, read_folders
from engine.errors import Problem, UsageError
from engine.inert import inert
from engine.kohya.given import Given, Work, nearest
from engine.kohya.report import Row, shown
from engine.kohya.source import read_source
from engine.settings.check import shown as quoted

DATASET_KEYS = frozenset(
    {
        "batch_size", "bucket_no_upscale", "bucket_reso_steps", "enable_bucket", "max_bucket_reso",
        "min_bucket_reso", "resolution", "validation_seed", "validation_split",
        "resize_interpolation", "skip_image_resolution", "network_multiplier",
    }
)  # fmt: skip
SUBSET_KEYS = frozenset(
    {
        "color_aug", "face_crop_aug_range", "flip_aug", "random_crop", "shuffle_caption",
        "keep_tokens", "keep_tokens_separator", "secondary_separator", "caption_separator",
        "enable_wildcard", "token_warmup_min", "token_warmup_step", "caption_prefix",
        "caption_suffix", "caption_dropout_every_n_epochs", "caption_dropout_rate",
        "caption_tag_dropout_rate", "caption_extension", "cache_info", "alpha_mask",
        "conditioning_data_dir", "custom_attributes",
    }
)  # fmt: skip
OWN_KEYS = frozenset({"image_dir", "num_repeats", "class_tokens", "is_reg", "metadata_file"})
EVERY_KEY = DATASET_KEYS | SUBSET_KEYS | OWN_KEYS
REPLACED = ("train_data_dir", "reg_data_dir", "in_json")
"""Arguments that sd-scripts passes over when there is a data set configuration."""
MOST_SUBSETS = 1000


@dataclass(frozen=True, slots=True)
class Subset:
    """One folder of pictures and what is said of it."""

    folder: Path
    repeats: int
    text: str | None
    is_reg: bool
    values: dict[str, Any] = field(default_factory=dict)
    """What holds for it, by key."""


@dataclass(slots=True)
class _Reader:
    where: Path
    problems: list[Problem] = field(default_factory=list)
    unknown: dict[str, Any] = field(default_factory=dict)

    def tell(self, what: str, path: str) -> None:
        self.problems.append(Problem(what, where=str(self.where), path=path))

    def tables(self, holder: dict[str, Any], key: str, place: str) -> list[dict[str, Any]]:
        """A list of tables; anything else is a problem."""
        found = holder.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            self.tell(f"{place}{key} must be a list of tables.", key)
            return []
        return found[:MOST_SUBSETS]

    def known(self, table: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
        """The values of known keys; the others are told."""
        known = frozenset(keys)
        self.unknown |= {key: one for key, one in table.items() if key not in known}
        return {key: one for key, one in table.items() if key in known}


def read(work: Work, path: Path, *, asked: bool) -> list[Problem]:
    """Read a data set file into the arguments; gives the problems of one that must be there."""
    row = Row("dataset_config", shown("", path.name), "taken", ("data.folder", "data.folders"))
    try:
        source = read_source(path)
        if source.kind != "dataset":
            raise UsageError(Problem("This is no data set configuration.", where=str(path)))
    except UsageError as error:
        if asked:
            return list(error.problems)
        note = f"{error.problems[0].what} Give it with --dataset-config."
        work.row("dataset_config", "unsupported", (), note)
        return []
    work.row("dataset_config", "taken", row.settings, "its keys stand below")
    reader = _Reader(path)
    groups = _groups(reader, source.data)
    for name in REPLACED:
        if work.has(name):
            given = work.given.pop(name)
            words = "dataset_config is used instead"
            work.extra.append(Row(given.key, shown(name, given.value), "no effect", (), words))
    if groups and groups[0][1]:
        _shared(work, groups)
        _resolutions(work, groups)
        _folders(work, [one for _, subsets in groups for one in subsets])
    elif not reader.problems:
        reader.tell("The file names no folder of pictures.", "datasets")
    for key, value in reader.unknown.items():
        name = inert(f"dataset: {key}")
        work.extra.append(Row(name, shown(key, value), "unknown", (), nearest(key, EVERY_KEY)))
    return reader.problems


Group = tuple[dict[str, Any], list[Subset]]


def _groups(reader: _Reader, data: dict[str, Any]) -> list[Group]:
    general = data.get("general", {})
    if not isinstance(general, dict):
        reader.tell("[general] must be a table.", "general")
        general = {}
    everywhere = reader.known(general, EVERY_KEY)
    reader.unknown |= {key: one for key, one in data.items() if key not in ("general", "datasets")}
    groups: list[Group] = []
    for number, table in enumerate(reader.tables(data, "datasets", ""), start=1):
        here = everywhere | reader.known(table, EVERY_KEY | {"subsets"})
        here.pop("subsets", None)
        place = f"datasets {number}: "
        subsets = [
            found
            for each in reader.tables(table, "subsets", place)
            if (found := _subset(reader, here | reader.known(each, EVERY_KEY), place)) is not None
        ]
        groups.append((here, subsets))
    return groups


def _subset(reader: _Reader, values: dict[str, Any], place: str) -> Subset | None:
    folder, repeats = values.get("image_dir"), values.get("num_repeats", 1)
    text, is_reg = values.get("class_tokens"), values.get("is_reg", False)
    if "metadata_file" in values:
        reader.tell(f"{place}metadata files of fine-tuning are not read.", "metadata_file")
        return None
    wrong = {
        "image_dir": not isinstance(folder, str) or not folder.strip() or "\0" in folder,
        "num_repeats": not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 0,
        "class_tokens": not isinstance(text, str | None),
        "is_reg": not isinstance(is_reg, bool),
    }
    for key, is_wrong in wrong.items():
        if is_wrong:
            reader.tell(f"{place}{key} cannot be {quoted(values.get(key))}.", key)
    if any(wrong.values()):
        return None
    path = reader.where.parent / Path(str(folder).strip()).expanduser()
    return Subset(path, int(repeats), text, bool(is_reg), values)


def _shared(work: Work, groups: Sequence[Group]) -> None:
    """Values that hold for all pictures become arguments; of different ones the first counts."""
    subsets = [one for _, found in groups for one in found]
    first = next((one for one in subsets if not one.is_reg), subsets[0])
    keys = (DATASET_KEYS | SUBSET_KEYS) - {"resolution"}
    for key in sorted({key for one in subsets for key in one.values if key in keys}):
        name = "train_batch_size" if key == "batch_size" else key
        value = first.values.get(key)
        others = [one for one in subsets if one.values.get(key) != value]
        differs = bool(others) and key != "flip_aug"
        if differs and value is None:
            words = "some folders alone have it: the value for the others holds for all"
            work.extra.append(Row(f"dataset: {key}", "differs", "unsupported", (), words))
        _replace(work, name, value, f"dataset: {key}", differs=differs)


def _replace(work: Work, name: str, value: Any, key: str, *, differs: bool = False) -> None:
    before = work.given.get(name)
    if value is not None and before is not None and work.has(name) and not before.missing:
        words = "the data set configuration wins"
        work.extra.append(Row(before.key, shown(name, before.value), "no effect", (), words))
    if value is not None:
        note = "differs between the folders: this value holds for all" if differs else ""
        work.given[name] = Given(value, key, note, differs=differs)


def _resolutions(work: Work, groups: Sequence[Group]) -> None:
    """Several data sets of the same folders are further resolutions."""
    sizes = [here.get("resolution") for here, _ in groups]
    if sizes[0] is not None:
        _replace(work, "resolution", sizes[0], "dataset: resolution")
    if len(groups) < 2:
        return
    folders = [{one.folder for one in found if not one.is_reg} for _, found in groups]
    others = [_side(size) for size in sizes[1:]]
    if all(one == folders[0] for one in folders) and all(others):
        work.set("data.more_resolutions", others)
        words = "every picture is trained at each of them"
        row = Row(
            "dataset: resolution",
            shown("", others),
            "translated",
            ("data.more_resolutions",),
            words,
        )
        work.extra.append(row)
    elif any(size not in (None, sizes[0]) for size in sizes):
        words = "one resolution holds for every folder: the first"
        work.extra.append(Row("dataset: resolution", "differs", "unsupported", (), words))


def _side(size: Any) -> int | None:
    sides = size if isinstance(size, list) else [size]
    right = all(isinstance(one, int) and not isinstance(one, bool) for one in sides)
    return sides[0] if right and len(set(sides)) == 1 and sides[0] >= 64 else None


# folders --------------------------------------------------------------------------------------


def _folders(work: Work, subsets: Sequence[Subset]) -> None:
    entries: list[dict[str, Any]] = []
    flips = {bool(one.values.get("flip_aug", False)) for one in subsets}
    for is_reg, path in ((False, "data.folder"), (True, "data.reg_folder")):
        unique = {one.folder: one for one in subsets if one.is_reg is is_reg}
        found = list(unique.values())
        if len(found) == 1 and not is_reg:
            entries += _leaf(work, found[0])
        elif found:
            entries += _parent(work, found, path, with_flip=len(flips) > 1)
    if entries:
        work.set("data.folders", entries)


def _leaf(work: Work, subset: Subset) -> list[dict[str, Any]]:
    """One folder: its repeats and its class text are settings of the whole data set."""
    work.set("data.folder", subset.folder)
    work.set("data.layout", "leaf")
    work.set("data.repeats", subset.repeats)
    note = f"{subset.repeats} repeats"
    work.extra.append(
        Row(
            "dataset: image_dir",
            shown("", subset.folder.name),
            "taken",
            ("data.folder", "data.repeats"),
            note,
        )
    )
    trigger, _, rest = (subset.text or "").strip().partition(" ")
    if trigger:
        work.set("data.trigger", trigger)
        work.set("data.class_word", rest.strip())
        paths = ("data.trigger", "data.class_word")
        work.extra.append(Row("dataset: class_tokens", shown("", subset.text), "translated", paths))
    if parse_folder_name(subset.folder.name).repeats is None:
        return []
    return [_entry(subset)]


def _entry(subset: Subset, *, with_flip: bool = False) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": subset.folder.name, "repeats": subset.repeats}
    if subset.text is not None:
        entry["text"] = subset.text
    if with_flip:
        entry["flip"] = bool(subset.values.get("flip_aug", False))
    return entry


def _parent(
    work: Work, subsets: Sequence[Subset], path: str, *, with_flip: bool
) -> list[dict[str, Any]]:
    """Several folders: the folder above them, each with its repeats; its other folders are off."""
    root = subsets[0].folder.parent
    inside = [one for one in subsets if one.folder.parent == root]
    work.set(path, root)
    if path == "data.folder":
        work.set("data.layout", "parent")
    for one in subsets:
        words = (
            f"{one.repeats} repeats"
            if one in inside
            else "it is not beside the first one: move it there"
        )
        status: Any = "taken" if one in inside else "unsupported"
        paths = (path, "data.folders") if one in inside else ()
        work.extra.append(
            Row("dataset: image_dir", shown("", one.folder.name), status, paths, words)
        )
    named = {one.folder.name for one in inside}
    try:
        beside = sorted(
            one.name for one in root.iterdir() if one.is_dir() and one.name not in named
        )
    except OSError:
        beside = []
    off = [{"name": name, "repeats": 0} for name in beside if not name.startswith(".")]
    return [*(_entry(one, with_flip=with_flip) for one in inside), *off]


def samples(work: Work) -> int | None:
    """Pictures × repeats of one epoch, where the folders can be read; None where not."""
    root = work.values.get("data.folder")
    if not isinstance(root, Path) or not root.is_dir():
        return None
    entries = work.values.get("data.folders", [])
    overrides = {str(one["name"]): FolderOverride(one.get("repeats")) for one in entries}
    found = read_folders(
        root,
        layout=work.values.get("data.layout", "auto"),
        overrides=overrides,
        default_repeats=int(work.values.get("data.repeats", 1)),
    )
    count = sum(len(one.pictures) * one.repeats for one in found.concepts)
    return count * (1 + len(work.values.get("data.more_resolutions", ()))) or None
