"""Length, batch, precision and device."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from engine.settings.ask import Ask, Section


class Train(Section):
    """The loop."""

    epochs: Annotated[int, Ge(1), Ask("Epochs", flag="--epochs")] = 10
    """How often the whole data set, repeats included, is seen."""
    batch_size: Annotated[
        int | None,
        Ge(1),
        Le(64),
        Ask("Batch size", flag="--batch-size", blank="from the GPU's memory"),
    ] = None
    """Pictures trained at once; more is faster and needs more memory."""
    accumulation: Annotated[int, Ge(1), Le(1024), Ask("Accumulation", "advanced")] = 1
    """Batches whose gradients are averaged before the weights change."""
    max_steps: Annotated[int | None, Ge(1), Ask("Step limit", "advanced", blank="none")] = None
    """Stops the run early after this many steps."""
    precision: Annotated[
        Literal["no", "fp16", "bf16"] | None, Ask("Precision", "advanced", blank="from the device")
    ] = None
    """Number format of the base model while training; the network itself stays in fp32."""
    checkpointing: Annotated[
        bool | None, Ask("Gradient checkpointing", "advanced", blank="from the GPU's memory")
    ] = None
    """Compute parts of each step twice: a third slower, far less memory, same result."""
    device: Annotated[str, Ask("Device", "advanced", flag="--device")] = "auto"
    """auto, cpu, the number of a GPU, or its UUID."""
    seed: Annotated[
        int | None, Ge(0), Le(2**32 - 1), Ask("Seed", "advanced", flag="--seed", blank="drawn")
    ] = None
    """Number that fixes every random draw; the same seed gives the same run."""
    threads: Annotated[
        int | None, Ge(1), Le(1024), Ask("CPU threads", "expert", blank="all cores")
    ] = None
    """Threads that torch computes with on the CPU."""
