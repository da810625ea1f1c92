"""Pictures, captions, buckets, regularisation and caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MultipleOf

from engine.settings.ask import Ask, Section


class Folder(Section):
    """What one sub-folder is, where its name does not say it."""

    name: Annotated[str, Ask("Folder", "advanced")]
    """Name of the sub-folder as it is on disk."""
    repeats: Annotated[int | None, Ge(0), Ask("Repeats", "advanced", blank="from the name")] = None
    """How often each picture is seen in one epoch; 0 switches the folder off."""
    text: Annotated[str | None, Ask("Class text", "advanced", blank="from the name")] = None
    """Caption of pictures without a caption file: trigger and class."""
    flip: Annotated[bool | None, Ask("Flip", "advanced", blank="as the data set")] = None
    """Mirror pictures of this folder at random."""


class Data(Section):
    """What is learnt from."""

    folder: Annotated[
        Path | None, Ask("Pictures", flag="--data", kind="folder", blank="to be chosen")
    ] = None
    """Folder with pictures, or a folder of folders named like 10_trigger class."""
    reg_folder: Annotated[
        Path | None, Ask("Regularisation", "advanced", kind="folder", blank="none")
    ] = None
    """Pictures of the same class that are not the subject."""
    layout: Annotated[Literal["auto", "leaf", "parent"], Ask("Folder layout", "expert")] = "auto"
    """Whether the folder is one concept (leaf) or holds one folder for each (parent)."""
    folders: Annotated[tuple[Folder, ...], Ask("Folder settings", "expert")] = ()
    """Repeats, class text and flip for sub-folders; wins over their names."""
    trigger: Annotated[str, Ask("Trigger", flag="--trigger")] = ""
    """Invented word that calls the concept."""
    class_word: Annotated[str, Ask("Class", flag="--class")] = ""
    """Ordinary word for what it is: person, dog, style."""
    repeats: Annotated[int, Ge(0), Le(10000), Ask("Repeats", flag="--repeats")] = 1
    """How often each picture is seen in one epoch, where a folder's name does not say."""
    captions: Annotated[bool, Ask("Use captions")] = True
    """Read a caption file beside each picture."""
    caption_extension: Annotated[str, Ask("Caption extension", "advanced")] = ".txt"
    """Extension of caption files; .caption files are found too."""
    keep_empty_captions: Annotated[bool, Ask("Keep empty captions", "expert")] = False
    """An empty caption file means an empty caption instead of the folder's class text."""
    separator: Annotated[str, Ask("Tag separator", "expert")] = ","
    """What stands between two tags."""
    shuffle_tags: Annotated[bool, Ask("Shuffle tags", "advanced")] = False
    """Put the tags in another order at each draw."""
    keep_tokens: Annotated[
        int | None, Ge(0), Le(255), Ask("Keep tags", "advanced", blank="trigger and class")
    ] = None
    """How many leading tags keep their place and are never dropped; counts tags."""
    keep_separator: Annotated[str, Ask("Separator of the kept part", "expert")] = ""
    """Text such as ||| in a caption: what is before it is kept, and what is after a second one."""
    secondary_separator: Annotated[str, Ask("Separator inside tags", "expert")] = ""
    """Text such as ;;; that holds tags together in a draw and then becomes the tag separator."""
    wildcards: Annotated[bool, Ask("Wildcards", "advanced")] = False
    """Draw one of {a|b|c}, and one line of a caption file that has several."""
    caption_dropout: Annotated[float, Ge(0), Le(1), Ask("Caption dropout", "advanced")] = 0.0
    """Share of draws that see an empty caption."""
    caption_dropout_every: Annotated[
        int, Ge(0), Ask("Empty caption every", "expert", unit="epochs")
    ] = 0
    """Every n-th epoch sees empty captions only; 0 is off."""
    tag_dropout: Annotated[float, Ge(0), Le(1), Ask("Tag dropout", "advanced")] = 0.0
    """Chance of each flexible tag to be left out of a draw."""
    prefix: Annotated[str, Ask("Caption prefix", "advanced")] = ""
    """Text put before every caption that does not begin with it."""
    suffix: Annotated[str, Ask("Caption suffix", "expert")] = ""
    """Text put after every caption that does not end with it."""
    resolution: Annotated[
        tuple[Annotated[int, Ge(64)], Annotated[int, Ge(64)]] | None,
        Ask("Resolution", unit="px", flag="--resolution", blank="what the base was made for"),
    ] = None
    """Width and height; their product is the area budget of every bucket."""
    more_resolutions: Annotated[
        tuple[Annotated[int, Ge(64), Le(4096)], ...],
        Ask("Further resolutions", "expert", unit="px"),
    ] = ()
    """Sides of further area budgets; every picture is trained at each of them too."""
    buckets: Annotated[bool, Ask("Buckets", "advanced")] = True
    """Train pictures of several shapes in groups of one shape."""
    bucket_step: Annotated[
        int, Ge(8), Le(1024), MultipleOf(8), Ask("Bucket step", "expert", unit="px")
    ] = 64
    """Bucket sides are multiples of this."""
    bucket_min: Annotated[int, Ge(8), Ask("Smallest bucket side", "expert", unit="px")] = 256
    """No bucket side is shorter."""
    bucket_max: Annotated[
        int | None,
        Ge(8),
        Ask("Largest bucket side", "expert", unit="px", blank="1024, on SDXL 2048"),
    ] = None
    """No bucket side is longer."""
    no_upscale: Annotated[bool, Ask("Never enlarge", "advanced")] = True
    """Small pictures keep their size instead of being enlarged."""
    flip: Annotated[bool, Ask("Mirror at random", "advanced")] = False
    """Show pictures mirrored half of the time; never for subjects with a left and a right."""
    colour: Annotated[bool, Ask("Vary colours", "expert")] = False
    """Shift hue or brightness of a third of the draws a little; switches the cache off."""
    random_crop: Annotated[bool, Ask("Random crop", "expert")] = False
    """Cut the overhang at a random place instead of around the centre; switches the cache off."""
    background: Annotated[str, Ask("Behind transparency", "advanced")] = "white"
    """Colour put behind transparent pixels: a name, #rrggbb, or random."""
    masked_loss: Annotated[Literal["off", "alpha", "folder"], Ask("Masked loss", "advanced")] = (
        "off"
    )
    """Learn from a part of each picture: what is opaque, or what is white in a mask picture."""
    mask_folder: Annotated[Path | None, Ask("Masks", "advanced", kind="folder", blank="none")] = (
        None
    )
    """Folder of mask pictures named like the training pictures; white is learnt."""
    mask_mean: Annotated[Literal["mask", "picture"], Ask("Mask mean", "expert")] = "mask"
    """Mean of the loss over the masked area, or over the whole picture as kohya has it."""
    max_megapixels: Annotated[float, Ge(1), Ask("Largest picture", "expert", unit="MP")] = 100.0
    """Larger pictures are refused as decompression bombs."""
    reg_ratio: Annotated[
        float, Ge(0), Le(10), Ask("Regularisation ratio", "advanced", unit="x")
    ] = 1.0
    """Regularisation samples for each training sample."""
    validation: Annotated[float, Ge(0), Le(0.5), Ask("Held out", "advanced")] = 0.0
    """Share of the training pictures that are not trained but measured; 0 is off."""
    validation_seed: Annotated[int, Ge(0), Le(2**32 - 1), Ask("Held-out seed", "expert")] = 0
    """Number that chooses the pictures held out."""
    cache_latents: Annotated[Literal["disk", "ram", "off"], Ask("Cache latents", "advanced")] = (
        "disk"
    )
    """Encode each picture once and keep the result."""
    vae_batch: Annotated[int, Ge(1), Le(64), Ask("VAE batch", "expert")] = 1
    """Pictures that are encoded together when the cache is filled; 1 gives the same bits always."""
    cache_text: Annotated[
        bool | None,
        Ask("Cache text", "expert", blank="on where the text encoder is not trained"),
    ] = None
    """Encode each caption once; needs a text encoder that is not trained."""
    cache_gigabytes: Annotated[float, Ge(0), Ask("Cache limit", "expert", unit="GB")] = 50.0
    """Size of the cache folder above which the entries unused for longest are removed."""
    workers: Annotated[
        int | None, Ge(0), Le(64), Ask("Loader workers", "expert", blank="from the CPU cores")
    ] = None
    """Threads that read pictures ahead; changes speed only, never the result."""
