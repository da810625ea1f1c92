"""A long run of the demo in one process with its monitor on: do memory, threads or file handles grow?

Usage: python benchmarks/soak.py [--steps 10000] [--batch 1] [--every 500]

The monitor draws on a pseudo terminal of 120x40 that this script reads, as a terminal would. Every file
and state of the demo is written, the oldest removed again. Memory is what the process has
allocated; the slope is a straight line through the second half of the run.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.events import Ended, Event, StepDone
from engine.runs import read_events

ROWS, COLUMNS = 40, 120
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """The process at one step."""

    step: int
    memory_mb: float
    threads: int
    handles: int


def train(folder: Path, steps: int, batch: int) -> int:
    """The demo, longer, with its monitor; the exit code."""
    from engine.plan import gather, plan
    from lyctui.app import run_app
    from lyctui.demo.run import demo_recipe
    from lyctui.monitor import open_run

    recipe = demo_recipe(folder)
    changes = {
        "train": {"max_steps": steps, "epochs": steps, "batch_size": batch},
        "save": {"keep_last": 3},
        "sample": {"every_epochs": 50},
    }
    for section, values in changes.items():
        changed = getattr(recipe, section).model_copy(update=values)
        recipe = recipe.model_copy(update={section: changed})
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    return run_app(run=open_run(made.recipe))


def start(folder: Path, steps: int, batch: int) -> tuple[int, int]:
    """Process id and terminal of a run in a pseudo terminal."""
    process, terminal = pty.fork()
    if process == 0:
        places = {f"LYCTUI_{name}": str(folder) for name in ("STATE", "RUNS", "CACHE", "CONFIG")}
        os.environ.update(places, TERM="xterm-256color")
        again = ["--child", str(folder), "--steps", str(steps), "--batch", str(batch)]
        os.execv(sys.executable, [sys.executable, __file__, *again])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    return process, terminal


def readings(folder: Path, process: int, terminal: int, every: int) -> list[Reading]:
    """Watch a run to its end, reading its screen all the while."""
    seen = psutil.Process(process)
    found: list[Reading] = []
    offset, due, looked = 0, every, 0.0
    while drain(terminal):
        if time.monotonic() - looked < LOOK_SECONDS:
            continue
        looked = time.monotonic()
        new: list[Event] = []
        for events in folder.glob("*/events.jsonl"):
            new, offset = read_events(events, offset)
        step = max((event.step for event in new if isinstance(event, StepDone)), default=0)
        if step >= due:
            due = step - step % every + every
            found.append(read(seen, step))
            say(found[-1])
        if any(isinstance(event, Ended) for event in new):
            os.kill(process, signal.SIGTERM)  # the page with the results waits for a key
    os.waitpid(process, 0)
    return found


def drain(terminal: int) -> bool:
    """Read what was drawn; whether the process still holds the terminal."""
    if not select.select([terminal], [], [], LOOK_SECONDS)[0]:
        return True
    try:
        return bool(os.read(terminal, 1 << 16))
    except OSError:
        return False


def read(process: psutil.Process, step: int) -> Reading:
    """The process now."""
    memory = process.memory_info()
    # Pages of files are left out: how many count depends on who else has the same libraries open.
    anonymous = (memory.rss - memory.shared) / 1e6
    return Reading(step, anonymous, process.num_threads(), process.num_fds())


def say(reading: Reading) -> None:
    """One row of the table."""
    print(
        f"| {reading.step} | {reading.memory_mb:.1f} | {reading.threads} | {reading.handles} |",
        flush=True,
    )


def slope(found: list[Reading]) -> float:
    """Growth of memory in kB for each 1,000 steps, over the second half."""
    late = found[len(found) // 2 :]
    steps, memory = [one.step for one in late], [one.memory_mb for one in late]
    return statistics.linear_regression(steps, memory).slope * 1e6


def main() -> None:
    """Print a row for every so many steps, then the growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        sys.exit(train(asked.child, asked.steps, asked.batch))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| step | memory, MB | threads | file handles |\n|---|---|---|---|")
        found = readings(folder, *start(folder, asked.steps, asked.batch), asked.every)
    print(f"memory grows by {slope(found):.0f} kB for each 1,000 steps of the second half")


if __name__ == "__main__":
    main()
