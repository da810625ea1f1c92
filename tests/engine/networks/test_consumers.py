"""Every cell of what programs read, and what becomes of networks of several kinds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from engine.networks.choice import Choice
from engine.networks.consumers import (
    FORGE_LIMIT,
    MATRIX,
    TITLES,
    Attention,
    Part,
    attention_of,
    parts_of,
    readers,
    rows_of,
)
from engine.networks.shapes import SHAPES, shapes_of
from tests.engine.networks.test_shapes import Plan

CONSUMERS = ("comfyui", "a1111", "forge", "diffusers", "lycoris", "kohya")
TABLE = """
lora              | yes    yes    yes    yes    yes yes
lora tucker       | yes    yes    yes    no     yes no
loha              | yes    yes    yes    no     yes no
loha tucker       | yes    yes    yes    no     yes no
lokr              | yes    yes    yes    no     yes no
lokr both         | yes    yes    yes    no     no  no
lokr unbalanced   | yes    yes    yes    no     no  no
lokr tucker       | no     yes    no     no     no  no
glora             | yes    no     yes    no     yes no
glora old         | yes    partly yes    no     no  no
diag-oft          | partly yes    no     no     yes no
diag-oft rescaled | partly yes    no     no     yes no
boft              | partly yes    no     no     yes no
ia3               | no     yes    no     no     no  no
ia3 conv-output   | no     no     no     no     no  no
full              | yes    yes    yes    no     yes no
norm              | yes    yes    yes    no     yes no
dora input        | yes    yes    yes    no     no  no
dora output       | partly no     partly partly yes no
t-lora            | no     no     no     no     yes no
"""
CELLS = {
    row.strip(): dict(zip(CONSUMERS, levels.split(), strict=True))
    for row, levels in (line.split("|") for line in TABLE.strip().splitlines())
}
PARTS = {
    "lora": Part("lora"),
    "lora tucker": Part("locon", frozenset({"tucker"})),
    "loha": Part("loha"),
    "loha tucker": Part("loha", frozenset({"tucker"})),
    "lokr": Part("lokr"),
    "lokr both": Part("lokr", frozenset({"both"})),
    "lokr unbalanced": Part("lokr", frozenset({"unbalanced"})),
    "lokr tucker": Part("lokr", frozenset({"tucker"})),
    "glora": Part("glora"),
    "glora old": Part("glora", frozenset({"old"})),
    "diag-oft": Part("diag-oft"),
    "diag-oft rescaled": Part("diag-oft", frozenset({"rescaled"})),
    "boft": Part("boft"),
    "ia3": Part("ia3"),
    "ia3 conv-output": Part("ia3", frozenset({"conv-output"})),
    "full": Part("full"),
    "norm": Part("norm"),
    "dora input": Part("lora", dora="input"),
    "dora output": Part("lora", dora="output"),
    "t-lora": Part("t-lora"),
}


def levels(*parts, attention=None):
    return {name: verdict.level for name, verdict in readers(parts, attention).items()}


def test_the_matrix_has_these_rows_and_columns():
    assert tuple(TITLES) == CONSUMERS
    assert set(MATRIX) == set(CELLS) == set(PARTS)


@pytest.mark.parametrize("row", CELLS)
def test_every_cell(row):
    found = readers([PARTS[row]])

    assert {name: verdict.level for name, verdict in found.items()} == CELLS[row]
    for name, (level, reason) in found.items():
        assert level == "yes" or reason, (row, name)


def test_every_algorithm_has_a_row():
    assert all(row in MATRIX for name in SHAPES for row in rows_of(Part(name)))
    assert rows_of(Part("dylora")) == rows_of(Part("locon")) == ["lora"]
    assert rows_of(Part("boft", frozenset({"rescaled"}))) == ["boft"]


def test_some_reasons_are_told():
    assert "strength 1" in readers([Part("boft")])["comfyui"].reason
    assert "rescaling" in readers([PARTS["diag-oft rescaled"]])["comfyui"].reason
    assert "alpha" in readers([PARTS["glora old"]])["a1111"].reason
    assert "noise" in readers([PARTS["dora output"]])["a1111"].reason
    assert "convert" in readers([PARTS["dora output"]])["diffusers"].reason
    assert "base model" in readers([Part("t-lora")])["lycoris"].reason
    assert str(FORGE_LIMIT) in readers([Part("ia3")])["forge"].reason
    assert readers([Part("lora")])["diffusers"] == ("yes", "")


def test_forms_that_come_together_are_as_bad_as_the_worst():
    both = Part("lokr", frozenset({"both", "tucker", "unbalanced"}))
    assert levels(both)["comfyui"] == "no"
    assert levels(both)["a1111"] == "yes"
    assert levels(Part("loha", dora="output"))["diffusers"] == "no"
    assert levels(Part("loha", dora="input"))["comfyui"] == "yes"
    assert levels(Part("lokr", dora="output"))["comfyui"] == "partly"


def test_plain_modules_beside_those_that_a_program_skips_are_read():
    tucker = [Part("lokr", tensors=500), Part("lokr", frozenset({"tucker"}), tensors=90)]
    assert levels(*tucker) == {
        "comfyui": "partly",
        "a1111": "yes",
        "forge": "partly",
        "diffusers": "no",
        "lycoris": "no",
        "kohya": "no",
    }
    mixed = readers([Part("lora"), Part("ia3")])
    assert mixed["comfyui"] == ("partly", "does not apply the modules of ia3")
    assert levels(Part("ia3"), PARTS["ia3 conv-output"])["a1111"] == "partly"


def test_what_refuses_a_file_refuses_all_of_it():
    with_norms = levels(Part("lora"), Part("norm"))
    assert with_norms["diffusers"] == "no"
    assert with_norms["comfyui"] == with_norms["a1111"] == with_norms["forge"] == "yes"
    assert with_norms["kohya"] == "partly"
    assert levels(Part("lora"), Part("t-lora"))["a1111"] == "no"
    assert levels(Part("lora"), Part("ia3"))["lycoris"] == "no"
    assert levels(Part("lora"), PARTS["dora output"])["a1111"] == "no"


@pytest.mark.parametrize(("tensors", "level"), [(12, "partly"), (13, "no")])
def test_forge_counts_tensors_that_it_does_not_know(tensors, level):
    assert levels(Part("lora"), Part("ia3", tensors=tensors))["forge"] == level
    split = [Part("ia3", tensors=tensors - 4), Part("boft", tensors=4)]
    assert levels(Part("lora"), *split)["forge"] == level
    assert levels(Part("ia3", tensors=2))["forge"] == "no"


def planned(choice, **sizes):
    plan = Plan("unet", "x", **{"out": 36, "in_": 24} | sizes)
    return {"lora_unet_x": shapes_of(plan, choice)}


@pytest.mark.parametrize(
    ("choice", "kernel", "forms"),
    [
        (Choice("lora", 4, 1.0), (), set()),
        (Choice("dylora", 4, 1.0), (), set()),
        (Choice("locon", 4, 1.0, tucker=True), (), set()),
        (Choice("locon", 4, 1.0, tucker=True), (3, 3), {"tucker"}),
        (Choice("loha", 4, 1.0, tucker=True), (3, 3), {"tucker"}),
        (Choice("lokr", "full", 1.0), (), set()),
        (Choice("lokr", 1, 1.0, decompose_both=True), (), {"both"}),
        (Choice("lokr", "full", 1.0, factor=3, unbalanced=True), (), {"unbalanced"}),
        (Choice("lokr", 1, 1.0, factor=3, unbalanced=True), (), {"unbalanced"}),
        (Choice("lokr", 2, 1.0, factor=2, tucker=True), (3, 3), {"tucker"}),
        (
            Choice("lokr", 2, 1.0, factor=2, tucker=True, unbalanced=True),
            (3, 3),
            {"tucker", "unbalanced"},
        ),
        (Choice("glora", 4, 1.0), (3, 3), set()),
        (Choice("diag-oft", 4, 1.0, rescaled=True), (), {"rescaled"}),
        (Choice("boft", 18, 1.0), (), set()),
        (Choice("ia3", "full", 1.0), (), set()),
        (Choice("ia3", "full", 1.0), (1, 1), {"conv-output"}),
        (Choice("full", "full", 1.0), (3, 3), set()),
        (Choice("t-lora", 4, 1.0), (), set()),
        (Choice("norm", "full", 1.0), (), set()),
    ],
)
def test_forms_are_told_by_shapes(choice, kernel, forms):
    modules = planned(choice, kernel=kernel)
    (part,) = parts_of(modules)
    same = {"locon": "lora", "dylora": "lora"}

    assert part.algorithm == same.get(choice.algorithm, choice.algorithm)
    assert part.forms == forms
    assert part.tensors == len(modules["lora_unet_x"])


def test_the_axis_of_a_dora_is_told_by_its_shape():
    for axis in ("off", "input", "output"):
        for kernel in ((), (3, 3)):
            choice = Choice("lora", 4, 1.0, dora=axis)
            assert parts_of(planned(choice, kernel=kernel, in_=36))[0].dora == axis
    listed = {"x": planned(Choice("lora", 4, 1.0))["lora_unet_x"] | {"dora_scale": (36,)}}
    assert parts_of(listed)[0].dora == "output"


def test_what_shapes_do_not_tell_is_asked_for():
    conv = planned(Choice("ia3", "full", 1.0), kernel=(3, 3))
    assert parts_of(conv, on_input={"lora_unet_x"})[0].forms == frozenset()
    glora = planned(Choice("glora", 4, 1.0))
    assert parts_of(glora, old={"lora_unet_x"})[0].forms == {"old"}
    assert parts_of({"x": {"what": (1,)}}) == ()


def test_modules_of_one_kind_are_one_part():
    lora = planned(Choice("lora", 4, 1.0))["lora_unet_x"]
    norm = planned(Choice("norm", "full", 1.0))["lora_unet_x"]
    found = parts_of({"a": lora, "b": norm, "c": lora})
    assert found == (Part("lora", tensors=4), Part("norm", tensors=2))


def text_encoder(prefix, parts, layers=2, choice=None):
    shapes = shapes_of(Plan("te", "x", 8, 8), choice or Choice("lora", 4, 1.0))
    return {
        f"{prefix}_text_model_encoder_layers_{layer}_self_attn_{part}_proj": shapes
        for layer in range(layers)
        for part in parts
    } | {f"{prefix}_text_model_encoder_layers_0_mlp_fc2": shapes}


@pytest.mark.parametrize(
    ("family", "prefix", "parts", "gaps"),
    [
        ("sd2", "lora_te", ("q", "k", "v", "out"), 0),
        ("sd2", "lora_te", ("k", "v"), 2),
        ("sdxl", "lora_te2", ("k", "v"), 2),
        ("sdxl", "lora_te2", ("q", "k", "v"), 2),
        ("sdxl", "lora_te1", ("k", "v"), 0),
        ("sd1", "lora_te", ("k", "v"), 0),
        (None, "lora_te", ("k", "v"), 0),
    ],
)
def test_a1111_drops_attention_that_is_not_whole(family, prefix, parts, gaps):
    modules = text_encoder(prefix, parts)
    attention = attention_of(modules, family)
    assert attention == Attention(gaps)

    found = readers(parts_of(modules), attention)
    assert found["a1111"].level == ("partly" if gaps else "yes")
    assert (str(gaps) in found["a1111"].reason) == bool(gaps)
    assert found["comfyui"] == ("yes", "")


def test_a1111_ignores_biases_of_fused_attention():
    modules = text_encoder("lora_te2", ("q", "k", "v", "out"), choice=Choice("full", "full", 1.0))
    attention = attention_of(modules, "sdxl")
    assert attention == Attention(0, 6)
    assert "6 biases" in readers(parts_of(modules), attention)["a1111"].reason
    assert readers([Part("t-lora")], attention)["a1111"].level == "no"


def test_reasons_of_a_half_read_network_add_up():
    found = readers([PARTS["glora old"]], Attention(3))["a1111"]
    assert "alpha" in found.reason
    assert "3 text encoder layers" in found.reason


def test_it_needs_no_torch():
    code = "import sys, engine.networks.consumers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_parts_are_plain_values():
    assert replace(Part("lora"), dora="input") == PARTS["dora input"]
