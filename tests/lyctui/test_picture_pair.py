"""Base and trained pictures beside each other, read from the run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine.events import Sampled, Scored
from engine.snapshot import Snapshot
from lyctui import outcome, terminal
from lyctui.widgets.picture_pair import GRID_COLUMNS, pair_of, print_pair


def picture(path: Path, color: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 32), color).save(path)
    return path


def sampled(step: int, path: Path) -> Sampled:
    return Sampled(step=step, epoch=0, paths=(str(path),), prompts=("a",))


def snapshot_with(*samples: Sampled) -> Snapshot:
    import dataclasses

    return dataclasses.replace(Snapshot(), samples=samples)


def test_the_demo_shows_its_two_sheets(tmp_path: Path) -> None:
    picture(tmp_path / "before.png", "#ff0000")
    picture(tmp_path / "after.png", "#0000ff")
    shown = pair_of(snapshot_with(), tmp_path)
    assert [each.title for each in shown] == ["before training", "after training"]
    assert all(each.columns == GRID_COLUMNS for each in shown)
    assert str(shown[1].rows[0][0].style) == "#0000ff on #0000ff"


def test_other_runs_show_first_and_last_sample(tmp_path: Path) -> None:
    first = sampled(0, picture(tmp_path / "samples/0.png", "#ff0000"))
    last = sampled(9, picture(tmp_path / "samples/9.png", "#00ff00"))
    shown = pair_of(snapshot_with(first, sampled(5, tmp_path / "gone.png"), last), tmp_path)
    assert [each.title for each in shown] == ["before training", "samples of step 9"]


def test_a_broken_picture_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no picture")
    assert pair_of(snapshot_with(sampled(3, tmp_path / "x.png")), tmp_path) == []


def test_printed_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("before.png", "after.png"):
        picture(tmp_path / name, "#ff0000")
    print_pair(pair_of(snapshot_with(), tmp_path))
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.split() == ["before", "training", "after", "training"]
    assert len(rows) == GRID_COLUMNS // 4
    assert all(len(row) == 2 * GRID_COLUMNS + 2 for row in rows)


def test_the_verdict_needs_both_scores() -> None:
    before = Scored("before", 0.0, 0.9, 0.8, 0.7)
    after = Scored("after", 0.91, 0.88, 0.8, 0.7)
    assert outcome.verdict_line([after]) == ""
    assert "91%" in outcome.verdict_line([before, after])


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "screen", "COLORTERM": "truecolor"}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        ({"TERM": "linux"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_pictures_need_colors(environ: dict[str, str], wanted: bool) -> None:
    assert terminal.shows_pictures(environ) is wanted
