"""Half cells show the picture's own colours at its own proportions."""

from pathlib import Path

from PIL import Image

from lyctui.widgets.picture import UPPER_HALF, half_cells


def test_two_pixels_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGB", (80, 40), "#ff0000")
    image.paste("#0000ff", (0, 20, 80, 40))
    image.save(path)
    rows = half_cells(path, 8)
    assert len(rows) == 2
    assert all(len(row) == 8 and row[0].text == UPPER_HALF for row in rows)
    assert str(rows[0][0].style) == "#ff0000 on #ff0000"
    assert str(rows[1][7].style) == "#0000ff on #0000ff"


def test_a_flat_picture_has_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (500, 2)).save(path)
    assert len(half_cells(path, 10)) == 1
