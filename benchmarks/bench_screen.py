"""What the monitor costs while a (toy) training runs beside it: share of a core and bytes a second.

Usage: python benchmarks/bench_screen.py [--seconds 20]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "terminal")]

CASES = (
    ("80x24, 3 steps/s", (24, 80), ["--seconds", "0.3"]),
    ("80x24, 20 steps/s", (24, 80), ["--seconds", "0.05"]),
    ("120x40, 3 steps/s", (40, 120), ["--seconds", "0.3"]),
    ("line log, 3 steps/s", (24, 80), ["--plain", "--seconds", "0.3"]),
)


def cpu_seconds(process: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a row for each case."""
    from conftest import Terminal

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    for title, (rows, columns), arguments in CASES:
        folder = Path(tempfile.mkdtemp())
        terminal = Terminal(folder, ["--steps", "100000", *arguments])
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(terminal._master, termios.TIOCSWINSZ, size)
        terminal.at_step(5)
        time.sleep(1)
        terminal.pump()
        before, written, began = cpu_seconds(terminal.pid), len(terminal.output), time.time()
        while time.time() - began < seconds:
            terminal.pump()
            time.sleep(0.05)
        passed = time.time() - began
        share = 100 * (cpu_seconds(terminal.pid) - before) / passed
        rate = (len(terminal.output) - written) / passed / 1024
        print(f"{title:22} {share:5.2f} % of a core   {rate:6.1f} KiB/s")
        terminal.finish()


if __name__ == "__main__":
    main()
