"""The tools page at 80x24 by keys: forms, immediate checks, a real convert and merge, stopping, errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from textual.pilot import Pilot
from textual.widgets import Select

import lyctui.app
from engine.errors import NetworkFileError, Problem
from engine.networks.headers import read_header
from engine.tools.requests import (
    ConvertRequest,
    ModuleReport,
    RankRule,
    ResizeRequest,
    ToolReport,
    Weighted,
)
from lyctui.app import LyctuiApp
from lyctui.fields import path_text
from lyctui.report import plain
from lyctui.screens.problem import ProblemScreen
from lyctui.screens.tools import ToolsScreen
from lyctui.screens.tools_form import ToolFormScreen
from lyctui.screens.tools_report import ToolReportScreen
from lyctui.screens.tools_run import LeaveToolScreen, ToolRunScreen
from lyctui.text import UNICODE_SIGNS
from lyctui.tool_check import examine, in_words
from lyctui.tool_forms import TOOLS, ToolDraft, tool_named
from lyctui.tool_report import report_lines
from lyctui.tool_words import words_of
from lyctui.tool_work import ToolWork
from lyctui.widgets.file_picker import FilePicker
from lyctui.widgets.lines import Lines
from lyctui.widgets.setting_field import SettingField, field_id
from lyctui.widgets.tool_field import NetworkRows
from tests.engine.tools.tiny_files import CHOICES, Tiny
from tests.lyctui.wizard_parts import until

SIZE = (80, 24)


class App(LyctuiApp):
    CSS_PATH = Path(lyctui.app.__file__).parent / "styles" / "app.tcss"


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tools"))


@pytest.fixture
def lora(tiny: Tiny, tmp_path: Path) -> Path:
    """A network in a folder of this test."""
    place = tmp_path / "vexilo.safetensors"
    place.write_bytes(tiny.network("lora").read_bytes())
    return place


def draft(key: str, **answers: Any) -> ToolDraft:
    texts = {name: str(value) for name, value in answers.items() if name != "networks"}
    return ToolDraft(tool_named(key), texts, answers.get("networks", []))


def opened(one: ToolDraft) -> App:
    return App(lambda: ToolFormScreen(one))


def shown(pilot: Pilot[int], path: str) -> SettingField:
    return pilot.app.screen.query_one(f"#{field_id(path)}", SettingField)


def words_on(pilot: Pilot[int], part: str) -> str:
    return pilot.app.screen.query_one(part, Lines).plain


def report_on(pilot: Pilot[int]) -> str:
    return "".join(words_on(pilot, "#report").split())


def reported(app: LyctuiApp) -> bool:
    """Whether the report is there, and not only its screen."""
    return isinstance(app.screen, ToolReportScreen) and bool(app.screen.query("#report"))


def form_of(app: App) -> ToolFormScreen:
    assert isinstance(app.screen, ToolFormScreen)
    return app.screen


async def looked_at(pilot: Pilot[int]) -> ToolFormScreen:
    form = form_of(pilot.app)  # type: ignore[arg-type]
    await until(pilot, lambda: form.focused is not None and not form._reader.busy)
    await pilot.pause()
    return form


async def typed(pilot: Pilot[int], words: str) -> None:
    for letter in words:
        await pilot.press(letter)


# The forms as data ----------------------------------------------------------------------------


def test_every_field_of_every_request_is_asked_in_words() -> None:
    for tool in TOOLS:
        asked = {one.path.partition(".")[0] for one in draft(tool.key).fields()}
        assert asked == {item.name for item in fields(tool.request)}
        for item in fields(tool.request):
            words = words_of(tool.key, item.name)
            assert words.label and words.help.endswith(".")


def test_every_choice_of_every_field_has_words_and_a_default_that_is_one() -> None:
    for tool in TOOLS:
        for one in draft(tool.key).fields():
            if one.kind != "choice":
                continue
            texts = [text for _, text in one.options()]
            assert (one.default or "") in texts
            assert all(words for words, _ in one.options())


def test_answers_become_the_request(tmp_path: Path) -> None:
    one = draft(
        "resize", source="a.safetensors", output="b.safetensors", force="yes", precision="bf16"
    )
    one.answers |= {"rule.kind": "sv_fro", "rule.value": "0,9", "rule.limit": "64"}
    request, problems, missing = one.request()
    assert (problems, missing) == ((), frozenset())
    assert request == ResizeRequest(
        source=Path("a.safetensors"),
        output=Path("b.safetensors"),
        rule=RankRule("sv_fro", 0.9, 64),
        precision="bf16",
        force=True,
    )
    merge = draft("merge", base="m.safetensors", networks=[("a", ""), ("b", "-0.5"), (" ", "2")])
    asked: Any = merge.request()[0]
    assert asked.networks == (Weighted(Path("a"), 1.0), Weighted(Path("b"), -0.5))


def test_nothing_that_is_not_a_number_reaches_a_request() -> None:
    one = draft("resize", source="a.safetensors")
    one.answers["rule.value"] = "many"
    _, problems, _ = one.request()
    assert [problem.path for problem in problems] == ["rule.value"]
    join = draft("join", networks=[("a", "x")])
    assert join.request()[1][0].path == "networks"


def test_the_proposed_name_is_always_free(lora: Path) -> None:
    one = draft("convert", source=lora, program="comfyui")
    assert one.output == lora.with_name("vexilo-comfyui.safetensors")
    lora.with_name("vexilo-comfyui.safetensors").touch()
    assert one.output == lora.with_name("vexilo-comfyui-2.safetensors")
    assert draft("resize", source=lora).output == lora.with_name("vexilo-rank32.safetensors")
    assert draft("convert", source="/").output is None


# What is found before a start -----------------------------------------------------------------


def test_a_network_is_told_with_what_will_be_written_and_who_reads_it(
    tiny: Tiny, lora: Path
) -> None:
    found = examine(draft("convert", source=tiny.network("loha"), program="diffusers"))
    assert found.ready
    assert "loha rank 2" in found.facts[0][1] and "SD1" in found.facts[0][1]
    assert "a new file" in found.writes
    assert "diffusers" in found.reads and "not by" not in found.reads
    as_it_is = examine(draft("convert", source=tiny.network("loha"))).reads
    assert "not by diffusers" in as_it_is


def test_what_is_predicted_of_programs_is_what_the_file_then_tells(
    tiny: Tiny, tmp_path: Path
) -> None:
    for kind, program in (("loha", "diffusers"), ("loha", "forge"), ("ia3", "comfyui")):
        one = draft("convert", source=tiny.network(kind), program=program, base=tiny.base)
        one.answers["output"] = str(tmp_path / f"{kind}-{program}.safetensors")
        found = examine(one)
        work = ToolWork("convert", one.request()[0])
        work.start()
        assert work.wait(60) and not work.problems, work.problems
        assert found.reads == f"Read by {work.reads}.", (kind, program)


@pytest.mark.parametrize("kind", ["picture", "missing", "folder", "base", "text"])
def test_what_is_no_network_is_refused_by_name(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "picture":
        Image.new("RGB", (8, 8)).save(path, format="png")
    elif kind == "text":
        path.write_text("no weights at all")
    elif kind == "folder":
        path.mkdir()
    elif kind == "base":
        path = tiny.base
    found = examine(draft("convert", source=path))
    assert [problem.path for problem in found.problems] == ["source"]
    assert not found.ready and found.problems[0].what


def test_a_network_is_no_base_and_a_folder_is_no_output(lora: Path, tmp_path: Path) -> None:
    found = examine(draft("merge", base=lora, networks=[(str(lora), "")], output=tmp_path))
    assert {problem.path for problem in found.problems} == {"base", "output"}


def test_the_wrong_family_is_refused_by_name_before_the_start(tiny: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    name = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
    tensors = {
        f"{name}.lora_down.weight": torch.zeros(4, 2048),
        f"{name}.lora_up.weight": torch.ones(640, 4),
        f"{name}.alpha": torch.tensor(4.0),
    }
    path = tmp_path / "xl.safetensors"
    save_file(tensors, path)
    found = examine(draft("merge", base=tiny.base, networks=[(str(path), "")]))
    assert [problem.path for problem in found.problems] == ["networks"]
    assert "SDXL" in found.problems[0].what
    # It is no mistake to convert or look into one.
    assert examine(draft("info", source=path)).ready


def test_an_existing_file_is_refused_until_overwrite_is_on(lora: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    one = draft("convert", source=lora, output=there)
    found = examine(one)
    assert [problem.path for problem in found.problems] == ["output"]
    assert "Overwrite" in found.problems[0].remedy and "--" not in found.problems[0].remedy
    one.answers["force"] = "yes"
    assert examine(one).ready and "Replaces" in examine(one).writes
    one.answers["output"] = str(lora)
    assert ("warning", "The new file takes the place of one that is read.") in examine(one).facts


def test_nothing_is_a_mistake_before_it_was_answered() -> None:
    for tool in TOOLS:
        found = examine(draft(tool.key))
        assert found.problems == () and not found.ready


def test_remedies_speak_of_the_form() -> None:
    sources = Path(lyctui.app.__file__).parents[1] / "engine" / "tools"
    words = " ".join(path.read_text("utf-8") for path in sources.glob("*.py"))
    assert "--base" in words
    for told in (
        "Choose another name, or use --force to replace it.",
        "Give the base model that it was trained on with --base.",
        "Use --precision fp32 or bf16.",
        "Make a LoRA of it: lyctui convert --to lora --rank N.",
    ):
        assert "--" not in in_words(told)


# By keys --------------------------------------------------------------------------------------


async def test_keys_alone_convert_a_real_file(
    monkeypatch: pytest.MonkeyPatch, tiny: Tiny, lora: Path
) -> None:
    monkeypatch.chdir(lora.parent)
    app = App(ToolsScreen)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ToolsScreen) and app.focused)
        await pilot.press("6")
        await until(pilot, lambda: isinstance(app.screen, ToolFormScreen) and app.focused)
        await typed(pilot, "vex")
        await pilot.press("tab")
        assert shown(pilot, "source").text == lora.name
        await looked_at(pilot)
        await pilot.press("tab")
        for _ in range(4):
            await pilot.press("right")
        form = await looked_at(pilot)
        assert "vexilo-diffusers.safetensors" in words_on(pilot, "#will").replace("\n", "")
        assert form.findings.reads.startswith("Read by")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: reported(app), 60)
        await until(pilot, lambda: "Readby" in report_on(pilot))
        told = report_on(pilot)
        assert "Written" in told and "vexilo-diffusers.safetensors" in told
        assert "lora210" in told and "Readby" in told
        await pilot.press("i")
        await until(
            pilot,
            lambda: reported(app) and "Algorithm" in words_on(pilot, "#report"),
            30,
        )
        await pilot.press("escape")
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, ToolsScreen))
    written = lora.with_name("vexilo-diffusers.safetensors")
    assert len(read_header(written).entries) == len(read_header(lora).entries)


async def test_a_real_merge_with_a_strength_goes_through_the_page(
    monkeypatch: pytest.MonkeyPatch, tiny: Tiny, lora: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(lora.parent)
    from safetensors.torch import load_file

    target = tmp_path / "new" / "merged.safetensors"
    one = draft("merge", base=tiny.base, output=target)
    app = opened(one)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        app.screen.query_one(NetworkRows).focus_control()
        await typed(pilot, "vex")
        await pilot.press("tab", "enter")
        await typed(pilot, "0.5")
        await looked_at(pilot)
        assert len(app.screen.query_one(NetworkRows).rows) == 2, "an empty row follows"
        await pilot.press("ctrl+n")
        await until(pilot, lambda: reported(app), 60)
        await until(pilot, lambda: "everyprogramthatloadsthebasemodel" in report_on(pilot))
    assert one.networks[0] == (lora.name, "0.5")
    before, after = load_file(tiny.base), load_file(target)
    assert before.keys() == after.keys()
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = load_file(lora)
    up, down = (tensors[f"{name}.lora_{half}.weight"].float() for half in ("up", "down"))
    scale = float(tensors[f"{name}.alpha"]) / down.shape[0]
    change = after[key].float() - before[key].float()
    torch.testing.assert_close(change, 0.5 * scale * up @ down, rtol=1e-3, atol=1e-5)


async def test_start_goes_to_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    app = opened(draft("extract"))
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        await pilot.press("tab", "tab", "ctrl+n")
        await until(pilot, lambda: shown(pilot, "base").has_class("-wrong"))
        assert isinstance(app.screen, ToolFormScreen)
        await until(pilot, lambda: shown(pilot, "base").control.has_focus)
        assert shown(pilot, "tuned").has_class("-wrong")


async def test_a_rule_brings_its_own_number(lora: Path) -> None:
    one = draft("resize", source=lora)
    app = opened(one)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        assert shown(pilot, "rule.value").form.label == "Rank"
        shown(pilot, "rule.kind").focus_control()
        await pilot.press("left")
        await until(pilot, lambda: shown(pilot, "rule.value").form.label == "Error at most")
        shown(pilot, "rule.value").focus_control()
        await typed(pilot, "7")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: shown(pilot, "rule.value").has_class("-wrong"))
        assert isinstance(app.screen, ToolFormScreen), "7 is no relative error"
    assert one.answers["rule.kind"] == "error"


async def test_more_answers_unfold_and_a_problem_among_them_unfolds_them(
    lora: Path, tmp_path: Path
) -> None:
    one = draft("convert", source=lora, base=tmp_path / "nothing.safetensors")
    app = opened(one)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        assert not app.screen.query(f"#{field_id('base')}")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.screen.query(f"#{field_id('base')}"))
        await until(pilot, lambda: shown(pilot, "base").has_class("-wrong"))
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not app.screen.query(f"#{field_id('base')}"))
    assert one.answers["base"].endswith("nothing.safetensors")


async def test_the_picker_lists_networks_beside_and_takes_folders_to_write_to(
    lora: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    one = draft("convert", source=lora)
    app = opened(one)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        shown(pilot, "output").focus_control()
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, FilePicker))
        picker: Any = app.screen
        assert picker._folder == tmp_path
        picker.dismiss(tmp_path / "out")
        await until(pilot, lambda: isinstance(app.screen, ToolFormScreen))
        wanted = path_text(tmp_path / "out" / "vexilo-converted.safetensors")
        await until(pilot, lambda: shown(pilot, "output").text == wanted)
        assert one.path("output") == tmp_path / "out" / "vexilo-converted.safetensors"


class Slow:
    """A tool that waits between tensors until it is let go."""

    def __init__(self, output: Path, end: Callable[[], ToolReport] | None = None) -> None:
        self.output = output
        self.go = threading.Event()
        self.end = end

    def __call__(self, request: Any, progress: Callable[[int, int, str], None]) -> Any:
        temporary = self.output.with_suffix(".tmp")
        temporary.touch()
        try:
            for number in range(1000):
                progress(number, 1000, f"layer_[b]{number}[/b]\x1b")
                self.go.wait(0.01 if number < 500 else 60)
        finally:
            temporary.unlink()
        if self.end is not None:
            return self.end()
        raise AssertionError("it was to be stopped")


def slow_form(
    monkeypatch: pytest.MonkeyPatch, lora: Path, run: Callable[..., Any]
) -> tuple[App, ToolDraft]:
    monkeypatch.setattr("lyctui.tool_work.run_tool", run)
    one = draft("convert", source=lora, program="forge")
    return opened(one), one


@pytest.mark.parametrize("key", ["x", "escape"])
async def test_a_stopped_tool_leaves_nothing_and_keeps_the_answers(
    key: str, monkeypatch: pytest.MonkeyPatch, lora: Path
) -> None:
    slow = Slow(lora.with_name("vexilo-forge.safetensors"))
    app, _ = slow_form(monkeypatch, lora, slow)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ToolRunScreen))
        await until(pilot, lambda: "of 1 000" in words_on(pilot, "#work"))
        words = words_on(pilot, "#work")
        assert "module " in words and "[b]" in words and "\x1b" not in words
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, ToolFormScreen))
        assert shown(pilot, "program").query_one(Select).value == "forge"
    assert [path.name for path in lora.parent.glob("vexilo*")] == ["vexilo.safetensors"]
    assert app.tool is not None and app.tool.cancelled


async def test_leaving_while_a_tool_works_asks(monkeypatch: pytest.MonkeyPatch, lora: Path) -> None:
    slow = Slow(lora.with_name("out.safetensors"))
    app, _ = slow_form(monkeypatch, lora, slow)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ToolRunScreen))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, LeaveToolScreen))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, ToolRunScreen))
        assert app.tool is not None and app.tool.live
        await pilot.press("ctrl+c")
        await until(pilot, lambda: isinstance(app.screen, LeaveToolScreen))
        await pilot.press("y")
        await until(pilot, lambda: app._exit)
    assert app.tool.wait(10) and app.tool.cancelled


async def test_an_error_is_words_with_its_remedy_and_the_form_comes_back(
    monkeypatch: pytest.MonkeyPatch, lora: Path
) -> None:
    words = "This module [b]cannot[/b] be told."

    def fails(request: Any, progress: Any) -> Any:
        raise NetworkFileError(Problem(words, "m_1", "Give the base model with --base.", "base"))

    app, one = slow_form(monkeypatch, lora, fails)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        told = "\n".join(str(one.render()) for one in app.screen.query("Static"))
        assert "[b]cannot[/b]" in told and "as Base model" in told and "--base" not in told
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ToolFormScreen))
        assert shown(pilot, "source").text == str(lora)
        await until(pilot, lambda: app.screen.query(f"#{field_id('base')}"))
        await until(pilot, lambda: shown(pilot, "base").has_class("-wrong"))
        assert shown(pilot, "base").control.has_focus
    assert one.answers["program"] == "forge"


async def test_the_unforeseen_is_words_and_a_report_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, lora: Path
) -> None:
    def breaks(request: Any, progress: Any) -> Any:
        raise RuntimeError("secret shapes")

    app, _ = slow_form(monkeypatch, lora, breaks)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
    assert app.tool is not None and app.tool.report is not None
    assert "Traceback" in app.tool.report.read_text("utf-8")


async def test_a_lost_terminal_does_not_end_the_tool(
    monkeypatch: pytest.MonkeyPatch, lora: Path
) -> None:
    output = lora.with_name("vexilo-forge.safetensors")

    def end() -> ToolReport:
        output.write_bytes(b"whole")
        return ToolReport("convert", output, 5, "fp32", (), 0.0)

    slow = Slow(output, end)
    app, _ = slow_form(monkeypatch, lora, slow)
    async with app.run_test(size=SIZE) as pilot:
        await looked_at(pilot)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ToolRunScreen))
        app.signals.hangup = True
        app._signalled("hangup")
        await until(pilot, lambda: app._exit)
    from lyctui.afterwards import after_screens

    assert app.tool is not None and app.tool.live
    slow.go.set()
    assert after_screens(app, app.signals) == 0, "done, though nobody saw it"
    assert output.read_bytes() == b"whole"


def test_a_report_names_the_worst_modules_and_warns_of_what_is_lost() -> None:
    modules = tuple(
        ModuleReport(f"layer_{number}", "lora", 4 + number % 2, number / 100)
        for number in range(20)
    )
    report = ToolReport(
        "resize",
        Path("/x/[red]y.safetensors"),
        1_500_000,
        "fp16",
        modules,
        0.12,
        ("layer_9: left out",),
        ("Use --to diff.",),
    )
    lines = [plain(line) for line in report_lines(report, UNICODE_SIGNS, "ComfyUI")]
    told = "\n".join(lines)
    assert "1.5 MB" in told and "[red]y.safetensors" in told and "4 (10), 5 (10)" in told
    worst = next(line for line in lines if "layer_19" in line)
    assert "19 %" in worst and told.index("layer_19") < told.index("layer_18")
    assert "layer_3" not in told
    assert "higher rank" in told and "whole difference" in told and "--" not in told
    assert "layer_9: left out" in told


def test_the_list_of_tools_is_complete() -> None:
    assert CHOICES
    assert {tool.key for tool in TOOLS} == {"info", "merge", "join", "extract", "resize", "convert"}
    assert {tool.request for tool in TOOLS} >= {ConvertRequest, ResizeRequest}
