"""Folding keeps every word once, also where a part begins with spaces."""

import pytest

from lyctui.report import folded, plain

LINE = (("  Becomes ", "dim"), ("10_vexilo emblem", "strong"), ("   each picture 10 times", "dim"))


@pytest.mark.parametrize("width", range(8, 70))
def test_no_word_is_lost_or_doubled(width: int) -> None:
    rows = folded([LINE], width)
    assert "".join("".join(plain(row) for row in rows).split()) == "".join(plain(LINE).split())
    assert all(len(plain(row)) <= width for row in rows)


def test_words_stay_whole_where_there_is_room() -> None:
    rows = [plain(row).strip() for row in folded([LINE], 30)]
    assert rows == ["Becomes 10_vexilo emblem", "each picture 10 times"]
