"""Contact sheets: the right pictures, painted once, refused before anything dear, safe to open."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import engine.sheet.make as making
from engine.errors import EngineError, ModelError, NetworkFileError, OutOfMemory, UsageError
from engine.models.load import load_model
from engine.networks.files import read_network, write_network
from engine.networks.network import from_file
from engine.prompts import Prompt
from engine.sampling import Shot, paint_one
from engine.sheet.ask import request_for_files, request_for_run, spread
from engine.sheet.make import make_sheet
from engine.sheet.outputs import Places, run_places, write_sheet
from engine.sheet.page import page_of
from engine.sheet.values import Sheet, SheetFile, SheetRequest, Wishes
from engine.tools.requests import Cancelled, silent
from tests.sheet_run import write_sheet_run

STRENGTHS = (0.0, 0.6, 1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_sheet_run(tmp_path_factory.mktemp("sheet"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def request_of(run: Path) -> SheetRequest:
    return request_for_run(run, Wishes(strengths=STRENGTHS))


@pytest.fixture(scope="module")
def sheet(request_of: SheetRequest, cache: Path) -> Sheet:
    return make_sheet(request_of, cache, silent)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Shot]]:
    """What is really painted, in order."""
    shots: list[Shot] = []

    def counted(model: Any, shot: Shot, *rest: Any, **named: Any) -> Image.Image:
        shots.append(shot)
        return paint_one(model, shot, *rest, **named)

    monkeypatch.setattr(making, "paint_one", counted)
    yield shots


def test_a_runs_recipe_is_the_default(request_of: SheetRequest, run: Path) -> None:
    assert [file.label for file in request_of.files] == ["epoch 1", "epoch 2"]
    assert request_of.base == run.parent.parent / "tiny.safetensors"
    assert [prompt.text for prompt in request_of.prompts] == [
        "vexilo emblem",
        "<script>alert(1)</script>",
    ]
    assert (request_of.steps, request_of.guidance, request_of.sampler) == (1, 1.0, "euler_a")
    assert (request_of.width, request_of.height, request_of.seed) == (64, 64, 7)
    wished = request_for_run(run, Wishes(steps=5, seed=1, sampler="ddim", prompts=(Prompt("x"),)))
    assert (wished.steps, wished.seed, wished.sampler, len(wished.prompts)) == (5, 1, "ddim", 1)


def test_rows_are_files_and_strengths_with_the_base_once(sheet: Sheet) -> None:
    assert [row.label for row in sheet.rows] == [
        "base alone",
        "epoch 1 × 0.6",
        "epoch 1 × 1",
        "epoch 2 × 0.6",
        "epoch 2 × 1",
    ]
    assert sheet.pictures == 10
    pictures = [cell.path.read_bytes() for row in sheet.rows for cell in row.cells if cell.path]
    assert len(set(pictures)) == 10
    assert [cell.shot.seed for cell in sheet.rows[0].cells] == [7, 9]


@torch.no_grad()
def test_a_picture_is_that_of_the_network_at_its_strength(
    sheet: Sheet, request_of: SheetRequest
) -> None:
    model = load_model(request_of.base)
    cell = sheet.rows[3].cells[1]
    file = read_network(request_of.files[1].path)
    network = from_file(model.components(), file.tensors, file.metadata)
    network.inject()
    network.set_strength(0.6)
    assert cell.path is not None
    with Image.open(cell.path) as picture:
        assert picture.tobytes() == paint_one(model, cell.shot).tobytes()
        assert "Sampler: Euler a trailing" in picture.text["parameters"]  # type: ignore[attr-defined]


def test_what_was_painted_is_painted_once(
    sheet: Sheet, request_of: SheetRequest, cache: Path, painted: list[Shot], run: Path
) -> None:
    assert make_sheet(request_of, cache, silent) == sheet and painted == []
    more = replace(request_of, strengths=(0.3,), files=request_of.files[:1])
    make_sheet(more, cache, silent)
    assert len(painted) == 2
    first = sheet.rows[1].cells[0].path
    assert first is not None
    body = first.read_bytes()
    first.write_bytes(body[:50])
    made = make_sheet(request_of, cache, silent)
    assert len(painted) == 3 and made == sheet and first.read_bytes() == body


def test_another_file_under_the_same_name_is_painted_anew(
    request_of: SheetRequest, cache: Path, painted: list[Shot], tmp_path: Path
) -> None:
    copy = tmp_path / "x.safetensors"
    shutil.copy(request_of.files[0].path, copy)
    one = replace(
        request_of,
        files=(SheetFile(copy, "x"),),
        strengths=(0.6,),
        prompts=request_of.prompts[:1],
    )
    make_sheet(one, cache, silent)
    assert painted == [], "the same bytes are the same network"
    file = read_network(copy)
    write_network(copy, {name: 2 * value for name, value in file.tensors.items()}, file.metadata)
    make_sheet(one, cache, silent)
    assert len(painted) == 1


def test_a_stop_leaves_what_was_painted(request_of: SheetRequest, tmp_path: Path) -> None:
    def stop_at_the_third(done: int, total: int, words: str) -> None:
        assert total == 10
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        make_sheet(request_of, tmp_path, stop_at_the_third)
    assert len(list((tmp_path / "pictures").glob("*/*.png"))) == 2


def test_a_picture_that_cannot_be_made_is_a_note(
    request_of: SheetRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Any, shot: Shot, *rest: Any, **named: Any) -> Image.Image:
        if shot.seed in too_large:
            raise OutOfMemory("There is not enough memory for 64 x 64.")
        return Image.new("RGB", (64, 64), "red")

    monkeypatch.setattr(making, "paint_one", full)
    one = replace(request_of, strengths=(1.0,))
    too_large = {7, 9}
    with pytest.raises(OutOfMemory, match="64 x 64"):
        make_sheet(one, tmp_path, silent)
    too_large = {9}
    sheet = make_sheet(one, tmp_path, silent)
    assert sheet.pictures == 2
    assert sheet.rows[0].cells[1].note == "There is not enough memory for 64 x 64."
    assert "not enough memory" in page_of(sheet)


def test_the_page_needs_nothing_else_and_runs_nothing(sheet: Sheet) -> None:
    page = page_of(sheet)
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert set(re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([a-z]+:)', page)) == {"data:"}
    assert "://" not in page and "default-src 'none'" in page
    assert page.count("<img ") == 10 and "prefers-color-scheme: dark" in page


def test_grid_page_and_pictures_are_written(sheet: Sheet, run: Path, tmp_path: Path) -> None:
    written = write_sheet(sheet, replace(run_places(run), pictures=tmp_path / "out"))
    assert written.grid == run / "samples" / "sheet.png"
    assert written.page is not None and written.page.read_text("utf-8") == page_of(sheet)
    with Image.open(written.grid) as grid:
        assert grid.width > 2 * 160, "columns of small pictures are as wide as words need"
        assert grid.height > 5 * 64
        colours = grid.convert("RGB").getcolors(1 << 20)
        assert colours is not None and len(colours) > 1000
    assert sorted(path.name for path in written.written)[:2] == [
        "base_alone_0_7.png",
        "base_alone_1_9.png",
    ]
    with pytest.raises(UsageError, match="there already"):
        Places(grid=written.grid, page=tmp_path / "new.html").check()


def test_files_of_another_family_are_refused_before_the_base_is_loaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = tmp_path / "xl.safetensors"
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    down, up = torch.ones(2, 64), torch.ones(64, 2)
    write_network(stranger, {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, {})
    monkeypatch.setattr(making, "load_model", None)
    with pytest.raises(NetworkFileError, match="SDXL network"):
        request_for_files([stranger], Wishes(prompts=(Prompt("a"),)), run)


def test_a_base_model_is_no_network_to_paint_with(run: Path) -> None:
    base = run.parent.parent / "tiny.safetensors"
    with pytest.raises(NetworkFileError) as error:
        request_for_files([base], Wishes(model=base, prompts=(Prompt("a"),)))
    (problem,) = error.value.problems
    assert (problem.what, problem.path) == ("This is a base model.", "")
    assert (problem.where, problem.remedy) == (str(base), "Give a network file.")


def test_everything_wrong_is_said_at_once(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    file = read_network(run / "small.safetensors")
    write_network(alone, file.tensors, {})
    with pytest.raises(UsageError) as error:
        request_for_files([alone], Wishes(strengths=(99.0,), steps=0, width=50))
    paths = [problem.path for problem in error.value.problems]
    assert paths == ["strengths", "steps", "width", "prompts", "model"]
    # A file that carries its recipe knows its prompts, but not where its base is on this machine.
    moved = shutil.copy(run / "small.safetensors", tmp_path / "moved.safetensors")
    with pytest.raises(UsageError) as error:
        request_for_files([Path(moved)], Wishes())
    assert [problem.path for problem in error.value.problems] == ["model"]
    base = run.parent.parent / "tiny.safetensors"
    found = request_for_files([Path(moved)], Wishes(model=base))
    assert found.sampler == "euler_a" and len(found.prompts) == 2


def test_edited_prompts_of_a_run_are_its_prompts(run: Path) -> None:
    kept = run / "samples" / "prompts.txt"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("# edited\na dog\n")
    try:
        found = request_for_run(run, Wishes())
    finally:
        kept.unlink()
    assert [prompt.text for prompt in found.prompts] == ["a dog"]


def test_a_run_without_files_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "run.toml", tmp_path)
    with pytest.raises(EngineError, match="no network file yet"):
        request_for_run(tmp_path, Wishes())


@pytest.mark.parametrize(
    ("count", "most", "wanted"), [(10, 4, [2, 4, 7, 9]), (3, 4, [0, 1, 2]), (9, 0, list(range(9)))]
)
def test_many_files_are_spread_with_the_last_among_them(
    count: int, most: int, wanted: list[int]
) -> None:
    files = [SheetFile(Path(str(number)), str(number)) for number in range(count)]
    assert [int(file.label) for file in spread(files, most)] == wanted


def test_pictures_of_a_base_that_changes_meanwhile_are_not_kept(
    request_of: SheetRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base.safetensors"
    base.write_bytes(request_of.base.read_bytes())

    def changed_then(path: Path, **given: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return load_model(path, **given)

    monkeypatch.setattr(making, "load_model", changed_then)
    with pytest.raises(ModelError, match="changed while it was being read"):
        make_sheet(replace(request_of, base=base), tmp_path / "cache", silent)
    assert not list((tmp_path / "cache").rglob("*.png"))
