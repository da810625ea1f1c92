"""The command line: a file for each verb with its flags, and `program`, which puts them together.

What a verb does stands in `lyctui.verbs` and is imported only when the verb is called.
"""

from __future__ import annotations

import gc
import sys

from engine import program_version


def version_text() -> str:
    """Program and version."""
    return f"lyctui {program_version() or '(not installed)'}"


def main() -> None:
    """Entry point of the `lyctui` command."""
    if sys.argv[1:] == ["--version"]:
        # The one answer that scripts ask for often: not even typer is needed.
        sys.stdout.write(version_text() + "\n")
        return
    from lyctui.cli.program import run

    try:
        sys.exit(run(as_json="--json" in sys.argv))
    finally:
        # On its way out Python looks for garbage again and again: seconds, once torch and its libraries
        # are loaded, in which the shell waits and nothing of use is done.
        gc.freeze()
