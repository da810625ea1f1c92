"""Names of strangers as paths: nothing leads out of the run's folder, nothing of the user's is replaced."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.checkpoint.atomic import copy_new
from engine.errors import EngineError
from engine.planning.fill import safe_name
from engine.session import create_run
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.toml import write_recipe
from engine.settings.walk import settings as all_settings
from lyctui.network_file import answers_in, draft_from_network, read_network_facts
from tests.trust.hostile import COMMANDS, HOSTILE, NAME, OBEYED

QUIET = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LEADING_OUT = (
    "../outside", "..", ".", "/etc/x", "a/../../b", "a\\..\\b", "", " ", "a/", "./a", "~/x", "a\x00b",
    "a\nb", "x" * 500, ".hidden", "a/b", "an honest name",
)  # fmt: skip


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_run_cannot_be_named_out_of_its_folder(tmp_path: Path, name: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    before = sorted(tmp_path.rglob("*"))
    data = {"version": 1, "run": {"name": name, "folder": str(runs)}}
    try:
        recipe = parse(data)
    except EngineError as error:
        assert any(problem.path == "run.name" for problem in error.problems)
        assert sorted(tmp_path.rglob("*")) == before
        return
    folder = create_run(recipe)
    assert folder.parent == runs
    assert folder.name == name


@given(text=st.text(max_size=80) | st.sampled_from([*LEADING_OUT, HOSTILE, "CON", "..."]))
@QUIET
def test_a_name_made_of_a_trigger_is_one_name(text: str) -> None:
    name = safe_name(text)
    assert name == Path(name).name and name not in ("", ".", "..") and len(name) <= 60
    assert "/" not in name and "\\" not in name and not name.startswith(".")
    assert not any(ord(char) < 32 for char in name)


def test_a_trigger_full_of_escapes_makes_a_harmless_folder() -> None:
    for sign in COMMANDS:
        assert OBEYED.search(safe_name(f"a{sign}b")) is None
    assert safe_name("gnp\u202eexe") == "gnp_exe"


@pytest.mark.parametrize("name", ["taken", "link"])
def test_a_folder_that_is_there_is_never_taken(tmp_path: Path, name: str) -> None:
    runs, victim = tmp_path / "runs", tmp_path / "victim"
    victim.mkdir(parents=True)
    (victim / "run.toml").write_text("of the user")
    runs.mkdir()
    (runs / "taken").mkdir()
    (runs / "taken" / "run.toml").write_text("of the user")
    (runs / "link").symlink_to(victim)
    recipe = Recipe.model_validate({"run": {"name": name, "folder": str(runs)}})
    made = None
    with suppress(EngineError):
        made = create_run(recipe)
    assert made is None or made.name != name
    for kept in (runs / "taken" / "run.toml", victim / "run.toml"):
        assert kept.read_text() == "of the user"


def test_a_copy_takes_a_free_name_also_where_links_lie(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "to"
    source.write_bytes(b"new")
    target.mkdir()
    (tmp_path / "kept").write_bytes(b"of the user")
    (target / "a.safetensors").symlink_to(tmp_path / "kept")
    (target / "a_2.safetensors").symlink_to(tmp_path / "nowhere")
    assert copy_new(source, target).read_bytes() == b"new"
    assert (tmp_path / "kept").read_bytes() == b"of the user"
    assert not (tmp_path / "nowhere").exists()


def hostile_network(path: Path) -> Path:
    """A file whose recipe names paths everywhere and switches on what sends."""
    tree: dict[str, dict[str, object]] = {}
    for row in all_settings():
        section, _, key = row.path.partition(".")
        if row.kind == "path":
            tree.setdefault(section, {})[key] = "/etc/passwd"
    tree.setdefault("run", {}).update(name="../out", wandb=True, wandb_project="theirs", folder="/")
    tree.setdefault("data", {})["trigger"] = HOSTILE
    lines = ["version = 1"]
    for section, values in tree.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    tensors = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.ones(8, 4),
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(4, 8),
    }
    save_file(tensors, path, {"lyctui.recipe": "\n".join(lines), "ss_output_name": f"../{NAME}"})
    return path


def test_a_network_file_says_nothing_of_this_machine(tmp_path: Path) -> None:
    """Its recipe may set how to train: never a path, a name, or anything that sends."""
    path = hostile_network(tmp_path / "theirs.safetensors")
    facts = read_network_facts(path)
    draft = draft_from_network(facts)
    assert "/etc/passwd" not in json.dumps(draft.to_dict())
    assert not [name for name in draft.values() if name.startswith("run.")]
    assert draft.value("network.weights") == str(path)
    assert draft.value("data.trigger") == HOSTILE, "what it may say is there"


@given(text=st.text(max_size=60))
@QUIET
def test_any_recipe_of_a_network_file_is_answers_or_nothing(text: str) -> None:
    for body in (text, f"version = 1\n[model]\npath = {json.dumps(text)}\n", f"[run]\n{text}"):
        with suppress(EngineError):
            found = answers_in({"lyctui.recipe": body})
            assert "run" not in found and "path" not in found.get("model", {})


def test_a_recipe_with_a_hostile_trigger_is_written_as_text() -> None:
    """Controls are escaped in run.toml: whoever looks at it in a terminal sees them."""
    recipe = Recipe.model_validate({"data": {"trigger": HOSTILE, "class_word": "\x1b[2J"}})
    assert "\x1b" not in write_recipe(recipe) and "\x07" not in write_recipe(recipe)
