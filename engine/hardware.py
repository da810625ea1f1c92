"""GPU, memory, CPU and disk, read through NVML and psutil. No torch: reading costs no CUDA context."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from engine.errors import EnvironmentFault, Problem
from engine.gpus import GIB, Gpu, mark_visible, read_gpus

__all__ = [
    "GIB",
    "NO_GPU",
    "Device",
    "Gpu",
    "Hardware",
    "TorchBuild",
    "choose_device",
    "describe_gpu",
    "disk_free",
    "read_hardware",
    "torch_build",
    "usable_cores",
]


NO_GPU = "no NVIDIA GPU: training on the CPU is only practical for the demo"


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The installed torch, read from its files without importing it."""

    version: str
    cuda: str | None
    """CUDA version it was built for; None is a CPU build."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What this machine has."""

    gpus: tuple[Gpu, ...]
    cores: int
    """CPU cores this process may use."""
    ram_total: int
    ram_free: int
    cuda_driver: tuple[int, int] | None = None
    """Newest CUDA version that the driver can run."""
    torch: TorchBuild | None = None
    notes: tuple[str, ...] = ()
    """What should be known about it, in whole sentences."""

    @property
    def usable(self) -> tuple[Gpu, ...]:
        """Cards that this process may use."""
        return tuple(gpu for gpu in self.gpus if gpu.visible)

    @property
    def statement(self) -> str:
        """What there is to compute on, in one line."""
        if not self.usable:
            return NO_GPU
        return "; ".join(describe_gpu(gpu) for gpu in self.usable)


@dataclass(frozen=True, slots=True)
class Device:
    """What training runs on, and why."""

    kind: Literal["cpu", "cuda"]
    gpu: Gpu | None
    reason: str

    @property
    def name(self) -> str:
        """A few words for a screen."""
        return f"GPU {self.gpu.index} {self.gpu.name}" if self.gpu else "CPU"

    @property
    def torch_name(self) -> str:
        """torch's name of it ("cpu", "cuda:0"), matched by UUID. Imports torch.

        Raises EnvironmentFault where torch cannot use the card.
        """
        if self.gpu is None:
            return "cpu"
        import torch

        if not torch.cuda.is_available():
            raise EnvironmentFault(
                Problem(
                    f"torch {torch.__version__} cannot use {self.gpu.name}.",
                    remedy="`lyctui doctor` says why; train.device cpu does without the GPU.",
                    path="train.device",
                )
            )
        wanted = self.gpu.uuid.removeprefix("GPU-")
        for number in range(torch.cuda.device_count()):
            uuid = getattr(torch.cuda.get_device_properties(number), "uuid", None)
            if str(uuid).removeprefix("GPU-") == wanted:
                return f"cuda:{number}"
        # A MIG part's UUID is not told by every torch: its place among the visible ones is.
        return f"cuda:{self.gpu.cuda_index or 0}"


def describe_gpu(gpu: Gpu) -> str:
    """One line: name, memory, driver, bf16."""
    busy = ""
    if gpu.used_by_others > GIB // 2:
        busy = f" ({gpu.used_by_others / GIB:.1f} used by others)"
    bf16 = "yes" if gpu.bf16 else "no"
    return (
        f"GPU {gpu.index}  {gpu.name} · {gpu.total / GIB:.1f} GiB, {gpu.free / GIB:.1f} free{busy}"
        f" · driver {gpu.driver or 'unknown'} · bf16 {bf16}"
    )


def read_hardware() -> Hardware:
    """Everything about this machine that a plan needs; never fails for want of a GPU."""
    gpus, cuda_driver, notes = read_gpus()
    gpus, visibility_notes = mark_visible(gpus)
    notes += visibility_notes
    torch = torch_build()
    if any(gpu.visible for gpu in gpus) and torch is not None and torch.cuda is None:
        notes.append(
            f"The installed torch {torch.version} is a build without CUDA and cannot use the GPU."
            " Install a CUDA build, or set train.device to cpu."
        )
    memory = psutil.virtual_memory()
    limit = _memory_limit()
    return Hardware(
        gpus=tuple(gpus),
        cores=usable_cores(),
        ram_total=min(memory.total, limit or memory.total),
        ram_free=min(memory.available, limit or memory.available),
        cuda_driver=cuda_driver,
        torch=torch,
        notes=tuple(notes),
    )


def usable_cores() -> int:
    """Cores this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def disk_free(path: Path) -> int:
    """Bytes free where `path` is or would be made."""
    place = path.expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def torch_build() -> TorchBuild | None:
    """Version and CUDA of the installed torch from its version file; None where there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    cuda = None
    with contextlib.suppress(OSError):
        text = (Path(spec.origin).parent / "version.py").read_text()
        found = re.search(r"^cuda\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE)
        cuda = found.group(1) if found else None
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        version = "of an unknown version"
    return TorchBuild(version, cuda)


def choose_device(setting: str, hardware: Hardware) -> Device:
    """The device that train.device names: auto, cpu, nvidia-smi's number, cuda:N or a UUID."""
    wanted = setting.strip()
    usable = hardware.usable
    if wanted.lower() == "cpu":
        return Device("cpu", None, "as asked")
    if wanted.lower() in ("auto", "cuda", "gpu", ""):
        if usable:
            best = max(usable, key=lambda gpu: gpu.free)
            return Device("cuda", best, _why_best(best, usable))
        if wanted.lower() in ("auto", ""):
            return Device("cpu", None, NO_GPU)
        raise EnvironmentFault(_no_such_device(setting, hardware))
    for gpu in usable:
        named = (
            wanted == str(gpu.index)
            or wanted.lower() == f"cuda:{gpu.cuda_index}"
            or (len(wanted) >= 8 and gpu.uuid.lower().startswith(wanted.lower()))
        )
        if named:
            return Device("cuda", gpu, "as asked")
    raise EnvironmentFault(_no_such_device(setting, hardware))


def _why_best(best: Gpu, usable: tuple[Gpu, ...]) -> str:
    if len(usable) == 1:
        return "the only GPU this process may use"
    return f"the GPU with the most free memory, {best.free / GIB:.1f} GiB, of {len(usable)}"


def _no_such_device(setting: str, hardware: Hardware) -> Problem:
    if not hardware.gpus:
        return Problem(
            f"{setting!r} is not here: NVML finds no NVIDIA GPU.",
            where="train.device",
            remedy="Set it to cpu or auto, or see `lyctui doctor`.",
            path="train.device",
        )
    names = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in hardware.usable) or "none"
    hidden = [gpu for gpu in hardware.gpus if not gpu.visible]
    why = f" CUDA_VISIBLE_DEVICES hides {len(hidden)}." if hidden else ""
    return Problem(
        f"There is no GPU {setting!r} that this process may use.",
        where="train.device",
        remedy=f"Usable: {names}; or auto, or cpu.{why}",
        path="train.device",
    )


def _memory_limit() -> int | None:
    """Memory that this process's container grants, where that is less than the machine's."""
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(place).read_text())
    return None
