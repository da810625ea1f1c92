"""What the wizard's tests share: a folder of pictures, a tiny base, a machine without a GPU, waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from textual.pilot import Pilot

from engine.hardware import GIB, Gpu, Hardware, TorchBuild
from lyctui.draft import Draft
from lyctui.widgets.setting_field import SettingField, field_id
from lyctui.wizard import Wizard

NO_GPU = Hardware(gpus=(), cores=2, ram_total=24 * GIB, ram_free=20 * GIB)


def gpu_machine(gib: float) -> Hardware:
    """One card with almost everything free."""
    size = int(gib * GIB)
    card = Gpu(
        0,
        "GPU-1",
        f"Card {gib:.0f}",
        size,
        size - GIB // 2,
        driver="580",
        capability=(8, 6),
        cuda_index=0,
    )
    return Hardware(
        (card,), 8, 64 * GIB, 60 * GIB, torch=TorchBuild("2.9.0", "12.8"), cuda_driver=(13, 0)
    )


def pictures(folder: Path, count: int = 4, size: tuple[int, int] = (160, 160)) -> Path:
    """A folder of drawn pictures, every second one with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (number * 40 % 255, 90, 30)).save(folder / f"{number:02}.png")
        if number % 2:
            (folder / f"{number:02}.txt").write_text("vexilo emblem, on white")
    return folder


def filled_draft(model: Path, folder: Path) -> Draft:
    """A draft with everything that must be answered."""
    draft = Draft()
    draft.set("model.path", model)
    draft.set("data.folder", folder)
    draft.set("data.trigger", "vexilo")
    draft.set("data.class_word", "emblem")
    return draft


def settled(draft: Draft, hardware: Hardware = NO_GPU) -> Wizard:
    """A wizard that has read everything."""
    wizard = Wizard(draft, hardware=hardware)
    wizard.begin()
    assert wizard.settle()
    return wizard


async def until(pilot: Pilot[int], condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition, not for a time."""
    end = time.monotonic() + seconds
    # A screen may be on top before its widgets are there.
    while not (pilot.app.screen.is_mounted and condition()):
        if time.monotonic() > end:
            raise AssertionError("the awaited state never came")
        await pilot.pause()
        await asyncio.sleep(0.01)


def field(pilot: Pilot[int], path: str) -> SettingField:
    """The field of a setting on the present page."""
    return pilot.app.screen.query_one(f"#{field_id(path)}", SettingField)
