"""What `lyctui doctor` looks at: each thing with what was found and, where it is wrong, the remedy."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.hardware import GIB, NO_GPU, Hardware, describe_gpu, disk_free, read_hardware
from lyctui import terminal, text
from lyctui.paths import paths

State = Literal["ok", "warning", "fault"]
PROBE_SECONDS = 180
LEAST_DISK_BYTES = 5_000_000_000
LEAST_RAM_BYTES = 8 * GIB

# Runs in a process of its own: a broken torch may end it, and ours stays small.
PROBE = """
import json, sys
answer = {}
try:
    import torch
    answer["version"] = torch.__version__
    answer["cuda"] = torch.version.cuda
    answer["available"] = torch.cuda.is_available()
    answer["architectures"] = torch.cuda.get_arch_list()
    answer["cards"] = [str(getattr(torch.cuda.get_device_properties(i), "uuid", i))
                       for i in range(torch.cuda.device_count())]
    device = "cuda" if answer["available"] else "cpu"
    try:
        (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
    except Exception as error:
        answer["compute_error"] = str(error).splitlines()[0]
    from engine.optim.probe import adamw8bit_works
    answer["adamw8bit"] = adamw8bit_works(device)
except Exception as error:
    answer["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(answer))
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(environ: Mapping[str, str] | None = None) -> list[Check]:
    """Look at everything. Takes seconds: torch is tried in a process of its own."""
    environ = os.environ if environ is None else environ
    hardware = read_hardware()
    probe = probe_torch()
    return [
        _python(),
        *check_gpus(hardware),
        *check_torch(hardware, probe),
        check_adamw8bit(hardware, probe),
        _memory(hardware),
        *_disks(),
        *check_terminal(environ),
        check_logout(_logind_files()),
    ]


def probe_torch() -> dict[str, Any]:
    """What torch says of itself, from another process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            stdin=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"it could not be tried: {type(error).__name__}"}
    last = done.stdout.strip().splitlines()[-1:] or [""]
    try:
        answer = json.loads(last[0])
    except ValueError:
        return {"error": f"importing it ended the process with code {done.returncode}"}
    return answer if isinstance(answer, dict) else {}


def _python() -> Check:
    # An older Python cannot import this file: pip refuses it by requires-python.
    return Check("Python", "ok", ".".join(map(str, sys.version_info[:3])))


def check_gpus(hardware: Hardware) -> list[Check]:
    """Cards, memory held by others, and everything odd about them."""
    if not hardware.gpus:
        remedy = "With an NVIDIA card in this machine, install its driver; nvidia-smi must list it."
        return [Check("GPU", "warning", NO_GPU, remedy)]
    checks = []
    for gpu in hardware.usable:
        busy = gpu.used_by_others > gpu.total // 10
        remedy = "Other programs hold memory: end them, or choose another card." if busy else ""
        found = " ".join(describe_gpu(gpu).split())
        checks.append(Check("GPU", "warning" if busy else "ok", found, remedy))
    for note in hardware.notes:
        checks.append(Check("GPU", "warning", note))
    return checks


def check_torch(hardware: Hardware, probe: Mapping[str, Any]) -> list[Check]:
    """torch, the driver it needs, and whether it has code for these cards."""
    if "version" not in probe:
        why = str(probe.get("error", "not installed"))
        return [
            Check("torch", "fault", why, "Install it again: pip install --force-reinstall torch")
        ]
    build = f"{probe['version']}, " + (f"CUDA {probe['cuda']}" if probe["cuda"] else "CPU build")
    if not hardware.usable:
        return [Check("torch", "ok", build)]
    if not probe["cuda"]:
        remedy = "Install a CUDA build of torch for this card; pytorch.org shows the command."
        return [Check("torch", "fault", f"{build}: it cannot use the GPU", remedy)]
    checks = [Check("torch", "ok", build), _driver(hardware, str(probe["cuda"]))]
    if not probe.get("available"):
        remedy = "Update the NVIDIA driver, or install a torch built for an older CUDA."
        checks.append(Check("CUDA", "fault", "torch finds no usable GPU", remedy))
        return checks
    checks += [_architecture(gpu.capability, probe, gpu.name) for gpu in hardware.usable]
    if probe.get("compute_error"):
        checks.append(
            Check("CUDA", "fault", str(probe["compute_error"]), "Match torch, driver and card.")
        )
    return checks


def _driver(hardware: Hardware, cuda: str) -> Check:
    driver = hardware.usable[0].driver or "unknown"
    if hardware.cuda_driver is None:
        return Check("driver", "warning", f"{driver}, its CUDA version is unknown")
    newest = ".".join(map(str, hardware.cuda_driver))
    found = f"{driver}, runs CUDA up to {newest}"
    # Within one major version older drivers run newer builds.
    if hardware.cuda_driver[0] < int(cuda.split(".")[0]):
        remedy = f"torch needs CUDA {cuda}: update the driver, or install an older build of torch."
        return Check("driver", "fault", found, remedy)
    return Check("driver", "ok", found)


def _architecture(capability: tuple[int, int] | None, probe: Mapping[str, Any], name: str) -> Check:
    architectures = [str(item) for item in probe.get("architectures", [])]
    if capability is None:
        return Check("architecture", "warning", f"{name}: NVML does not tell it")
    word = f"sm_{capability[0]}{capability[1]}"
    found = f"{name} is {word}; torch was built for {', '.join(architectures) or 'nothing'}"
    if runs_on(capability, architectures):
        return Check("architecture", "ok", found)
    built_for = [numbers for item in architectures if (numbers := _numbers(item)) is not None]
    newer = all(numbers > capability for numbers in built_for)
    remedy = (
        "The card is too old for this torch: install an older one."
        if newer
        else "The card is newer than this torch: install a newer one."
    )
    return Check("architecture", "fault", found, remedy)


def runs_on(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether a build runs on a card: code of the same major version, or PTX that is not newer."""
    for item in architectures:
        numbers = _numbers(item)
        if numbers is None:
            continue
        same_major = numbers[0] == capability[0] and numbers[1] <= capability[1]
        if (item.startswith("sm_") and same_major) or (
            item.startswith("compute_") and numbers <= capability
        ):
            return True
    return False


def _numbers(architecture: str) -> tuple[int, int] | None:
    digits = "".join(filter(str.isdecimal, architecture.partition("_")[2]))
    return (int(digits[:-1]), int(digits[-1])) if len(digits) >= 2 else None


def check_adamw8bit(hardware: Hardware, probe: Mapping[str, Any]) -> Check:
    """Whether one real 8-bit step works."""
    works, why = probe.get("adamw8bit") or (False, str(probe.get("error", "it was not tried")))
    where = "GPU" if probe.get("available") else "CPU"
    if works:
        return Check("8-bit optimizer", "ok", f"one step on the {where} works")
    remedy = "AdamW is used instead. To have it: pip install --force-reinstall bitsandbytes"
    state: State = "warning" if hardware.usable else "ok"
    return Check("8-bit optimizer", state, f"does not work on the {where}: {why}", remedy)


def _memory(hardware: Hardware) -> Check:
    total, free = text.memory(hardware.ram_total), text.memory(hardware.ram_free)
    found = f"{total}, {free} free; {hardware.cores} CPU cores"
    if hardware.ram_free < LEAST_RAM_BYTES:
        remedy = "A full-size base needs about 8 GiB free while it loads: close other programs."
        return Check("RAM", "warning", found, remedy)
    return Check("RAM", "ok", found)


def _disks() -> list[Check]:
    checks = []
    for name, place in (("runs", paths().runs), ("cache", paths().cache)):
        free = disk_free(place)
        found = f"{text.filesize(free)} free for {name} in {text.home(place)}"
        low = free < LEAST_DISK_BYTES
        remedy = f"Free some space, or set LYCTUI_{name.upper()} to another disk." if low else ""
        checks.append(Check("disk", "warning" if low else "ok", found, remedy))
    return checks


def check_terminal(environ: Mapping[str, str]) -> list[Check]:
    """Size, colours, UTF-8, and what happens when the line drops."""
    if not terminal.is_terminal():
        return [Check("terminal", "ok", "none: lines of text are written")]
    columns, rows = shutil.get_terminal_size()
    term = text.inert(environ.get("TERM", "unset"))
    checks = []
    size = f"{columns}x{rows}, TERM {term}, {_colors(environ)}"
    small = columns < terminal.MIN_WIDTH or rows < terminal.MIN_HEIGHT
    remedy = f"Make it {terminal.MIN_WIDTH}x{terminal.MIN_HEIGHT} or larger." if small else ""
    checks.append(Check("terminal", "warning" if small else "ok", size, remedy))
    if terminal.wants_ascii(environ):
        remedy = "Set LANG to a UTF-8 locale such as C.UTF-8 for charts and signs."
        checks.append(Check("UTF-8", "warning", "the locale is not UTF-8", remedy))
    else:
        checks.append(Check("UTF-8", "ok", "yes"))
    if terminal.over_ssh(environ) and not terminal.in_multiplexer(environ):
        remedy = "Training goes on when the line drops; tmux also keeps the screen. `lyctui watch`"
        checks.append(Check("SSH", "warning", "connected without tmux or screen", remedy))
    elif terminal.in_multiplexer(environ):
        checks.append(Check("tmux", "ok", "this shell survives a lost line"))
    return checks


def _colors(environ: Mapping[str, str]) -> str:
    if environ.get("NO_COLOR"):
        return "no colours (NO_COLOR)"
    if environ.get("COLORTERM", "") in ("truecolor", "24bit"):
        return "16 million colours"
    return "256 colours" if "256" in environ.get("TERM", "") else "16 colours or fewer"


def _logind_files() -> list[Path]:
    files = [Path("/etc/systemd/logind.conf")]
    drop_ins: dict[str, Path] = {}
    for root in ("/usr/lib", "/run", "/etc"):
        for path in sorted(Path(root, "systemd/logind.conf.d").glob("*.conf")):
            drop_ins[path.name] = path
    return files + [drop_ins[name] for name in sorted(drop_ins)]


def check_logout(files: Iterable[Path]) -> Check:
    """Whether logging out kills what runs on: systemd's KillUserProcesses."""
    kills = False
    for path in files:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read_string(path.read_text(errors="replace"))
        except (OSError, configparser.Error):
            continue
        value = parser.get("Login", "KillUserProcesses", fallback=None)
        if value is not None:
            kills = value.strip().lower() in ("yes", "true", "1", "on")
    if kills:
        remedy = "Run `loginctl enable-linger` once, and start training with `systemd-run --user`."
        return Check(
            "logout", "warning", "KillUserProcesses=yes: logging out ends training", remedy
        )
    return Check("logout", "ok", "what runs on survives logging out")
