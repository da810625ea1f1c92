"""Welcome's other doors: drafts, runs, network files, the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import NetworkFileError
from engine.events import Ended, Event, Started, to_dict
from lyctui.draft import Draft
from lyctui.network_file import draft_from_network, read_network_facts
from lyctui.screens.drafts import DraftsScreen
from lyctui.screens.resume import NetworkFileScreen, ResumeScreen
from lyctui.screens.welcome import (
    Machine,
    Shelf,
    WelcomeScreen,
    machine_lines,
    menu_rows,
    read_shelf,
)
from lyctui.text import age
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu
from lyctui.widgets.path_input import PathInput
from tests.lyctui.test_wizard_pages import App, machine, page_of_app, said
from tests.lyctui.wizard_parts import NO_GPU, gpu_machine, until

__all__ = ["machine"]


def make_run(root: Path, name: str, *, ended: Literal["finished", "stopped"] | None = None) -> Path:
    """A run folder as a run leaves it."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text("version = 1\n")
    events: list[Event] = [Started(name, 2000, (200,) * 10, 4, 800, time=100.0)]
    if ended:
        events.append(Ended(ended, name, (), 812, 0, time=200.0))
    lines = (json.dumps(to_dict(event)) + "\n" for event in events)
    (folder / "events.jsonl").write_text("".join(lines))
    return folder


def lora_file(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A small LoRA with rank 4 and alpha 2."""
    tensors = {}
    for name in (
        "lora_unet_mid_block_attentions_0_proj_in",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    ):
        tensors |= {
            f"{name}.lora_down.weight": torch.ones(4, 8),
            f"{name}.lora_up.weight": torch.zeros(8, 4),
            f"{name}.alpha": torch.tensor(2.0),
        }
    save_file(tensors, path, metadata=metadata)
    return path


def words_of(machine: Machine) -> str:
    return "\n".join("".join(part for part, _ in line) for line in machine_lines(machine))


def test_what_the_machine_lines_say(tmp_path: Path) -> None:
    assert "no NVIDIA GPU: training on the CPU is only practical for the demo" in words_of(
        Machine(NO_GPU, 10**11, tmp_path)
    )
    gpu = words_of(Machine(gpu_machine(12), 10**11, tmp_path))
    assert "Card 12 · 12.0 GiB, 11.5 free · driver 580 · bf16 yes" in gpu
    assert "100.0 GB free" in gpu


def test_the_menu_offers_only_what_there_is(tmp_path: Path) -> None:
    assert [row.key for row in menu_rows(Shelf())] == ["new", "file", "tools", "demo", "import"]
    make_run(tmp_path / "runs", "style-02", ended="stopped")
    draft = Draft(page="network")
    draft.set("data.trigger", "vexilo")
    draft.save()
    rows = {row.key: row.note for row in menu_rows(read_shelf())}
    assert list(rows) == ["new", "drafts", "resume", "file", "tools", "demo", "import"]
    assert "“vexilo”, network page" in rows["drafts"]
    assert rows["resume"] == "style-02 stopped, step 812 of 2 000"


async def test_the_demo_is_one_key(tmp_path: Path) -> None:
    app = App(WelcomeScreen)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.screen.query_one(Menu).rows) == 5)
        await pilot.press("4")
        await until(pilot, lambda: app.asked)
    assert app.asked == [("demo",)]


async def test_a_stopped_run_says_what_is_exact_and_goes_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "style-02", ended="stopped")
    make_run(tmp_path / "runs", "done", ended="finished")
    app = App(WelcomeScreen)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: any(r.key == "resume" for r in app.screen.query_one(Menu).rows))
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, ResumeScreen))
        await until(pilot, lambda: "Exact: weights, optimizer state" in said(pilot))
        await pilot.press("down")
        await until(pilot, lambda: "train.epochs=N" in said(pilot))
        await pilot.press("enter")
        assert app.asked == [], "a finished run does not start over"
        await pilot.press("up", "enter")
        await until(pilot, lambda: app.asked)
    assert app.asked == [("resume", folder)]


async def test_drafts_are_listed_and_deleted_after_a_second_press(tmp_path: Path) -> None:
    drafts = []
    for number in range(2):
        draft = Draft(id=f"d{number}")
        draft.set("data.trigger", f"word{number}")
        draft.save()
        drafts.append(draft)
    app = App(WelcomeScreen)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: any(r.key == "drafts" for r in app.screen.query_one(Menu).rows))
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, DraftsScreen))
        await pilot.press("d")
        await until(pilot, lambda: "Press d again" in said(pilot))
        assert len(read_shelf().drafts) == 2
        await pilot.press("d")
        await until(pilot, lambda: len(read_shelf().drafts) == 1)
        await pilot.press("enter")
        await until(pilot, lambda: page_of_app(app) == "goal")
    assert read_shelf().drafts[0].value("data.trigger") == "word0"
    assert age(read_shelf().drafts[0].saved_at)


def test_a_network_file_tells_algorithm_rank_and_alpha(tmp_path: Path) -> None:
    recipe = (
        '[data]\ntrigger = "vexilo"\nfolder = "/old"\n[optim]\nlr = 2e-4\n[run]\nname = "old"\n'
    )
    path = lora_file(tmp_path / "x.safetensors", {"lyctui.recipe": recipe})
    draft = draft_from_network(read_network_facts(path))
    made = draft.recipe()
    assert (made.network.algorithm, made.network.rank, made.network.alpha) == ("lora", 4, 2.0)
    assert made.network.weights == path
    assert made.optim.lr == 2e-4 and made.data.trigger == "vexilo"
    assert made.data.folder is None and made.run.name is None, "of the old run alone"
    assert draft.page == "model"


def test_a_file_of_ours_leaves_behind_what_it_cannot_bring_along(tmp_path: Path) -> None:
    """Its own choice of layers is a bare name, and its scale is in the file's alpha already."""
    recipe = """
[network]
algorithm = "lora"
rank = 4
alpha = 1.0
rs_lora = true
tucker = true
dropout = 0.1
targets_file = "mine.toml"
overrides = [{pattern = "CLIPMLP", exclude = true}]
"""
    path = lora_file(tmp_path / "x.safetensors", {"lyctui.recipe": recipe})
    facts = read_network_facts(path)
    network = facts.answers["network"]
    assert network == {
        "algorithm": "lora",
        "rank": 4,
        "alpha": 2.0,
        "targets": "attn-mlp",
        "rs_lora": False,
        "train_norm": False,
        "dora": "off",
        "dropout": 0.1,
        "weights": str(path),
    }
    assert facts.words.startswith("lora, rank 4, 2 layers")
    assert draft_from_network(facts).recipe().network.targets_file is None


def test_overrides_stay_with_the_layers_they_were_written_for(tmp_path: Path) -> None:
    recipe = """
[network]
algorithm = "dylora"
block_size = 2
targets = "full"
overrides = [{pattern = "ResnetBlock2D", exclude = true}]
"""
    path = lora_file(tmp_path / "x.safetensors", {"lyctui.recipe": recipe})
    network = read_network_facts(path).answers["network"]
    assert (network["algorithm"], network["block_size"], network["targets"]) == (
        "dylora",
        2,
        "full",
    )
    assert len(network["overrides"]) == 1


@pytest.mark.parametrize(
    ("suffix", "shape"), [("oft_blocks", (4, 2, 2)), ("oft_blocks", (3, 4, 2, 2)), ("diff", (8, 8))]
)
def test_other_kinds_become_a_draft_too(
    tmp_path: Path, suffix: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"lora_unet_mid_block_attentions_0_proj_in.{suffix}": torch.zeros(shape)}, path)
    facts = read_network_facts(path)
    made = draft_from_network(facts).recipe()
    algorithm = {3: "diag-oft", 4: "boft", 2: "full"}[len(shape)]
    assert made.network.algorithm == algorithm
    assert facts.words.startswith(f"{algorithm}, rank 2" if "oft" in suffix else "full, 1 layer")


