"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.tools.requests import Precision

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines of text instead of screens")]
Theme = Annotated[
    str | None, typer.Option("--theme", help="dark, light or ansi", show_default=False)
]
RunName = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Name or folder of a run", show_default=False)
]

# Of the tools that read and write network files.
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write", show_default=False)]
BaseModel = Annotated[
    Path | None,
    typer.Option("--base", help="Base model that it was trained on", show_default=False),
]
Rank = Annotated[
    int | None, typer.Option("--rank", help="Rank of what becomes a LoRA", show_default=False)
]
ErrorLimit = Annotated[
    float | None,
    typer.Option("--error", help="Largest relative error, 0.05 say", show_default=False),
]
MaxRank = Annotated[
    int | None, typer.Option("--max-rank", help="Never more ranks than this", show_default=False)
]
PrecisionFlag = Annotated[Precision, typer.Option("--precision", help="Number format")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there")]
