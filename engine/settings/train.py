"""Length, batch, precision and device."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

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
    network_precision: Annotated[
        Literal["fp32", "fp16", "bf16"], Ask("Network precision", "expert")
    ] = "fp32"
    """Number format of the trained network itself; bf16 rounds at random so that nothing is lost."""
    checkpointing: Annotated[
        bool | None, Ask("Gradient checkpointing", "advanced", blank="from the GPU's memory")
    ] = None
    """Compute parts of each step twice: a third slower, far less memory, same result."""
    attention: Annotated[Literal["sdpa", "xformers", "math"], Ask("Attention", "expert")] = "sdpa"
    """How attention is computed: torch's own fast one, xformers where installed, or the plain formula."""
    ema_decay: Annotated[float, Ge(0), Lt(1), Ask("Averaged weights", "advanced")] = 0.0
    """Keep a running average of the network for files and pictures: 0.99 to 0.9999; 0 is off."""
    validate_every_epochs: Annotated[
        int, Ge(0), Ask("Measure every", "advanced", unit="epochs")
    ] = 1
    """Measure the loss with fixed noise after every n-th epoch, where pictures are held out; 0 is off."""
    validate_every_steps: Annotated[int, Ge(0), Ask("Measure every", "expert", unit="steps")] = 0
    """The same after every n-th step; 0 is off."""
    spike_limit: Annotated[float, Ge(0), Ask("Loss spike above", "expert")] = 5.0
    """Roll back when three steps running have so many times the usual loss of their timesteps; 0 is off."""
    rollbacks: Annotated[int, Ge(0), Ask("Roll back at most", "expert", unit="times")] = 3
    """How often a run goes back to its last good state, at half the rate, before it gives up."""
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
