"""A whole life of the program in one process that tells what it touched: `python -m tests.trust.victim ROOT`.

Everything below ROOT is the user's; what is opened for writing elsewhere, every look at a network and
every other program that is started goes to standard output as one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[1]).resolve()
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
seen: dict[str, list[str]] = {"network": [], "written": [], "programs": []}


def _is_local(kind: object) -> bool:
    return isinstance(kind, socket.socket) and kind.family == socket.AF_UNIX


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        # urllib3 asks the system in this way whether it knows IPv6; nothing is sent.
        asked = event == "socket.bind" and arguments[1] == ("::1", 0)
        if not asked and not _is_local(arguments[0] if arguments else None):
            seen["network"].append(f"{event} {arguments[1:]}")
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        seen["programs"].append(f"{event} {arguments[:2]}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path, flags = os.fsdecode(arguments[0]), arguments[2]
        if isinstance(flags, int) and flags & WRITING:
            _wrote(path)
    elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"):
        for each in arguments[:2]:
            if isinstance(each, str | bytes | os.PathLike):
                _wrote(os.fsdecode(each))


def _wrote(path: str) -> None:
    whole = Path(path).absolute()
    inside = whole == ROOT or ROOT in whole.parents or ROOT in whole.resolve().parents
    if not inside and not str(whole).startswith(("/dev/", "/proc/")):
        seen["written"].append(str(whole))


def train() -> Path:
    from engine.session import Session, create_run
    from tests.small_run import draw_pictures, small_recipe

    draw_pictures(ROOT / "pictures" / "1_vexilo emblem", 2)
    recipe = small_recipe(
        ROOT,
        data={"resolution": [64, 64]},
        train={"epochs": 1, "batch_size": 2},
        network={"algorithm": "lora", "rank": 1, "targets": "unet-transformer-only"},
        sample={"at_start": False, "every_epochs": 1, "prompts": ["vexilo --w 64 --h 64 --s 1"]},
        run={"csv": True},
    )
    session = Session(recipe, create_run(recipe), cache=ROOT / "cache")
    session.start()
    session.wait()
    assert session.exit_code == 0, session.error
    return session.folder.path


async def look(run: Path) -> None:
    from lyctui.app import LyctuiApp
    from lyctui.monitor import WatchedRun
    from lyctui.screens.welcome import WelcomeScreen

    for app in (LyctuiApp(WelcomeScreen), LyctuiApp(run=WatchedRun(run))):
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.pause()
            await app.workers.wait_for_complete()
            await pilot.pause()


def use(run: Path) -> None:
    from lyctui.verbs.export import export_recipe
    from lyctui.verbs.info import show_info
    from lyctui.verbs.runs import show_runs

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        show_runs(as_json=False)
        (network,) = run.glob("small.safetensors")
        show_info(network, as_json=True)
        export_recipe(run / "run.toml", output=ROOT / "kohya.toml", as_json=False)


def crash() -> None:
    """A fault that nobody foresaw, with a secret in a local variable."""
    from lyctui.app import LyctuiApp
    from lyctui.verbs.output import unforeseen

    secret = os.environ["WANDB_API_KEY"]
    try:
        raise RuntimeError(f"of {len(secret)} letters")
    except RuntimeError as error:
        with contextlib.redirect_stderr(io.StringIO()):
            unforeseen(error, as_json=False)
        app = LyctuiApp()
        app._exception = error
        app._write_report("report")


def main() -> None:
    sys.addaudithook(_watch)
    run = train()
    use(run)
    asyncio.run(look(run))
    crash()
    import huggingface_hub.constants as hub

    names = ("DO_NOT_TRACK", "WANDB_ERROR_REPORTING", "TRANSFORMERS_OFFLINE")
    told = [hub.HF_HUB_OFFLINE, hub.HF_HUB_DISABLE_TELEMETRY, *(os.environ[name] for name in names)]
    print(json.dumps({**seen, "told": told}))


if __name__ == "__main__":
    main()
