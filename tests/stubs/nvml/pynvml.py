"""A stand-in for NVML: the cards of the STUB_GPUS variable, a JSON list; unset means no driver.

Put its folder first on PYTHONPATH (or sys.path). A card: {"name", "gib", "free_gib", "uuid",
"capability": [8, 6], "mig": [{"uuid", "gib"}]}, each optional but "gib".
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

GIB = 1 << 30


class NVMLError(Exception):
    """What every call raises where there is nothing to answer."""


@dataclass
class Memory:
    total: int
    free: int
    used: int


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None


@dataclass
class Handle:
    uuid: str
    name: str
    gib: float
    free_gib: float
    capability: tuple[int, int]
    parts: list[Handle] = field(default_factory=list)


def _cards() -> list[Handle]:
    cards = []
    for number, card in enumerate(json.loads(os.environ.get("STUB_GPUS", "[]"))):
        uuid = card.get("uuid", f"GPU-{number:08d}-0000-4000-8000-000000000000")
        name = card.get("name", f"NVIDIA Stub {card['gib']} GB")
        parts = [
            Handle(part["uuid"], f"{name} MIG", part["gib"], part["gib"], (0, 0))
            for part in card.get("mig", [])
        ]
        free = card.get("free_gib", card["gib"] - 0.4)
        cards.append(
            Handle(uuid, name, card["gib"], free, tuple(card.get("capability", (8, 6))), parts)
        )
    return cards


def nvmlInit() -> None:
    if "STUB_GPUS" not in os.environ:
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None:
    pass


def nvmlSystemGetDriverVersion() -> str:
    return "580.65"


def nvmlSystemGetCudaDriverVersion() -> int:
    return 13000


def nvmlDeviceGetCount() -> int:
    return len(_cards())


def nvmlDeviceGetHandleByIndex(index: int) -> Handle:
    return _cards()[index]


def nvmlDeviceGetUUID(handle: Handle) -> bytes:
    # Older releases answer in bytes.
    return handle.uuid.encode()


def nvmlDeviceGetName(handle: Handle) -> str:
    return handle.name


def nvmlDeviceGetMemoryInfo(handle: Handle) -> Memory:
    total, free = int(handle.gib * GIB), int(handle.free_gib * GIB)
    return Memory(total, free, total - free)


def nvmlDeviceGetCudaComputeCapability(handle: Handle) -> tuple[int, int]:
    if handle.capability == (0, 0):
        raise NVMLError("Not Supported")
    return handle.capability


def nvmlDeviceGetComputeRunningProcesses(handle: Handle) -> list[Process]:
    return [Process(1, None)]


def nvmlDeviceGetMigMode(handle: Handle) -> tuple[int, int]:
    if not handle.parts:
        raise NVMLError("Not Supported")
    return (1, 1)


def nvmlDeviceGetMaxMigDeviceCount(handle: Handle) -> int:
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle: Handle, number: int) -> Handle:
    if number >= len(handle.parts):
        raise NVMLError("Not Found")
    return handle.parts[number]
