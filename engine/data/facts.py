"""A look at many pictures at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from engine.data.findings import Findings
from engine.data.images import ImageFact, PictureError, quick_fact, read_image_fact

Progress = Callable[[int, int], None]
Found = TypeVar("Found")


def image_facts(
    paths: Sequence[Path],
    findings: Findings,
    *,
    decode: bool,
    max_megapixels: float,
    progress: Progress | None,
    workers: int | None,
) -> dict[Path, ImageFact]:
    """What is known of each picture; those that are refused go to `findings`."""
    read = read_image_fact if decode else quick_fact

    def examine(path: Path) -> ImageFact | PictureError:
        try:
            return read(path, max_megapixels=max_megapixels)
        except PictureError as error:
            return error

    facts: dict[Path, ImageFact] = {}
    threads = workers if decode else 1
    for done, (path, fact) in enumerate(mapped(examine, paths, threads), start=1):
        if isinstance(fact, PictureError):
            findings.add(fact.check, path.parent, path.name, detail=fact.detail)
        else:
            facts[path] = fact
        if progress is not None:
            progress(done, len(paths))
    return facts


def mapped(
    examine: Callable[[Path], Found], paths: Sequence[Path], workers: int | None
) -> Iterator[tuple[Path, Found]]:
    """Examine in order; decoding leaves Python, so threads share the work (None: one a core)."""
    threads = workers if workers is not None else min(8, os.cpu_count() or 1)
    if threads <= 1:
        yield from ((path, examine(path)) for path in paths)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="survey")
    try:
        yield from zip(paths, pool.map(examine, paths), strict=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
