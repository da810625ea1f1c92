"""The table of algorithms, the advice of the guides, the conflicts: numbers and words without a screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.models.architecture import full_size
from engine.models.shapes import layer_shapes
from engine.networks.choice import Choice
from engine.networks.shapes import planned_tensors
from engine.settings.walk import algorithms
from lyctui import text
from lyctui.advice import MOST_CHANGES, TOPICS, changes, consequence, outcome_of
from lyctui.algorithms import (
    ABOUT,
    SPEED,
    SPEED_CONV,
    TITLES,
    algorithm_answers,
    answer,
    speed_of,
    stars,
    stars_of,
    with_answers,
)
from lyctui.conflicts import conflicts, narrowings
from lyctui.draft import Draft
from lyctui.network_numbers import Impossible, Numbers, outcome, outcomes
from lyctui.network_words import chosen_lines, columns_for
from lyctui.readers import limits, loads_in
from lyctui.report import plain
from lyctui.screens.summary import review_rows
from lyctui.wizard import Wizard
from tests.lyctui.wizard_parts import settled


def wizard_of(**answers: Any) -> Wizard:
    """A settled wizard whose draft has these answers; `network__rank` is network.rank."""
    draft = Draft()
    for path, value in answers.items():
        draft.set(path.replace("__", "."), value)
    return settled(draft)


def numbers_of(**answers: Any) -> Numbers:
    wizard = wizard_of(**answers)
    found = outcome(wizard, wizard.draft)
    assert isinstance(found, Numbers), found
    return found


def told(**answers: Any) -> str:
    """Every conflict of these answers."""
    wizard = wizard_of(**answers)
    now = outcome(wizard, wizard.draft)
    return "\n".join(one.words for one in conflicts(wizard, now, narrowings(wizard, now)))


# the table ----------------------------------------------------------------------------------


def test_every_algorithm_is_in_the_table_with_words_that_fit() -> None:
    assert tuple(ABOUT) == algorithms() == tuple(TITLES)
    for name, about in ABOUT.items():
        assert text.cells(about.good) <= 21, name
        assert text.cells(about.words) <= 300, f"{name}: four rows of 76 cells hold it"


def test_the_stars_are_those_of_guide_003_and_nothing_where_nobody_compares() -> None:
    assert stars_of("full") == (4, 4)
    assert stars_of("lora") == stars_of("locon") == (2, 2)
    assert stars_of("loha") == (1, 3)
    assert stars_of("lokr", 4) == stars_of("lokr", 8) == (3, 1)
    assert stars_of("lokr", -1) == stars_of("lokr", 16) == (1, 2)
    for name in ("ia3", "dylora", "glora", "diag-oft", "boft", "t-lora"):
        assert stars_of(name) == (0, 0)
    assert (stars(3), stars(0)) == ("★★★", "–")
    assert (stars(3, ascii_only=True), stars(0, ascii_only=True)) == ("***", "-")


def test_every_choice_has_a_speed_and_lora_is_one() -> None:
    assert SPEED["lora"] == 1.0
    assert SPEED.keys() == SPEED_CONV.keys()
    for name in algorithms():
        for factor in (-1, 4, 8, 16):
            choice = Choice(name, 16, 8.0, factor=factor)
            assert speed_of(choice, convolutions=True) > 0 < speed_of(choice, convolutions=False)
    with_dora = speed_of(Choice("loha", 16, 8.0, dora="input"), convolutions=False)
    assert with_dora == pytest.approx(SPEED["loha-16"] * SPEED["dora"])
    assert speed_of(Choice("loha", 4, 2.0), convolutions=False) == SPEED["loha-4"]


def test_the_benchmark_measures_every_speed_by_the_same_name() -> None:
    """The table's keys are names of cases, so that its figures can be copied over."""
    source = Path("benchmarks/cases.py").read_text("utf-8")
    assert all(f'"{key}": ' in source for key in SPEED)


