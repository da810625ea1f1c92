"""What fits: batch, checkpointing, precision and optimizer from the memory that is free.

The rows are the usual classes of cards, chosen by free memory: what others hold is not ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.hardware import GIB, NO_GPU, Device

TINY_PARAMETERS = 50_000_000
"""A base below this (the demo's has 3 million) trains in batches on a CPU too."""
USUAL_PARAMETERS = 859_520_964
"""Of the U-Net of Stable Diffusion 1, for which 16 GiB of main memory are enough."""
USUAL_RAM = 16 * GIB


@dataclass(frozen=True, slots=True)
class Row:
    """One class of cards: what fits at the smaller and at the larger size of pictures."""

    label: str
    least_free_gib: float
    batch: tuple[int, int]
    without_checkpointing: tuple[int, int]
    """Largest batch that fits with checkpointing off; 0 where none does."""
    largest_rank: int | None = None
    largest_side: int | None = None
    """Side of the largest pictures that fit, where it is less than what the base was made for."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a family."""

    small_pixels: int
    """Up to here the first figures of a row hold, above it the second ones."""
    large_pixels: int
    """What the second figures are for; above it a batch shrinks in proportion."""
    least_gib: float
    """Below this even the smallest row may not fit."""
    rows: tuple[Row, ...]


CLASSIC = Table(
    small_pixels=576 * 576,
    large_pixels=768 * 768,
    least_gib=4.2,
    rows=(
        Row("24 GB and more", 20.0, (8, 6), (8, 4)),
        Row("16 GB", 13.5, (8, 4), (4, 2)),
        Row("10 to 12 GB", 8.8, (4, 2), (2, 1)),
        Row("8 GB", 6.2, (2, 1), (0, 0)),
        Row("6 GB", 0.0, (1, 1), (0, 0), largest_rank=16),
    ),
)
"""512 and 768 px. Stable Diffusion 2 differs in its text encoder only."""
LARGE = Table(
    small_pixels=832 * 832,
    large_pixels=1024 * 1024,
    least_gib=7.0,
    rows=(
        Row("24 GB and more", 20.0, (8, 6), (2, 1)),
        Row("16 GB", 13.5, (6, 4), (1, 0)),
        Row("12 GB", 10.6, (3, 2), (0, 0)),
        Row("10 GB", 8.8, (2, 1), (0, 0)),
        Row("8 GB", 6.9, (1, 1), (0, 0), largest_rank=16),
        Row("6 GB", 0.0, (1, 1), (0, 0), largest_rank=8, largest_side=768),
    ),
)
"""768 and 1024 px, the U-Net alone and text cached."""
TABLES: dict[str, Table] = {"sd1": CLASSIC, "sd2": CLASSIC, "sdxl": LARGE}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A value and why it is proposed, in words."""

    value: int | bool | str
    reason: str


def row_for(free_bytes: int, family: str) -> Row:
    """The row of the table that so much free memory reaches."""
    rows = _table(family).rows
    return next(row for row in rows if free_bytes / GIB >= row.least_free_gib)


def propose_batch(
    device: Device, *, family: str, pixels: int, parameters: int, checkpointing: bool | None
) -> Proposal:
    """Pictures at once; `checkpointing` is the user's own choice where there is one."""
    if device.gpu is None:
        if parameters < TINY_PARAMETERS:
            return Proposal(4, "a tiny base on the CPU")
        return Proposal(1, f"{NO_GPU}; a full-size base takes one picture at a time")
    table, row = _table(family), row_for(device.gpu.free, family)
    column = _column(pixels, table)
    batch = row.batch[column]
    if checkpointing is False:
        batch = max(1, row.without_checkpointing[column])
    batch = max(1, round(batch * _shrink(pixels, table)))
    return Proposal(batch, f"{_memory(device)}: the {row.label} class{_warning(device, table)}")


def propose_checkpointing(
    device: Device, *, family: str, pixels: int, parameters: int, batch: int, ram_free: int
) -> Proposal:
    """Whether parts of each step are computed twice to save memory."""
    if device.gpu is None:
        return _checkpointing_in_ram(parameters, ram_free)
    table, row = _table(family), row_for(device.gpu.free, family)
    fits = row.without_checkpointing[_column(pixels, table)] * _shrink(pixels, table)
    if batch <= fits:
        return Proposal(False, f"batch {batch} fits without it: {_memory(device)}")
    enough = f"enough without it up to batch {int(fits)}" if fits >= 1 else "too little without it"
    return Proposal(True, f"{_memory(device)}: {enough}")


def _checkpointing_in_ram(parameters: int, ram_free: int) -> Proposal:
    free = f"{ram_free / GIB:.1f} GiB of memory free"
    enough = int(USUAL_RAM * max(1.0, parameters / USUAL_PARAMETERS))
    if parameters >= TINY_PARAMETERS and ram_free < enough:
        return Proposal(True, f"{free}, less than {enough / GIB:.0f}")
    return Proposal(False, f"{free} are enough without")


def propose_side(device: Device, family: str) -> Proposal | None:
    """Side of the largest pictures that a small card's memory allows; None where it sets no limit."""
    if device.gpu is None:
        return None
    row = row_for(device.gpu.free, family)
    if row.largest_side is None:
        return None
    reason = f"{_memory(device)}: the {row.label} class; the base was made for more and learns less"
    return Proposal(row.largest_side, reason)


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


def _table(family: str) -> Table:
    return TABLES.get(family, CLASSIC)


def _column(pixels: int, table: Table) -> int:
    return 0 if pixels <= table.small_pixels else 1


def _shrink(pixels: int, table: Table) -> float:
    """Activations grow with the pixels: above the larger size the batch shrinks in proportion."""
    return min(1.0, table.large_pixels / pixels)


def _memory(device: Device) -> str:
    assert device.gpu is not None
    gpu = device.gpu
    free = f"{gpu.free / GIB:.1f} GiB free on GPU {gpu.index}"
    if gpu.used_by_others > GIB:
        free += f" ({gpu.used_by_others / GIB:.1f} of {gpu.total / GIB:.0f} used by others)"
    return free


def _warning(device: Device, table: Table) -> str:
    assert device.gpu is not None
    if device.gpu.free / GIB >= table.least_gib:
        return ""
    return "; this is less than it needs, so training may run out of memory"
