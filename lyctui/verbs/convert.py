"""`lyctui convert`: a network file in another form."""

from __future__ import annotations

from engine.tools.requests import ConvertRequest, Progress, ToolReport
from lyctui.verbs.tools import run_tool


def convert_file(request: ConvertRequest, *, plain: bool, as_json: bool) -> int:
    """Convert, and say what was written."""

    def work(progress: Progress) -> ToolReport:
        from engine.tools.convert import convert

        return convert(request, progress)

    return run_tool(work, plain=plain, as_json=as_json)