def test_sizes_and_modules_of_every_algorithm_are_those_of_the_planned_tensors() -> None:
    wizard = wizard_of()
    found = outcomes(wizard)
    assert tuple(found) == algorithms()
    lora = found["lora"]
    assert isinstance(lora, Numbers)
    assert lora.modules == (("U-Net", 192), ("text encoder", 72))
    # Guide 003's 37 MB: rank 32, two bytes a number, and the header.
    planned = planned_tensors(layer_shapes(full_size("sd1")), Choice("lora", 32, 16.0))
    weights = sum(_count(shape) for name, shape in planned.items() if not name.endswith("alpha"))
    assert lora.parameters == weights
    assert 0 < lora.file_bytes - 2 * weights < 200_000
    assert not lora.exact, "no base is chosen yet"
    locon, full = found["locon"], found["full"]
    assert isinstance(locon, Numbers) and isinstance(full, Numbers)
    assert locon.modules[0] == ("U-Net", 282)
    assert full.memory_bytes > lora.memory_bytes + 4 * 10**9, "weights, gradients and moments"


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


@pytest.mark.parametrize(
    ("answers", "letters"),
    [
        ({}, "CAFDL"),
        ({"network__algorithm": "loha"}, "CAF-L"),
        ({"network__algorithm": "ia3"}, "-A---"),
        ({"network__algorithm": "glora"}, "C-F-L"),
        ({"network__algorithm": "diag-oft"}, "cA--L"),
        ({"network__algorithm": "t-lora"}, "----L"),
        ({"network__dora": "input"}, "CAF--"),
        ({"network__dora": "output"}, "c-fdL"),
        ({"network__train_norm": True}, "CAF-L"),
        ({"network__targets": "full", "network__tucker": True}, "CAF-L"),
        ({"network__algorithm": "lokr", "network__unbalanced": True}, "CAF--"),
        ({"network__algorithm": "ia3", "network__targets": "full"}, "-a---"),
    ],
)
def test_the_letters_follow_the_options_of_this_run(answers: dict[str, Any], letters: str) -> None:
    assert numbers_of(**answers).letters == letters


def test_programs_in_words() -> None:
    found = numbers_of(network__dora="output").readings
    assert loads_in(found) == "LyCORIS; in part ComfyUI, Forge and diffusers; not A1111"
    said = " ".join(limits(found))
    assert "ComfyUI and Forge: " in said and "the pictures are noise" in said


@pytest.mark.parametrize("room", [42, 62, 102])
def test_rows_fit_their_room(room: int) -> None:
    found = outcomes(wizard_of(network__algorithm="boft", network__rank=8))
    assert isinstance(found["boft"], Impossible)
    columns = columns_for(room)
    assert text.cells(columns.heads()) <= room
    for name in algorithms():
        for one in (found[name], None):
            assert text.cells(columns.row(name, one)) <= room, name
    assert columns.row("boft", found["boft"]).startswith("not now: BOFT cannot cut 320 outputs")
    if room == 102:
        assert "18 874 368" in columns.row("lora", found["lora"])


# choosing -----------------------------------------------------------------------------------


def test_a_rank_is_taken_along_only_where_it_means_the_same() -> None:
    draft = Draft()
    answer(draft, {"network.rank": 64, "network.alpha": 32.0})
    assert "network.rank" not in algorithm_answers(draft, "dylora")
    assert algorithm_answers(draft, "lokr")["network.rank"] is None
    answer(draft, {"network.algorithm": "lokr", "network.rank": "full"})
    lora = with_answers(draft, algorithm_answers(draft, "lora"))
    assert lora.check().recipe is not None, "a full rank would be refused"
    assert draft.value("network.rank") == "full", "the draft itself is untouched"


def test_the_high_rate_of_ia3_does_not_stay_for_another_network() -> None:
    wizard = wizard_of()
    change = next(one for one in changes(wizard, "well") if "(IA)³" in one.title)
    answer(wizard.draft, change.answers)
    assert wizard.draft.value("optim.lr") == 5e-3
    answer(wizard.draft, algorithm_answers(wizard.draft, "lora"))
    assert "optim.lr" not in wizard.draft.answers and "optim.te_lr" not in wizard.draft.answers


def test_locon_brings_its_convolutions_and_takes_them_away() -> None:
    draft = Draft()
    answer(draft, algorithm_answers(draft, "locon"))
    assert draft.value("network.targets") == "full"
    answer(draft, algorithm_answers(draft, "lora"))
    assert draft.value("network.targets") is None


# advice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", algorithms())
def test_every_change_can_be_made_and_changes_something(algorithm: str) -> None:
    wizard = wizard_of(network__algorithm=algorithm)
    for topic in TOPICS:
        check_topic(wizard, topic, algorithm)


