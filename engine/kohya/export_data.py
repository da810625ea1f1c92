"""Model, pictures and captions as arguments of sd-scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.kohya.data import CAPTIONS, STEP
from engine.kohya.export import Draft

if TYPE_CHECKING:
    from engine.data.folders import ConceptFolder

LEAST_STEP = {"sdxl": 32}
OTHER_STEP = 64


def model(draft: Draft, prediction: str) -> None:
    """Base model, family, prediction."""
    chosen = draft.recipe.model
    if chosen.path is not None:
        draft.add("pretrained_model_name_or_path", chosen.path)
    draft.said("model.path")
    if draft.recipe.model.family != "auto":
        draft.said("model.family")
    draft.elsewhere.add("model.family")
    if draft.family == "sd2":
        draft.add("v2")
    found = chosen.prediction if chosen.prediction != "auto" else prediction
    if not found:
        draft.differs(
            "model.prediction",
            "not known without the file: v-prediction needs --v_parameterization",
        )
    if found == "v":
        draft.add("v_parameterization")
    (draft.said if chosen.prediction != "auto" else draft.elsewhere.add)("model.prediction")
    if chosen.clip_skip is None:
        draft.differs("model.clip_skip", "left open here; sd-scripts takes 1")
    elif chosen.clip_skip != 1:
        draft.add("clip_skip", chosen.clip_skip)
    draft.said("model.clip_skip", "model.max_tokens")
    if chosen.max_tokens != 75:
        draft.add("max_token_length", chosen.max_tokens)


def pictures(draft: Draft) -> None:
    """Captions, sizes, masks, caches."""
    _captions(draft)
    _sizes(draft)
    _masks(draft)
    _caches(draft)


def _captions(draft: Draft) -> None:
    data = draft.recipe.data
    extension = data.caption_extension
    if not data.captions:
        draft.add("caption_extension", ".none", paths=("data.captions",))
        return
    draft.said("data.captions")
    draft.add("caption_extension", extension)
    if extension in CAPTIONS:
        draft.said("data.caption_extension")
    else:
        draft.differs("data.caption_extension", ".caption files are not found beside it there")


def _sizes(draft: Draft) -> None:
    data = draft.recipe.data
    if data.resolution is None:
        draft.differs("data.resolution", "left open here; sd-scripts needs --resolution")
    else:
        width, height = data.resolution
        draft.add("resolution", f"{width},{height}", paths=("data.resolution",))
        if width % STEP or height % STEP:
            draft.differs("data.resolution", "kohya refuses sides that are no multiples of 8")
    draft.add("bucket_reso_steps", data.bucket_step, paths=("data.bucket_step",))
    least = LEAST_STEP.get(draft.family, OTHER_STEP)
    if data.buckets and data.bucket_step % least:
        draft.differs("bucket steps", f"kohya refuses steps that are no multiples of {least}")
    if data.no_upscale and data.buckets:
        draft.differs("bucket limits", "kohya ignores both bucket limits with it")


def _masks(draft: Draft) -> None:
    data = draft.recipe.data
    if data.masked_loss == "off":
        return
    draft.add("masked_loss", paths=("data.masked_loss",))
    if data.masked_loss == "alpha":
        draft.add("alpha_mask")
    elif data.mask_folder is not None:
        words = "kohya reads masks where the data set configuration has a conditioning_data_dir"
        draft.differs("data.mask_folder", f"{words} for each folder: write it there")
        draft.differs("data.masked_loss", "without masks masked_loss does nothing there")
    if data.mask_mean == "picture":
        draft.said("data.mask_mean")
    else:
        draft.differs("data.mask_mean", "kohya takes the mean over the whole picture")


def _caches(draft: Draft) -> None:
    data = draft.recipe.data
    draft.said("data.cache_latents")
    if data.cache_latents != "off":
        draft.add("cache_latents")
    if data.cache_latents == "disk":
        draft.add("cache_latents_to_disk")
    frozen = draft.recipe.optim.te_lr == 0
    if data.cache_text and draft.family == "sdxl" and frozen:
        draft.add("cache_text_encoder_outputs", paths=("data.cache_text",))
    elif data.cache_text:
        draft.differs(
            "data.cache_text", "kohya caches text for SDXL alone, with untrained encoders"
        )
    else:
        draft.elsewhere.add("data.cache_text")


# folders --------------------------------------------------------------------------------------


def folders(draft: Draft, concepts: Sequence[ConceptFolder]) -> str:
    """Folders of pictures as arguments; where names do not say it all, text of a data set file."""
    data = draft.recipe.data
    if data.folder is None:
        return ""
    if _by_names(draft, concepts):
        draft.add("train_data_dir", data.folder, paths=("data.folder",))
        (draft.said if data.layout == "parent" else draft.elsewhere.add)("data.layout")
        return ""
    draft.elsewhere.add("data.reg_folder")
    subsets = _from_disk(concepts) if concepts else _from_recipe(draft)
    _round(draft, subsets)
    return dataset_text(subsets, _resolutions(draft))


def _by_names(draft: Draft, concepts: Sequence[ConceptFolder]) -> bool:
    """Whether sd-scripts reads repeats and texts from the names of the folders as we do."""
    from engine.data.names import parse_folder_name

    data = draft.recipe.data
    if data.layout == "leaf" or data.folders or data.more_resolutions or data.repeats != 1:
        return False
    roots = {data.folder, data.reg_folder}
    return all(
        parse_folder_name(one.name).repeats is not None and one.path not in roots
        for one in concepts
    )


Subset = dict[str, Any]


def _from_disk(concepts: Iterable[ConceptFolder]) -> list[Subset]:
    found = []
    for one in concepts:
        subset: Subset = {"image_dir": str(one.path), "num_repeats": one.repeats}
        if one.text:
            subset["class_tokens"] = one.text
        if one.is_reg:
            subset["is_reg"] = True
        if one.flip is not None:
            subset["flip_aug"] = one.flip
        found.append(subset)
    return [one for one in found if one["num_repeats"] > 0]


def _from_recipe(draft: Draft) -> list[Subset]:
    """The folders that the recipe names, where the disk cannot be asked."""
    data = draft.recipe.data
    assert data.folder is not None
    words = " ".join(word for word in (data.trigger, data.class_word) if word)
    found: list[Subset] = []
    for one in data.folders if data.layout != "leaf" else ():
        if one.repeats == 0:
            continue
        subset: Subset = {"image_dir": str(data.folder / one.name)}
        subset["num_repeats"] = data.repeats if one.repeats is None else one.repeats
        if one.text is not None:
            subset["class_tokens"] = one.text
        if one.flip is not None:
            subset["flip_aug"] = one.flip
        found.append(subset)
    if not found:
        found = [{"image_dir": str(data.folder), "num_repeats": data.repeats}]
        if words:
            found[0]["class_tokens"] = words
    if data.reg_folder is not None:
        found.append({"image_dir": str(data.reg_folder), "num_repeats": 1, "is_reg": True})
    return found


def _round(draft: Draft, subsets: Sequence[Subset]) -> None:
    """Which settings can be read back from the file as they are."""
    data = draft.recipe.data
    own = [one for one in subsets if not one.get("is_reg")]
    whole = len(own) == 1 and own[0]["image_dir"] == str(data.folder) and not data.folders
    paths = [
        "data.folder",
        "data.folders",
        "data.layout",
        "data.repeats",
        "data.trigger",
        "data.class_word",
    ]
    single = len(data.trigger.split()) == 1 or not data.class_word
    if whole and data.layout == "leaf" and single:
        draft.said(*paths)
    else:
        draft.elsewhere.update(paths)


def _resolutions(draft: Draft) -> list[int | None]:
    data = draft.recipe.data
    if not data.more_resolutions:
        return [None]
    draft.said("data.more_resolutions")
    return [None, *data.more_resolutions]


def dataset_text(subsets: Sequence[Subset], resolutions: Sequence[int | None]) -> str:
    """A data set configuration; what it does not say comes from the command."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("Folders of pictures, made by `lyctui export`."))
    tables = tomlkit.aot()
    for side in resolutions:
        table = tomlkit.table()
        if side is not None:
            table.append("resolution", side)
        inner = tomlkit.aot()
        for subset in subsets:
            row = tomlkit.table()
            for key, value in subset.items():
                row.append(key, value)
            inner.append(row)
        table.append("subsets", inner)
        tables.append(table)
    document.append("datasets", tables)
    return tomlkit.dumps(document)


__all__ = ["Path", "dataset_text", "folders", "model", "pictures"]
