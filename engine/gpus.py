"""NVIDIA cards as NVML sees them, and which of them this process may use. No torch.

NVML ignores CUDA_VISIBLE_DEVICES and counts cards by bus while torch counts them by speed, so cards
are named by UUID here; whoever computes matches torch's cards by the same UUID.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

GIB = 1 << 30
BF16_CAPABILITY = (8, 0)
"""Ampere is the first generation whose tensor cores compute in bf16."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card, or one MIG part of a card, as NVML sees it."""

    index: int
    """Number that nvidia-smi shows."""
    uuid: str
    name: str
    total: int
    free: int
    """Bytes free now, on the whole card."""
    used_by_others: int = 0
    """Bytes held by other processes than this one."""
    driver: str = ""
    capability: tuple[int, int] | None = None
    mig_part: bool = False
    visible: bool = True
    """Whether CUDA_VISIBLE_DEVICES lets this process use it."""
    cuda_index: int | None = None
    """Place among the visible cards, which is torch's number where all cards are alike."""

    @property
    def bf16(self) -> bool:
        """Whether it computes in bf16."""
        return self.capability is not None and self.capability >= BF16_CAPABILITY


# NVML ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """The pynvml module, initialised, or None where there is no driver or no module."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def read_gpus() -> tuple[list[Gpu], tuple[int, int] | None, list[str]]:
    """Every card, the newest CUDA version that the driver runs, and notes."""
    with _nvml() as nvml:
        if nvml is None:
            return [], None, []
        gpus: list[Gpu] = []
        notes: list[str] = []
        driver = _text(_try(nvml, nvml.nvmlSystemGetDriverVersion, default=""))
        version = _try(nvml, nvml.nvmlSystemGetCudaDriverVersion, default=0)
        for index in range(_try(nvml, nvml.nvmlDeviceGetCount, default=0)):
            try:
                found, found_notes = _read_card(nvml, index, driver)
            except nvml.NVMLError as error:
                notes.append(f"GPU {index} does not answer ({error}); it is left out.")
                continue
            gpus += found
            notes += found_notes
        return gpus, (version // 1000, version % 1000 // 10) if version else None, notes


def _read_card(nvml: Any, index: int, driver: str) -> tuple[list[Gpu], list[str]]:
    """A card, or its MIG parts where it is split; a split card itself cannot be computed on."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    card = _read_handle(nvml, handle, index, driver)
    mode = _try(nvml, nvml.nvmlDeviceGetMigMode, handle, default=(0, 0))
    if mode[0] != 1:
        return [card], []
    parts = []
    for number in range(_try(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle, default=0)):
        with contextlib.suppress(nvml.NVMLError):
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            read = _read_handle(nvml, part, index, driver)
            parts.append(replace(read, mig_part=True, capability=card.capability))
    note = f"GPU {index} ({card.name}) is split by MIG into {len(parts)} parts"
    if not parts:
        return [], [f"{note}: make one with nvidia-smi mig, or switch MIG off."]
    return parts, [f"{note}; one part is used, named by its MIG- UUID."]


def _read_handle(nvml: Any, handle: Any, index: int, driver: str) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    capability = _try(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle, default=None)
    processes = _try(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle, default=[])
    ours = sum(process.usedGpuMemory or 0 for process in processes if process.pid == os.getpid())
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(_try(nvml, nvml.nvmlDeviceGetName, handle, default="NVIDIA GPU")),
        total=int(memory.total),
        free=int(memory.free),
        used_by_others=max(0, int(memory.total) - int(memory.free) - ours),
        driver=driver,
        capability=tuple(capability) if capability else None,
    )


def _try(nvml: Any, call: Any, *arguments: Any, default: Any) -> Any:
    """Old drivers and consumer cards lack some calls: then the default."""
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return default


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


# CUDA_VISIBLE_DEVICES -----------------------------------------------------------------------


def mark_visible(gpus: list[Gpu]) -> tuple[list[Gpu], list[str]]:
    """Mark what CUDA_VISIBLE_DEVICES allows, by CUDA's rule: the list ends at its first bad entry."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return [replace(gpu, cuda_index=place) for place, gpu in enumerate(gpus)], []
    order: list[Gpu] = []
    notes: list[str] = []
    by_number = False
    for entry in (part.strip() for part in setting.split(",")):
        gpu = _named_by(entry, gpus)
        if gpu is None or gpu in order:
            if entry and entry != "-1":
                notes.append(f"CUDA_VISIBLE_DEVICES names {entry!r}, which is not here.")
            break
        by_number = by_number or entry.isdecimal()
        order.append(gpu)
    places = {gpu.uuid: place for place, gpu in enumerate(order)}
    marked = [
        replace(gpu, visible=gpu.uuid in places, cuda_index=places.get(gpu.uuid)) for gpu in gpus
    ]
    if gpus and not order:
        notes.append("CUDA_VISIBLE_DEVICES hides every GPU from this process.")
    if by_number and _counted_by_speed(gpus):
        notes.append(
            "CUDA_VISIBLE_DEVICES counts unlike cards by speed, not as nvidia-smi does:"
            " name the card by its UUID, or set CUDA_DEVICE_ORDER=PCI_BUS_ID."
        )
    return marked, notes


def _named_by(entry: str, gpus: list[Gpu]) -> Gpu | None:
    if entry.isdecimal():
        cards = [gpu for gpu in gpus if gpu.index == int(entry)]
        return cards[0] if cards else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matches = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _counted_by_speed(gpus: list[Gpu]) -> bool:
    order = os.environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    return order != "PCI_BUS_ID" and len({gpu.name for gpu in gpus}) > 1