def test_norms_alone_are_no_start(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    name = "lora_unet_mid_block_attentions_0_norm"
    save_file({f"{name}.w_norm": torch.zeros(8), f"{name}.b_norm": torch.zeros(8)}, path)
    with pytest.raises(NetworkFileError, match="no network of a kind"):
        read_network_facts(path)


@pytest.mark.parametrize("kind", ["missing", "text", "base"])
def test_files_that_are_no_network_are_refused_in_words(
    tmp_path: Path, base: Path, kind: str
) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "text":
        path.write_text("hello")
    elif kind == "base":
        path = base
    with pytest.raises(NetworkFileError) as caught:
        read_network_facts(path)
    assert caught.value.problems[0].what


async def test_a_network_file_leads_into_the_wizard(tmp_path: Path) -> None:
    path = lora_file(tmp_path / "x.safetensors")
    app: Any = App(WelcomeScreen)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query_one(Menu).rows)
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, NetworkFileScreen))
        app.screen.query_one(PathInput).value = str(tmp_path / "none.safetensors")
        await pilot.press("enter")
        await until(pilot, lambda: "no such file" in app.screen.query_one("#facts", Lines).plain)
        app.screen.query_one(PathInput).focus()
        app.screen.query_one(PathInput).value = str(path)
        await pilot.press("enter")
        await until(pilot, lambda: "Exact" in app.screen.query_one("#facts", Lines).plain)
        assert "rank 4" in app.screen.query_one("#facts", Lines).plain
        await pilot.press("ctrl+n")
        await until(pilot, lambda: page_of_app(app) == "model")
        assert app.screen.wizard.effective("network.weights") == str(path)
