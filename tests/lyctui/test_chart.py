"""The chart: spikes survive, the mean lies on top, scales and fall-backs hold."""

from __future__ import annotations

from engine.snapshot import Point
from lyctui.report import plain
from lyctui.widgets.chart import LossSeries, bounds, draw


def series(losses: list[float], means: list[float] | None = None) -> LossSeries:
    made = LossSeries()
    made.follow([Point(n, loss, (means or losses)[n - 1]) for n, loss in enumerate(losses, 1)])
    return made


def rows(made: LossSeries, width: int = 60, height: int = 9, **options: bool) -> list[str]:
    chosen = {"log": False, "ascii_only": False} | options
    return [plain(line) for line in draw(made, width, height, **chosen)]


def test_spike_survives_decimation() -> None:
    losses = [0.1] * 100_000
    losses[54_321] = 5.0
    columns = series(losses).columns(100)
    assert max(column.high for column in columns if column) == 5.0
    assert rows(series(losses))[0].strip().startswith("5.00")


def test_every_row_fits_and_labels_are_numbers() -> None:
    drawn = rows(series([0.2 - n * 0.001 for n in range(100)]))
    assert len(drawn) == 9
    assert all(len(row) <= 60 for row in drawn)
    assert drawn[0].split()[0] == "0.200"
    assert drawn[-1].endswith(" 100")


def test_mean_is_drawn_on_top_in_its_own_role() -> None:
    made = series([0.1, 0.9] * 50, means=[0.5] * 100)
    lines = draw(made, 60, 9, log=False, ascii_only=False)
    means = [part for line in lines for part, role in line if role == "mean" and part.strip()]
    raws = [part for line in lines for part, role in line if role == "raw" and part.strip()]
    assert means
    assert raws
    assert sum(len(part) for part in means) >= 45, "an unbroken line across the chart"


def test_ascii_has_no_other_signs() -> None:
    drawn = rows(series([0.1, 0.5, 0.2, 0.4]), ascii_only=True)
    assert all(row.isascii() for row in drawn)
    assert any("*" in row for row in drawn)


def test_log_scale_spreads_small_values() -> None:
    made = series([10.0, 0.01, 0.001, 0.0001])
    linear, logarithmic = rows(made), rows(made, log=True)
    assert linear != logarithmic
    assert 0.01 < float(logarithmic[4].split()[0]) < 0.1, "the middle of four decades"
    assert float(linear[4].split()[0]) > 4


def test_odd_values_never_break_the_chart() -> None:
    nan, inf = float("nan"), float("inf")
    for losses in ([], [0.0], [0.5], [nan, 0.1, inf, 0.2], [nan, nan], [-1.0, 1.0]):
        for log in (False, True):
            assert draw(series(losses), 60, 9, log=log, ascii_only=False)
    assert draw(series([0.1, 0.2]), 5, 1, log=False, ascii_only=False)
    assert bounds([], log=False) is None


def test_series_follows_an_append_only_list_and_a_resume() -> None:
    points = [Point(n, 0.1, 0.1) for n in range(1, 11)]
    made = LossSeries()
    assert made.follow(points)
    assert not made.follow(points)
    points.append(Point(11, 0.2, 0.2))
    assert made.follow(points)
    assert len(made) == 11
    del points[5:]
    points.append(Point(6, 0.3, 0.3))
    assert made.follow(points)
    assert list(made.steps) == [1, 2, 3, 4, 5, 6]
