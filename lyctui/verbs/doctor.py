"""`lyctui doctor`: what this machine has, and what to do where something is wrong."""

from __future__ import annotations

from dataclasses import asdict

from lyctui import text
from lyctui.doctor import examine
from lyctui.verbs.output import say, say_json

SIGNS = {"ok": "✓", "warning": "!", "fault": "✗"}
EXIT_FAULT = 3


def show_doctor(*, as_json: bool) -> int:
    """Say every check; exit code 3 where something must be mended before training."""
    checks = examine()
    for check in checks:
        if as_json:
            say_json(asdict(check))
            continue
        say(f"{SIGNS[check.state]} {check.name:<16} {text.inert(check.found)}")
        if check.remedy and check.state != "ok":
            say(f"  {'':<16} {text.inert(check.remedy)}")
    faults = sum(check.state == "fault" for check in checks)
    warnings = sum(check.state == "warning" for check in checks)
    if not as_json:
        say(f"{text.counted(faults, 'fault')}, {text.counted(warnings, 'warning')}")
    return EXIT_FAULT if faults else 0