def check_topic(wizard: Wizard, topic: str, algorithm: str) -> None:
    offered = changes(wizard, topic)
    least = 0 if topic == "small" and algorithm == "ia3" else 1
    assert least <= len(offered) <= MOST_CHANGES
    assert len({one.title for one in offered}) == len(offered)
    before = outcome(wizard, wizard.draft)
    for change in offered:
        assert "uide" in change.reason, "each names who says so"
        after = with_answers(wizard.draft, change.answers)
        assert after.answers != wizard.draft.answers, change.title
        came = outcome_of(wizard, change)
        assert isinstance(came, Numbers), (change.title, came)
        if topic == "small":
            assert isinstance(before, Numbers) and came.file_bytes < before.file_bytes


def test_too_little_is_guide_003s_lokr_then_more_rank_and_longer_training() -> None:
    offered = changes(wizard_of(train__epochs=10, data__repeats=5), "little")
    titles = [one.title for one in offered]
    assert titles[:2] == ["LoKr, factor 8, full rank", "Rank 64 instead of 32"]
    epochs = next(one for one in offered if "epochs" in one.title)
    assert epochs.answers == {"train.epochs": 20} and epochs.effect == "2.0 times the steps"
    assert offered[0].answers["network.rank"] == "full"


def test_too_little_with_lokr_goes_on_to_a_smaller_factor() -> None:
    offered = changes(wizard_of(network__algorithm="lokr"), "little")
    assert offered[0].answers["network.factor"] == 4


def test_too_well_is_guide_003s_list() -> None:
    titles = [one.title for one in changes(wizard_of(), "well")]
    assert titles == [
        "LoHa, rank 16",
        "Rank 16 instead of 32",
        "LoKr, factor -1, full rank",
        "(IA)³ with a rate of 5e-3",
    ]


def test_a_set_alpha_keeps_its_ratio_and_a_preset_one_too() -> None:
    draft = Draft()
    draft.choose_preset("x", {"network": {"rank": 32, "alpha": 8}})
    offered = changes(settled(draft), "well")
    lower = next(one for one in offered if one.title.startswith("Rank 16"))
    assert lower.answers == {"network.rank": 16, "network.alpha": 4.0}


def test_a_consequence_tells_before_and_after() -> None:
    wizard = wizard_of()
    before = outcome(wizard, wizard.draft)
    change = changes(wizard, "well")[2]
    after = outcome_of(wizard, change)
    assert isinstance(before, Numbers) and isinstance(after, Numbers)
    short = consequence(change, before, after, short=True)
    assert short.startswith("37.9 → 1.2 MB · ") and short.endswith(
        f"speed 1.00 → {SPEED['lokr-even']:.2f} · CAFDL → CAF-L"
    )
    long = consequence(change, before, after)
    assert long.startswith("file 37.9 to 1.2 MB · memory ")
    assert long.endswith("loads in ComfyUI, A1111, Forge and LyCORIS; not diffusers")
    unready = Impossible(conflicts_problem())
    assert consequence(change, before, unready).startswith("Not possible now: ")


def conflicts_problem() -> Any:
    wizard = wizard_of(network__algorithm="dylora", network__block_size=5)
    found = outcome(wizard, wizard.draft)
    assert isinstance(found, Impossible)
    return found.problem


# consequences and conflicts -----------------------------------------------------------------


def words_of(**answers: Any) -> str:
    wizard = wizard_of(**answers)
    return "\n".join(map(plain, chosen_lines(wizard, outcome(wizard, wizard.draft))))


def test_scale_and_effective_rate_are_told() -> None:
    assert "16 / 32 = 0.50: a rate of 1.0e-04 acts like 5.0e-05" in words_of()
    assert "√rank = 16 / 32 = 2.8" in words_of(network__rs_lora=True)
    assert "No alpha: the rate of 1.0e-04 acts as it is." in words_of(network__algorithm="boft")
    assert "Both factors are full" in words_of(network__algorithm="lokr")


def test_what_is_not_trained_is_counted_with_its_reason() -> None:
    assert "Not trained: 72 modules of the text encoder, whose rate is 0." in words_of(
        optim__te_lr=0.0
    )
    off = words_of(network__targets="full", network__conv_rank=0)
    assert "Not trained: 52 modules that are convolutions of rank 0." in off
    override = [{"pattern": r"down_blocks.*", "exclude": True}]
    assert "Not trained: 72 modules left out by an override." in words_of(
        network__overrides=override
    )


