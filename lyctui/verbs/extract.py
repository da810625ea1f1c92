"""`lyctui extract`: the difference of two checkpoints as a network."""

from __future__ import annotations

from engine.tools.requests import ExtractRequest, Progress, ToolReport
from lyctui.verbs.tools import run_tool


def extract_network(request: ExtractRequest, *, plain: bool, as_json: bool) -> int:
    """Extract, and say what was written."""

    def work(progress: Progress) -> ToolReport:
        from engine.tools.extract import extract

        return extract(request, progress)

    return run_tool(work, plain=plain, as_json=as_json)
