"""What the tests of the screens share: the toy run and apps of the usual size."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOY = Path(__file__).parents[1] / "terminal" / "toy.py"


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module of the toy run."""
    name = "lyctui_tests_toy"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TOY)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def toy_run(toy: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make runs of the toy: `toy_run(steps=20)`; they are stopped at the end of the test."""
    from lyctui.monitor import EventFeed, LiveRun

    made: list[LiveRun] = []

    def make(name: str = "vexilo_v1", on_disconnect: Any = "continue", **options: Any) -> LiveRun:
        feed = EventFeed()
        session = toy.ToySession(tmp_path / name, on_event=feed, **options)
        made.append(LiveRun(session, feed, on_disconnect))
        return made[-1]

    yield make
    for run in made:
        if run.live:
            run.ask("stop")
            run.wait(10)


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test writes into the user's folders, or takes its looks from the user's environment."""
    for name in ("STATE", "CONFIG", "CACHE", "RUNS"):
        monkeypatch.setenv(f"LYCTUI_{name}", str(tmp_path / name.lower()))
    for name in (
        "NO_COLOR", "COLORTERM", "TMUX", "STY",
        "LYCTUI_THEME", "LYCTUI_ASCII", "LYCTUI_PICTURES", "SSH_CONNECTION", "SSH_TTY",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    # Without pictures, unless a test asks for them.
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model as a single file."""
    from lyctui.demo.asset import unpack_base

    return unpack_base(tmp_path_factory.mktemp("base"))
