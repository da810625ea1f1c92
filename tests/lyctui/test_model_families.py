"""The model page and `plan` on bases of all families: what they are, how it was told, what is asked."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lyctui.app
from engine.models.architecture import full_size
from engine.models.detect import ModelFacts
from engine.plan import Facts, plan
from engine.settings.check import parse
from engine.snapshot import Snapshot
from lyctui.app import LyctuiApp
from lyctui.draft import Draft
from lyctui.network_file import read_network_facts
from lyctui.plain_talk import Talk
from lyctui.plain_wizard import _prediction
from lyctui.remedies import Now, higher_rate
from lyctui.report import number_lines, plain
from lyctui.run_numbers import run_numbers
from lyctui.screens.field_words import why_idle
from lyctui.screens.model import ModelPage, model_lines
from lyctui.screens.pages import make_page
from lyctui.screens.summary import review_rows
from lyctui.text import cells
from lyctui.verbs.plan import plan_lines
from lyctui.widgets.lines import Lines
from tests.lyctui.wizard_parts import NO_GPU, field, filled_draft, pictures, settled, until
from tests.tiny_families import write_tiny

MARK = 'the marker tensor "v_pred" in the file'
DOUBT = "some relatives of SDXL predict v, and this file does not tell"
ASSUMED = f"assumed epsilon; {DOUBT}"


class App(LyctuiApp):
    CSS_PATH = Path(lyctui.app.__file__).parent / "styles" / "app.tcss"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("lyctui.wizard.Wizard.warm_up", lambda self: None)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "untold": write_tiny(folder / "xl.safetensors", "sdxl"),
        "marked": write_tiny(folder / "v.safetensors", "sdxl", prediction="v"),
    }


def draft_of(base: Path) -> Draft:
    draft = Draft()
    draft.set("model.path", base)
    return draft


def model_of(family: str, prediction: str, source: str) -> ModelFacts:
    return ModelFacts(
        Path("base.safetensors"),
        "single",
        6_900_000_000,
        family=family,  # type: ignore[arg-type]
        prediction=prediction,  # type: ignore[arg-type]
        prediction_source=source,
        dtype="F16",
        architecture=full_size(family),
    )


async def test_the_prediction_type_is_asked_where_the_file_does_not_tell(
    bases: dict[str, Path],
) -> None:
    wizard = settled(draft_of(bases["untold"]))
    app = App(lambda: make_page("model", wizard))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ModelPage))
        await until(pilot, lambda: app.screen.query("#detected") and wizard.model is not None)
        await until(pilot, lambda: "XL" in app.screen.query_one("#detected", Lines).plain)
        shown = " ".join(app.screen.query_one("#detected", Lines).plain.split())
        assert "told by the names of its tensors" in shown
        assert "does not tell" in shown and "is assumed" in shown
        assert field(pilot, "model.prediction").display
        wizard.set("model.prediction", "v")
        assert wizard.page_problems("model") == ()


async def test_a_contradiction_stands_beside_its_field(bases: dict[str, Path]) -> None:
    draft = draft_of(bases["marked"])
    draft.set("model.prediction", "epsilon")
    wizard = settled(draft)
    (problem,) = wizard.page_problems("model")
    assert (problem.path, MARK in problem.what) == ("model.prediction", True)

    told = settled(draft_of(bases["marked"]))
    app = App(lambda: make_page("model", told))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ModelPage))
        paths = [one.path for one in app.screen.open_fields()]  # type: ignore[attr-defined]
        assert "model.prediction" not in paths, "the file tells"


def test_a_family_that_is_not_the_files_is_refused(bases: dict[str, Path]) -> None:
    draft = draft_of(bases["untold"])
    draft.set("model.family", "sd1")
    (problem,) = settled(draft).page_problems("model")
    assert problem.path == "model.family"
    assert "Stable Diffusion XL, not Stable Diffusion 1" in problem.what


@pytest.mark.parametrize(
    ("family", "prediction", "source", "words"),
    [
        ("sd1", "epsilon", "usual for Stable Diffusion 1", "prediction: epsilon (usual for"),
        ("sd2", "epsilon", "assumed epsilon; the 768 models predict v", "the 768 models predict v"),
        ("sdxl", "v", MARK, f"prediction: v ({MARK})"),
    ],
)
def test_a_model_is_told_in_lines(family: str, prediction: str, source: str, words: str) -> None:
    lines = [plain(line) for line in model_lines(model_of(family, prediction, source), "+", "!")]
    assert any(words in line for line in lines)
    assert any("told by the names of its tensors" in line for line in lines)
    assert any(line.startswith("! ") for line in lines) == source.startswith("assumed")


def test_the_plan_tells_the_base_and_asks_what_it_predicts() -> None:
    facts = Facts(hardware=NO_GPU, model=model_of("sdxl", "epsilon", ASSUMED), drawn_seed=1)
    made = plan(parse({}), facts)
    lines = plan_lines(made)
    assert (
        "Base      Stable Diffusion XL, told by the names of its tensors, made for 1024 px" in lines
    )
    assert f"          predicts epsilon ({ASSUMED})" in lines
    assert any(line.startswith("! What the base predicts is assumed") for line in lines)
    base = made.to_dict()["base"]
    assert (base["family"], base["prediction_assumed"]) == ("sdxl", True)

    answered = plan_lines(plan(parse({"model": {"prediction": "v"}}), facts))
    assert "          predicts v (your choice)" in answered
    assert not any("What the base predicts" in line for line in answered)


def test_the_plain_wizard_asks_too(bases: dict[str, Path]) -> None:
    asked = {}
    for name, path in bases.items():
        wizard = settled(draft_of(path))
        talk = Talk(io.StringIO("v\n"), io.StringIO())
        _prediction(talk, wizard)
        asked[name] = "Prediction type" in talk.stdout.getvalue()  # type: ignore[attr-defined]
        assert wizard.draft.value("model.prediction") == ("v" if name == "untold" else None)
    assert asked == {"untold": True, "marked": False}


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"unet": 1e-4, "te": 5e-5, "te2": 5e-5}, "5.0e-05 te"),
        ({"unet": 1e-4, "te": 5e-5, "te2": 2.1e-5}, "5e-05/2e-05 te"),
        ({"unet": 1e-4, "te2": 2e-5}, "2.0e-05 te2"),
    ],
)
def test_the_monitor_shows_the_rate_of_both_encoders(rates: dict[str, float], words: str) -> None:
    shown = [plain(line) for line in number_lines(Snapshot(lr=rates))]
    assert any("1.0e-04 unet" in line and line.rstrip().endswith(words) for line in shown)
    assert all(cells(line) <= 78 for line in shown)


def test_the_second_encoders_rate_is_shown_and_goes_along(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    wizard = settled(filled_draft(bases["untold"], pictures(tmp_path / "pictures")))
    rows = {row.key: row.note for row in review_rows(wizard, 120)}
    assert "U-Net" in rows["network/network"] and "encoder" not in rows["network/network"]
    assert higher_rate(Now(wizard)).reason.endswith("the subject.")

    for path, rate in {"optim.te_lr": 5e-5, "optim.te2_lr": 2e-5}.items():
        wizard.set(path, rate)
    wizard.set("optim.te_stop_percent", 50)
    assert wizard.settle()
    rows = {row.key: row.note for row in review_rows(wizard, 120)}
    assert "TE 5e-5/2e-5" in rows["training/optim"]
    assert "text encoders" in rows["network/network"]
    answers = higher_rate(Now(wizard)).answers
    assert (answers["optim.te_lr"], answers["optim.te2_lr"]) == (1e-4, 4e-5)

    wizard.set("optim.te_lr", 0.0)
    assert wizard.settle()
    rows = {row.key: row.note for row in review_rows(wizard, 120)}
    assert (
        "second text encoder" in rows["network/network"] or "second TE" in rows["network/network"]
    )
    half = -(-wizard.plan.steps // 2)
    assert run_numbers(wizard.plan)["te_stop_step"] == str(half)


def test_a_network_of_another_family_is_told_where_the_base_is_chosen(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {"lora_up.weight": (8, 2), "lora_down.weight": (2, 768)}
    path = tmp_path / "sd1.safetensors"
    save_file({f"{key}.{name}": torch.ones(shape) for name, shape in shapes.items()}, path)
    assert "of Stable Diffusion 1" in read_network_facts(path).words
    draft = draft_of(bases["untold"])
    draft.set("network.weights", path)
    (problem,) = settled(draft).page_problems("model")
    assert problem.path == "model.path" and "of Stable Diffusion 1" in problem.what


def test_a_vae_of_another_family_stands_beside_its_field(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    draft = draft_of(bases["untold"])
    draft.set("model.vae", write_tiny(tmp_path / "sd1.safetensors", "sd1"))
    (problem,) = settled(draft).page_problems("model")
    assert problem.path == "model.vae" and "of Stable Diffusion 1" in problem.what


def test_what_a_family_does_not_have_is_told_beside_its_field() -> None:
    wizard = settled(Draft())
    told = {}
    for family in ("sd1", "sdxl"):
        wizard.model = model_of(family, "epsilon", "a mark")
        told[family] = [why_idle(wizard, path) for path in ("optim.te2_lr", "model.clip_skip")]
    assert told["sd1"] == ["only SDXL has it", ""]
    assert told["sdxl"] == ["", "not on SDXL"]
