"""`lyctui resize`: a LoRA or LoKr with other ranks."""

from __future__ import annotations

from engine.tools.requests import Progress, ResizeRequest, ToolReport
from lyctui.verbs.tools import run_tool


def resize_file(request: ResizeRequest, *, plain: bool, as_json: bool) -> int:
    """Resize, and say what was written."""

    def work(progress: Progress) -> ToolReport:
        from engine.tools.resize import resize

        return resize(request, progress)

    return run_tool(work, plain=plain, as_json=as_json)
