"""The literal table of checks: how bad each is, what it says, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["error", "warning", "note"]


class Check(NamedTuple):
    """What a check says. `{n}` is the number of files or folders it names."""

    level: Level
    message: str
    remedy: str = ""
    fix: str = ""


# Wrong calls rather than wrong data: they end with exit status 2.
USAGE_CHECKS = frozenset({"folder missing", "leaf and parent"})

CHECKS: dict[str, Check] = {
    # Folders
    "folder missing": Check("error", "There is no such folder.", "Check the path in data.folder."),
    "leaf and parent": Check(
        "error",
        "The folder holds pictures and folders with pictures.",
        'Set data.layout to "leaf" to train the pictures in the folder itself, or to "parent" to '
        "train one concept for each sub-folder.",
    ),
    "no image": Check("error", "No usable picture was found.", "Choose a folder with pictures."),
    "wrong level": Check(
        "error",
        "No picture is in this folder; there are some one level deeper.",
        "Choose the folder that holds them, or the folder just above it.",
    ),
    "empty concept": Check(
        "error",
        "The folder holds no picture.",
        "Add pictures, move the folder away, or set its repeats to 0 in data.folders.",
    ),
    "nothing to train": Check(
        "error", "Every folder has 0 repeats: there is nothing to train.", "Give one a repeat."
    ),
    "duplicate folder": Check(
        "error", "The same folder is listed twice.", "Remove the link or the second mention."
    ),
    "unknown folder": Check("error", "data.folders names a folder that is not there.", ""),
    "bad folder name": Check(
        "error", "The number of repeats in the folder name cannot be used.", "", "rename"
    ),
    "odd folder name": Check(
        "warning",
        "The folder name is taken as class text; it looks like a mistyped number of repeats.",
        "",
        "rename",
    ),
    "folder name": Check("note", "The folder name was read as it stands.", ""),
    "switched off": Check("note", "The folder has 0 repeats and is left out.", ""),
    "nested folder": Check(
        "warning", "Folders inside a concept are not read.", "Move their pictures one level up."
    ),
    "skipped folder": Check("note", "{n} hidden or system folder{s} skipped.", ""),
    "text from settings": Check(
        "note", "The class text comes from the settings, not from the folder name.", ""
    ),
    # Files
    "unreadable": Check(
        "error", "{n} file{s} or folder{s} cannot be read.", "Check the permissions."
    ),
    "broken link": Check(
        "error",
        "{n} link{s} lead{verb} nowhere or in a circle.",
        "Repair or remove them, or mount the disk they point to.",
    ),
    "odd link": Check(
        "warning", "{n} link{s} lead{verb} nowhere or in a circle and {are} skipped.", ""
    ),
    "special picture": Check(
        "error",
        "{n} file{s} with the name of a picture {are} no regular file{s}.",
        "Move them away.",
    ),
    "special file": Check("warning", "{n} pipe{s}, socket{s} or device{s} {were} not opened.", ""),
    "link outside": Check(
        "note", "{n} picture{s} {are} read through a link from outside the folder.", ""
    ),
    "link twice": Check(
        "note", "{n} link{s} to a picture that is already there {are} skipped.", ""
    ),
    "hidden file": Check("note", "{n} hidden file{s} skipped.", ""),
    "foreign format": Check(
        "warning", "{n} file{s} of a kind that cannot be read.", "Convert them to PNG or JPEG."
    ),
    # Pictures
    "not decodable": Check(
        "error", "{n} file{s} cannot be decoded.", "Move them away or replace them."
    ),
    "truncated": Check(
        "error", "{n} picture{s} {are} cut short.", "Copy them again or move them away."
    ),
    "bomb": Check(
        "error",
        "{n} picture{s} {are} larger than the limit.",
        "Make them smaller, or raise data.max_megapixels if you trust them.",
    ),
    "vanished": Check(
        "error",
        "{n} picture{s} {were} changed or removed since they {were} listed.",
        "Start again when the folder is at rest.",
    ),
    "rotated": Check("note", "{n} picture{s} {are} turned upright as EXIF says.", ""),
    "alpha": Check(
        "note",
        "{n} picture{s} {have} transparent parts, put on a background colour.",
        "Choose the colour with data.background.",
    ),
    "animated": Check("note", "{n} animated picture{s}: only the first frame is used.", ""),
    "converted": Check("note", "{n} picture{s} {are} converted to 8-bit sRGB.", ""),
    "shared stem": Check(
        "note", "{n} picture{s} differ{verb} only in extension and share{verb} a caption.", ""
    ),
    "too small": Check(
        "error",
        "{n} picture{s} {are} too small for any bucket.",
        "Enlarge or remove them, lower data.bucket_min, or turn data.no_upscale off.",
    ),
    "enlarged": Check(
        "warning",
        "{n} picture{s} {are} enlarged to fill the bucket.",
        "Use larger pictures or a lower resolution.",
    ),
    "cropped": Check(
        "warning",
        "Over a fifth of the pixels is cropped from {n} picture{s}.",
        "Crop them yourself, or widen the bucket range.",
    ),
    # Captions
    "caption missing": Check(
        "note", "{n} picture{s} {have} no caption file; the class text is used.", ""
    ),
    "no caption text": Check(
        "error",
        "{n} picture{s} {have} neither a caption nor a class text.",
        "Write captions, name the folder like 10_trigger class, or set data.trigger.",
    ),
    "caption empty": Check("warning", "{n} caption file{s} {are} empty.", ""),
    "caption encoding": Check(
        "error", "{n} caption file{s} {are} not UTF-8.", "Convert them to UTF-8.", "convert"
    ),
    "caption BOM": Check(
        "note", "{n} caption file{s} begin{verb} with a byte order mark, which is ignored.", ""
    ),
    "caption too long": Check(
        "error", "{n} caption file{s} {are} over 64 KB.", "A caption is one line; shorten them."
    ),
    "caption extension": Check(
        "warning",
        "No caption file has the expected extension.",
        "Set data.caption_extension.",
        "rename",
    ),
    "caption extensions mixed": Check(
        "warning", "Captions with different extensions are mixed.", "", "rename"
    ),
    "caption extension other": Check("note", "Only .caption files are there; they are used.", ""),
    "caption without image": Check("note", "{n} caption file{s} belong{verb} to no picture.", ""),
    "wildcard braces": Check(
        "warning",
        "The braces of {n} caption file{s} do not pair; where they do not, a line is taken as it "
        "stands.",
        "Close them, or write \\{ and \\} for braces that are meant as such.",
    ),
    "caption cut": Check(
        "warning",
        "{n} caption{s} {have} more tokens than are read; the end is lost.",
        "Shorten them, or raise model.max_tokens.",
    ),
    # Masks
    "mask missing": Check(
        "warning", "{n} picture{s} {have} no mask: the whole picture is learnt.", ""
    ),
    "mask unreadable": Check(
        "error",
        "{n} mask{s} cannot be read.",
        "Replace them, or remove them to learn the whole picture.",
    ),
    "mask size": Check(
        "warning",
        "{n} mask{s} {have} another size than the picture and {are} stretched over it.",
        "Make the mask from the picture.",
    ),
    "mask empty": Check(
        "error",
        "{n} mask{s} leave{verb} nothing of the picture to learn.",
        "White, or opaque, is what is learnt; leave the picture out, or give it another mask.",
    ),
    "mask shared": Check(
        "warning",
        "{n} picture{s} {have} a mask that another picture of the same name has too.",
        "Put the masks of each folder into a folder of its name inside data.mask_folder.",
    ),
    "mask folder": Check("error", "The folder of masks cannot be used.", "Check data.mask_folder."),
    # Sizes
    "resolution skipped": Check(
        "note",
        "{n} picture{s} {are} smaller than a further resolution and not trained at it.",
        "Larger pictures, or data.no_upscale off, train at every resolution.",
    ),
    "lonely buckets": Check(
        "warning",
        "Many buckets hold a single picture.",
        "Use a bucket step of 64.",
    ),
    "trigger missing": Check(
        "warning",
        "No caption holds the trigger.",
        "Write it into the captions, or set data.prefix.",
    ),
}
