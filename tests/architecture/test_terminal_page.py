"""The page on terminals names tests; each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "terminal.md"


def test_every_test_on_the_page_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text())
    rows = [line for line in PAGE.read_text().splitlines() if "tests/" in line and "|" in line]
    assert len(named) == len(rows) > 40
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []
