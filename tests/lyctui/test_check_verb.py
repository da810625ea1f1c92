"""`lyctui check` names captions that are cut, with the words that are lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lyctui.verbs.check import check_folder


@pytest.mark.parametrize("as_json", [False, True])
def test_lost_words_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    Image.new("RGB", (512, 512), "red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("dog " * 75 + "zebra crossing")
    code = check_folder(tmp_path, reg=None, trigger="", class_word="", as_json=as_json)
    said = capsys.readouterr().out
    assert code == 0
    if as_json:
        found = json.loads(said.splitlines()[0])
        assert found["finding"] == "caption cut"
        assert found["details"] == ["77 tokens, lost: zebra crossing"]
    else:
        assert "a.png: 77 tokens, lost: zebra crossing" in said
