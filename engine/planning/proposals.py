"""What fits: batch, checkpointing, precision and optimizer from the memory that is free.

The rows are the usual classes of cards, chosen by free memory: what others hold is not ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.hardware import GIB, NO_GPU, Device

SMALL_PIXELS = 576 * 576
"""Up to here a row's figures for 512 px hold, above it those for 768 px."""
LARGE_PIXELS = 768 * 768
TINY_PARAMETERS = 50_000_000
"""A base below this (the demo's has 3 million) trains in batches on a CPU too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One class of cards: what fits at 512 px and at 768 px."""

    label: str
    least_free_gib: float
    batch: tuple[int, int]
    without_checkpointing: tuple[int, int]
    """Largest batch that fits with checkpointing off; 0 where none does."""
    largest_rank: int | None = None


ROWS: dict[str, tuple[Row, ...]] = {
    "sd1": (
        Row("24 GB and more", 20.0, (8, 6), (8, 4)),
        Row("16 GB", 13.5, (8, 4), (4, 2)),
        Row("10 to 12 GB", 8.8, (4, 2), (2, 1)),
        Row("8 GB", 6.2, (2, 1), (0, 0)),
        Row("6 GB", 0.0, (1, 1), (0, 0), largest_rank=16),
    ),
}
LEAST_FREE_GIB = 4.2
"""Below this even the smallest row may not fit."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A value and why it is proposed, in words."""

    value: int | bool | str
    reason: str


def row_for(free_bytes: int, family: str) -> Row:
    """The row of the table that so much free memory reaches."""
    rows = ROWS.get(family, ROWS["sd1"])
    return next(row for row in rows if free_bytes / GIB >= row.least_free_gib)


def propose_batch(
    device: Device, *, family: str, pixels: int, parameters: int, checkpointing: bool | None
) -> Proposal:
    """Pictures at once; `checkpointing` is the user's own choice where there is one."""
    if device.gpu is None:
        if parameters < TINY_PARAMETERS:
            return Proposal(4, "a tiny base on the CPU")
        return Proposal(1, f"{NO_GPU}; a full-size base takes one picture at a time")
    row = row_for(device.gpu.free, family)
    batch = row.batch[_column(pixels)]
    if checkpointing is False:
        batch = max(1, row.without_checkpointing[_column(pixels)])
    batch = max(1, round(batch * _shrink(pixels)))
    return Proposal(batch, f"{_memory(device)}: the {row.label} class{_warning(device)}")


def propose_checkpointing(
    device: Device, *, family: str, pixels: int, parameters: int, batch: int, ram_free: int
) -> Proposal:
    """Whether parts of each step are computed twice to save memory."""
    if device.gpu is None:
        tight = parameters >= TINY_PARAMETERS and ram_free < 16 * GIB
        if tight:
            return Proposal(True, f"{ram_free / GIB:.1f} GiB of memory free, less than 16")
        return Proposal(False, f"{ram_free / GIB:.1f} GiB of memory free are enough without")
    row = row_for(device.gpu.free, family)
    fits = row.without_checkpointing[_column(pixels)] * _shrink(pixels)
    if batch <= fits:
        return Proposal(False, f"batch {batch} fits without it: {_memory(device)}")
    enough = f"enough without it up to batch {int(fits)}" if fits >= 1 else "too little without it"
    return Proposal(True, f"{_memory(device)}: {enough}")


def propose_precision(device: Device) -> Proposal:
    """Number format of the frozen base."""
    if device.gpu is None:
        return Proposal("no", "the CPU trains in fp32")
    if device.gpu.bf16:
        return Proposal("bf16", f"{device.gpu.name} computes in bf16")
    return Proposal("fp16", f"{device.gpu.name} has no bf16; a loss scaler guards fp16")


def propose_optimizer(device: Device, adamw8bit_works: bool | None) -> Proposal:
    """AdamW8bit where a probe step works on the GPU, else AdamW."""
    if device.gpu is None:
        return Proposal("adamw", "8-bit states save nothing worth having on the CPU")
    if adamw8bit_works is False:
        return Proposal("adamw", "an 8-bit step did not work here: see `lyctui doctor`")
    if adamw8bit_works is None:
        return Proposal("adamw8bit", "saves memory on a GPU; one real step is tried at the start")
    return Proposal("adamw8bit", "saves memory on a GPU; one 8-bit step was tried and works")


def largest_rank(device: Device, family: str) -> Proposal | None:
    """The rank that a small card's memory allows; None where memory sets no limit."""
    if device.gpu is None:
        return None
    row = row_for(device.gpu.free, family)
    if row.largest_rank is None:
        return None
    return Proposal(row.largest_rank, f"{_memory(device)}: the {row.label} class")


def _column(pixels: int) -> int:
    return 0 if pixels <= SMALL_PIXELS else 1


def _shrink(pixels: int) -> float:
    """Activations grow with the pixels: above 768 px the batch shrinks in proportion."""
    return min(1.0, LARGE_PIXELS / pixels)


def _memory(device: Device) -> str:
    assert device.gpu is not None
    gpu = device.gpu
    free = f"{gpu.free / GIB:.1f} GiB free on GPU {gpu.index}"
    if gpu.used_by_others > GIB:
        free += f" ({gpu.used_by_others / GIB:.1f} of {gpu.total / GIB:.0f} used by others)"
    return free


def _warning(device: Device) -> str:
    assert device.gpu is not None
    if device.gpu.free / GIB >= LEAST_FREE_GIB:
        return ""
    return "; this is less than it needs, so training may run out of memory"
