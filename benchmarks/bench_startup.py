"""Start-up of the command line in fresh processes: medians of wall time, against an empty Python.

Usage: python benchmarks/bench_startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import time

READY = b"What do you want to do?"


def seconds_of(arguments: list[str], runs: int) -> float:
    """Median wall time of a command that ends by itself."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def seconds_to_first_screen() -> float:
    """Wall time until the welcome page stands on a pseudo terminal of 80x24."""
    with tempfile.TemporaryDirectory() as home:
        places = {f"LYCTUI_{name}": home for name in ("STATE", "RUNS", "CACHE", "CONFIG")}
        began = time.perf_counter()
        process, terminal = pty.fork()
        if process == 0:
            os.environ |= {**places, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
            os.execv(sys.executable, [sys.executable, "-m", "lyctui"])
        shown = b""
        while READY not in shown and time.perf_counter() - began < 30:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536)
        seconds = time.perf_counter() - began
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)
        return seconds


def main() -> None:
    """Print one row for each way in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    python = [sys.executable, "-c", "pass"]
    command = [sys.executable, "-m", "lyctui"]
    floor = seconds_of(python, runs)
    print(f"{'empty Python':20} {floor:6.3f} s")
    for flag, bar in (("--version", 0.25), ("--help", 0.5)):
        seconds = seconds_of([*command, flag], runs)
        print(f"{'lyctui ' + flag:20} {seconds:6.3f} s   bar {bar} s")
    first = statistics.median(seconds_to_first_screen() for _ in range(runs))
    print(f"{'first screen':20} {first:6.3f} s   bar 1.0 s")


if __name__ == "__main__":
    main()
