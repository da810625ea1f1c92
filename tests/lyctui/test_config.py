"""config.toml: what it sets, and that mistakes in it are said and never fatal."""

from __future__ import annotations

from pathlib import Path

from lyctui.app import LyctuiApp
from lyctui.config import Config, read_config
from lyctui.screens.run import RunScreen


def test_missing_file_is_fine(tmp_path: Path) -> None:
    assert read_config(tmp_path / "none.toml") == Config()


def test_everything_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'theme = "light"\nfps = 2\nmouse = false\nnotify = "none"\n'
        'model_dirs = ["/m"]\n[keys]\n"run.save" = "w"\n'
    )
    config = read_config(file)
    assert config == Config("light", 2, False, "none", {"run.save": "w"})


def test_mistakes_are_said(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('themes = "x"\nfps = true\nmouse = 1\nnotify = "horn"\nkeys = 3\n')
    config = read_config(file)
    assert len(config.problems) == 5
    assert config == Config(problems=config.problems)
    file.write_text("not toml at all")
    assert "cannot be read" in read_config(file).problems[0]


async def test_keys_can_be_changed(toy_run) -> None:
    app = LyctuiApp(
        run=toy_run(steps=100_000, seconds=0.01), config=Config(keys={"run.scale": "w"})
    )
    async with app.run_test(size=(80, 24)) as pilot:
        while not isinstance(app.screen, RunScreen) or not app.screen.query("#chart"):
            await pilot.pause(0.02)
        chart = app.screen.query_one("#chart")
        await pilot.press("g")
        assert not chart.log_scale
        await pilot.press("w")
        assert chart.log_scale