def test_blocks_of_rotations_are_told() -> None:
    assert "Blocks of 10 to 32 outputs." in words_of(network__algorithm="diag-oft")


def test_lokr_tells_how_many_modules_its_rank_no_longer_limits() -> None:
    found = numbers_of(network__algorithm="lokr", network__rank=200)
    assert 0 < found.unlimited < found.module_count
    said = told(network__algorithm="lokr", network__rank=200)
    assert f"the rank no longer limits {found.unlimited} modules of 264" in said
    assert numbers_of(network__algorithm="lokr", network__rank=4).unlimited == 0
    assert "no longer" not in told(network__algorithm="lokr")


@pytest.mark.parametrize(
    ("answers", "what", "remedy"),
    [
        (
            {"network__algorithm": "glora", "network__dora": "input"},
            "GLoRA does not know it",
            "LoHa",
        ),
        ({"network__tucker": True}, "attn-mlp has none", "network.targets to full"),
        ({"network__algorithm": "lokr", "network__rs_lora": True}, "both factors", "a number"),
        (
            {"network__algorithm": "dylora", "network__block_size": 5},
            "128 is no multiple of 5",
            "125 or 130",
        ),
        (
            {"network__algorithm": "boft", "network__rank": 8},
            "cannot cut 320 outputs into blocks of at most 8 (192 layers)",
            "10 or more",
        ),
        (
            {"network__algorithm": "loha", "optim__loraplus_ratio": 16.0},
            "loha has none",
            "Leave it blank",
        ),
        ({"network__dora": "output"}, "A1111 spreads the magnitudes", "DoRA input suits"),
        (
            {"network__train_norm": True},
            "diffusers refuses the whole file",
            "norms no suits diffusers",
        ),
        (
            {"network__algorithm": "diag-oft", "network__rescaled": True},
            "ComfyUI ignores the trained rescaling",
            "Rescaled no suits ComfyUI",
        ),
        (
            {"network__algorithm": "lokr", "network__unbalanced": True},
            "LyCORIS stops with an error",
            "no suits LyCORIS",
        ),
        ({"network__rank": 128}, "Rank 128 makes 151.1 MB", "guide 002"),
        ({"network__algorithm": "ia3"}, "hardly learns at a rate of 1.0e-04", "5e-3"),
    ],
)
def test_conflicts_say_what_and_what_to_do(answers: dict[str, Any], what: str, remedy: str) -> None:
    said = told(**answers)
    assert what in said and remedy in said


def test_a_plain_network_has_no_conflicts() -> None:
    assert told() == ""
    assert told(network__algorithm="lokr") == ""


def test_a_convolution_rank_that_boft_cannot_cut_is_named_as_such() -> None:
    said = told(network__algorithm="boft", network__targets="full", network__conv_rank=8)
    assert "320 outputs into blocks of at most 8" in said
    assert "Set the convolution rank to" in said


def test_a_mistake_on_another_page_makes_no_network_impossible() -> None:
    assert outcomes(wizard_of(train__epochs=0)) == {}


def test_no_torch_is_needed() -> None:
    code = (
        "import sys\n"
        "import lyctui.advice, lyctui.conflicts, lyctui.network_lines, lyctui.screens.network\n"
        "from lyctui.draft import Draft\n"
        "from lyctui.wizard import Wizard\n"
        "from engine.hardware import Hardware\n"
        "wizard = Wizard(Draft(), hardware=Hardware((), 2, 2**34, 2**34))\n"
        "wizard.begin(); wizard.settle()\n"
        "assert len(lyctui.network_numbers.outcomes(wizard)) == 11\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, "LoRA 32/16, attn-mlp, U-Net + text encoder"),
        ({"network__algorithm": "lokr"}, "LoKr full, factor 8, attn-mlp, U-Net + TE"),
        ({"network__algorithm": "boft", "optim__te_lr": 0.0}, "BOFT 32, attn-mlp, U-Net"),
        ({"network__dora": "input"}, "LoRA 32/16, DoRA input, attn-mlp, U-Net + TE"),
        ({"network__algorithm": "ia3"}, "(IA)³, ia3, U-Net + text encoder"),
    ],
)
def test_the_review_line_names_the_network_whole(answers: dict[str, Any], words: str) -> None:
    row = next(row for row in review_rows(wizard_of(**answers), 80) if row.title == "Network")
    assert row.note.startswith(words + "  ")
