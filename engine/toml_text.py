"""Reading TOML of strangers: tomllib takes the square of a key's parts in time and memory."""

from __future__ import annotations

import re
import tomllib
from typing import Any

MOST_PARTS = 40
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
# Only from the first part on: else every letter of a long word would be tried as a beginning.
_CHAIN = re.compile(rf"(?<![\w\"'-]){_PART}(?:[ \t]*\.[ \t]*{_PART}){{{MOST_PARTS}}}")


def parse_toml(text: str) -> dict[str, Any]:
    """TOML text as data; raises tomllib.TOMLDecodeError, also where it is nested without end."""
    chain = _CHAIN.search(text)
    if chain is not None:
        line = text.count("\n", 0, chain.start()) + 1
        raise tomllib.TOMLDecodeError(f"a key of more than {MOST_PARTS} parts (at line {line})")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError("it is nested too deeply") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise tomllib.TOMLDecodeError(str(error)) from None
