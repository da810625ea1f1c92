"""A setting is declared once: label, help, explanation, preset, documentation and flag follow from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.networks import ALGORITHMS
from engine.settings import Recipe
from engine.settings.ask import Ask
from engine.settings.data import Folder
from engine.settings.network import Override
from engine.settings.walk import algorithms, network_arms, sections, setting, settings
from lyctui.docs import settings_page
from lyctui.guides import COMPUTED, PLACEHOLDERS, guides, missing_texts, placeholders, read_guides
from presets import GUIDES_PATH

ROOT = Path(__file__).resolve().parents[2]


def declared():
    """(path, field) of every setting as pydantic holds it."""
    for name in sections():
        arms = network_arms() if name == "network" else (type(getattr(Recipe(), name)),)
        for arm in arms:
            for key, info in arm.model_fields.items():
                yield f"{name}.{key}", info


def test_every_setting_has_label_and_help():
    for path, info in declared():
        asks = [one for one in info.metadata if isinstance(one, Ask)]
        assert len(asks) == 1 and asks[0].label, path
        assert info.description, path
        assert len(info.description) <= 120, f"{path}: the help is one line"
        assert info.description.endswith("."), path


def test_a_setting_that_may_be_blank_says_what_that_means():
    assert [row.path for row in settings() if row.nullable and not row.ask.blank] == []


def test_labels_are_unlike_within_a_section():
    for name in sections():
        rows = [row for row in settings() if row.section == name and row.level != "expert"]
        labels = [(row.label, row.ask.unit) for row in rows]
        assert len(set(labels)) == len(labels), name


def test_every_basic_and_advanced_setting_is_explained():
    assert missing_texts() == []


def test_no_explanation_is_orphaned_or_written_twice():
    seen: list[str] = []
    for path in sorted(GUIDES_PATH.glob("*.md")):
        assert path.stem in sections()
        for guide in read_guides(path):
            assert setting(guide.path) is not None, guide.path
            assert guide.path.startswith(f"{path.stem}."), guide.path
            seen.append(guide.path)
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("path", sorted(guides()))
def test_an_explanation_is_of_readable_length_and_knows_its_placeholders(path):
    guide = guides()[path]
    assert 40 <= len(guide.text.split()) <= 165
    assert placeholders(guide.text) == set(), "placeholders belong into the last paragraph"
    assert placeholders(guide.here) <= set(PLACEHOLDERS) | set(COMPUTED)
    assert bool(guide.here) == bool(placeholders(guide.here))
    for number in re.findall(r"[Gg]uides? (\d+)", guide.text):
        assert number in {"000", "001", "002", "003", "004"}


def test_placeholders_show_settings_that_exist():
    assert [name for name, path in PLACEHOLDERS.items() if setting(path) is None] == []
    assert not set(PLACEHOLDERS) & set(COMPUTED)
    used = {name for guide in guides().values() for name in placeholders(guide.here)}
    assert used == set(PLACEHOLDERS) | set(COMPUTED)


def test_algorithms_are_those_of_the_engine():
    # Norms are trained beside any of them, by a switch.
    assert set(ALGORITHMS) - {"norm"} == set(algorithms())


def test_the_page_of_the_docs_is_current():
    page = ROOT / "docs" / "settings.md"
    assert page.read_text("utf-8") == settings_page(), "run python -m lyctui.docs"


def test_flags_are_declared_once():
    from lyctui.verbs.flags import FLAGS

    declared_flags = {row.ask.flag: row.path for row in settings() if row.ask.flag}
    assert {flag.name: flag.path for flag in FLAGS} == declared_flags


@pytest.mark.parametrize(
    ("path", "kind"), [("data.folders", Folder), ("network.overrides", Override)]
)
def test_the_page_lists_the_keys_of_an_entry(path, kind):
    part = settings_page().partition(f"### {path}\n")[2].partition("\n##")[0]

    for key, info in kind.model_fields.items():
        assert f"| `{key}` |" in part and info.description and info.description in part
