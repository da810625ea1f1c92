"""The key table of the documentation equals the bindings, and every binding can be named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lyctui.keys import bindings, holders, key_table, shown_key

DOCS = Path(__file__).parents[2] / "docs" / "keys.md"


def test_documentation_is_up_to_date() -> None:
    table = key_table()
    assert DOCS.read_text("utf-8") == table, "run: python -m lyctui.keys > docs/keys.md"


def test_every_action_has_words_and_no_id_is_used_twice() -> None:
    ids = [(binding.id, kind) for _, kind in holders() for binding in bindings(kind)]
    assert len(ids) == len({name for name, _ in ids}), "a config file could not tell them apart"
    for _, kind in holders():
        for binding in bindings(kind):
            assert binding.description, (kind, binding.id)


@pytest.mark.parametrize(
    ("key", "shown"), [("ctrl+q", "Ctrl+Q"), ("escape,q", "Esc, q"), ("f1", "F1"), ("x", "x")]
)
def test_keys_are_written_as_people_say_them(key: str, shown: str) -> None:
    assert shown_key(key) == shown
