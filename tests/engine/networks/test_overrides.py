"""Settings for some of the layers, presets of one's own, and every mistake in words."""

import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from torch import nn

from engine.errors import RecipeError
from engine.models.architecture import full_size
from engine.models.shapes import layer_shapes
from engine.networks.choice import Choice
from engine.networks.override_checks import APPLIES, OPTIONS, mistakes
from engine.networks.overrides import Override, resolve
from engine.networks.preset_files import override_of, read_preset
from engine.networks.presets import PRESETS, preset_of, selected
from engine.networks.shapes import SHAPES
from engine.networks.targets import real_layers
from tests.engine.networks.layers import Transformer2DModel

LORA = Choice("lora", 32, 16.0)
SD1 = layer_shapes(full_size("sd1"))


def settled(choice: Choice) -> dict[str, Choice]:
    return {layer.path: own for layer, own in resolve(SD1, choice)}


def words(choice: Choice) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        resolve(SD1, choice)
    return [str(problem) for problem in caught.value.problems]


def with_overrides(*overrides: Override, **changes: object) -> Choice:
    return replace(LORA, overrides=overrides, **changes)  # type: ignore[arg-type]


# what an override does ------------------------------------------------------------------------


def test_an_override_changes_its_layers_and_no_other():
    choice = with_overrides(Override(r".*\.attn2\.to_[kv]", rank=8, alpha=4.0))
    found = settled(choice)
    changed = {path for path, own in found.items() if own is not choice}

    assert len(found) == len(selected(SD1, "attn-mlp"))
    assert len(changed) == 32
    assert all(path.endswith(("attn2.to_k", "attn2.to_v")) for path in changed)
    assert {(found[path].rank, found[path].alpha) for path in changed} == {(8, 4.0)}


def test_a_pattern_must_match_the_whole_path():
    [problem] = words(with_overrides(Override("to_k", rank=8)))
    assert "'to_k' matches no layer of attn-mlp" in problem
    assert len(settled(with_overrides(Override(r".*to_k", rank=8)))) == 264


def test_a_class_name_means_all_layers_below_it():
    found = settled(with_overrides(Override("Attention", rank=8), Override("CLIPMLP", rank=2)))

    assert sum(own.rank == 8 for own in found.values()) == 128
    assert {path for path, own in found.items() if own.rank == 2} == {
        f"encoder.layers.{index}.mlp.{part}" for index in range(12) for part in ("fc1", "fc2")
    }


def test_every_class_around_a_layer_can_be_named_in_model_and_plan():
    inner = nn.Sequential(type("FeedForward", (Transformer2DModel,), {})(nn.Linear(4, 4)))
    block = Transformer2DModel(inner)
    block.other = nn.Linear(4, 4)
    choice = with_overrides(Override("FeedForward", rank=2))
    real = {x.path: own.rank for x, own in resolve(real_layers({"unet": block}), choice)}

    assert real == {"layer.0.layer": 2, "other": 32}
    assert sum(own.rank == 2 for own in settled(choice).values()) == 32


def test_the_first_override_that_matches_wins():
    found = settled(
        with_overrides(
            Override(r"mid_block\..*to_q", rank=1),
            Override(r"mid_block\..*", rank=2),
            Override(r".*to_q", rank=3),
        )
    )
    middle = "mid_block.attentions.0.transformer_blocks.0.attn1"

    assert found[f"{middle}.to_q"].rank == 1
    assert found[f"{middle}.to_k"].rank == 2
    assert found["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"].rank == 3
    assert found["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"].rank == 32


def test_layers_can_be_left_out():
    found = settled(with_overrides(Override("Attention", exclude=True)))
    assert len(found) == 192 - 128 + 72
    assert not any(".attn" in path for path in found)


def test_a_whole_component_can_be_left_out():
    found = resolve(SD1, with_overrides(Override("CLIPTextModel", exclude=True)))
    assert {layer.component for layer, _ in found} == {"unet"}


@pytest.mark.parametrize("targets", ["full", "ia3", "attn-only", "unet-convblock-only"])
def test_overrides_apply_however_a_layer_was_targeted(targets):
    choice = with_overrides(Override(".*", rank=8), targets=targets)
    assert {own.rank for own in settled(choice).values()} == {8}
    named = with_overrides(Override("conv_in|time_embedding.*", rank=8), targets="unet-only")
    assert sum(own.rank == 8 for own in settled(named).values()) == 3


def test_another_algorithm_takes_its_own_options_and_forgets_foreign_ones():
    choice = with_overrides(
        Override(r".*\.ff\..*", algorithm="lokr", rank="full", options={"factor": 4}),
        Override("CLIPMLP", algorithm="full"),
        rs_lora=True,
        scalar=True,
    )
    found = settled(choice)
    lokr = found["mid_block.attentions.0.transformer_blocks.0.ff.net.2"]
    full = found["encoder.layers.0.mlp.fc1"]

    assert (lokr.algorithm, lokr.rank, lokr.factor, lokr.rs_lora) == ("lokr", "full", 4, True)
    assert (full.algorithm, full.rs_lora, full.scalar) == ("full", False, False)
    assert found["mid_block.attentions.0.proj_in"] is choice


def test_convolutions_can_be_left_out_and_brought_back():
    out = with_overrides(Override("ResnetBlock2D", conv_rank=0), targets="unet-only")
    assert len(settled(out)) == 282 - 44
    back = with_overrides(Override("conv_in", conv_rank=4), targets="unet-only", conv_rank=0)
    found = settled(back)
    assert found["conv_in"].rank_of((3, 3)) == 4
    assert "conv_out" not in found


SIZES = {
    # What an override gives, and what a linear layer and a convolution have then.
    "nothing": ({}, (32, 16.0), (16, 4.0)),
    "a rank keeps the scale, convolutions follow": ({"rank": 8}, (8, 4.0), (8, 2.0)),
    "an alpha": ({"alpha": 1.0}, (32, 1.0), (16, 1.0)),
    "both": ({"rank": 8, "alpha": 8.0}, (8, 8.0), (8, 8.0)),
    "convolutions alone": ({"conv_rank": 4}, (32, 16.0), (4, 1.0)),
    "their alpha alone": ({"conv_alpha": 2.0}, (32, 16.0), (16, 2.0)),
    "each its own": ({"rank": 8, "conv_rank": 2, "conv_alpha": 2.0}, (8, 4.0), (2, 2.0)),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_of_linear_layers_and_convolutions(case):
    given, linear, conv = SIZES[case]
    options = {} if given else {"rs_lora": True}
    override = Override("ResnetBlock2D", **given, options=options)
    choice = with_overrides(override, targets="unet-only", conv_rank=16, conv_alpha=4.0)
    own = settled(choice)["mid_block.resnets.0.conv1"]

    assert (own.rank_of(()), own.alpha_of(())) == linear
    assert (own.rank_of((3, 3)), own.alpha_of((3, 3))) == conv


def test_convolutions_without_sizes_of_their_own_follow_and_those_that_are_off_stay_off():
    override = Override("ResnetBlock2D", rank=8)
    own = settled(with_overrides(override, targets="unet-only"))["mid_block.resnets.0.conv1"]
    assert (own.rank_of((3, 3)), own.alpha_of((3, 3))) == (8, 4.0)

    off = settled(with_overrides(override, targets="unet-only", conv_rank=0))
    assert "mid_block.resnets.0.conv1" not in off
    assert off["mid_block.resnets.0.time_emb_proj"].rank == 8
    zero = replace(LORA, alpha=0.0, overrides=(Override(".*", rank=8),))
    assert {own.alpha_of(()) for own in settled(zero).values()} == {8.0}


def test_norms_keep_their_algorithm_and_can_be_left_out():
    choice = with_overrides(
        Override(r"mid_block\..*", exclude=True),
        Override("BasicTransformerBlock", algorithm="lokr", rank="full"),
        train_norm=True,
    )
    found = resolve(SD1, choice)
    norms = [(layer, own) for layer, own in found if layer.kind == "norm"]

    assert len(norms) == 64 - 4
    assert {own.algorithm for _, own in norms} == {"norm"}
    assert not any(layer.path.startswith("mid_block") for layer, _ in found)


def test_a_networks_overrides_come_before_the_presets_own():
    choice = Choice("ia3", "full", 1.0, "ia3")
    assert settled(choice)["encoder.layers.0.mlp.fc2"].train_on_input
    mine = replace(
        choice, overrides=(Override(r".*\.mlp\.fc2", options={"train_on_input": False}),)
    )
    assert not settled(mine)["encoder.layers.0.mlp.fc2"].train_on_input
    assert settled(mine)["mid_block.attentions.0.transformer_blocks.0.ff.net.2"].train_on_input


def test_none_of_it_needs_torch():
    code = (
        "import sys\n"
        "from engine.networks import overrides, preset_files\n"
        "from engine.models.architecture import full_size\n"
        "from engine.models.shapes import layer_shapes\n"
        "from engine.networks.choice import Choice\n"
        "overrides.resolve(layer_shapes(full_size('sdxl')), Choice('lora', 4, 1.0))\n"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'numpy') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# mistakes -------------------------------------------------------------------------------------


def test_an_override_that_matches_nothing_names_the_nearest():
    problems = words(
        with_overrides(
            Override(r".*\.attn3\.to_k", rank=8),
            Override("Attentoin", rank=8),
            Override("ResnetBlock2D", rank=8),
            Override(r"mid_block\.attentions\.0\.proj_inn", exclude=True),
        )
    )

    assert len(problems) == 4
    assert "The nearest is " in problems[0] and ".to_k. The pattern must" in problems[0]
    assert "The nearest class is Attention." in problems[1]
    assert "layers that are not trained, such as down_blocks.0.resnets.0" in problems[2]
    assert "The nearest is mid_block.attentions.0.proj_in." in problems[3]


def test_an_override_that_only_norms_match_changes_nothing():
    choice = with_overrides(Override(r".*\.norm1", rank=8), train_norm=True)
    assert "matches no layer" in words(choice)[0]


def test_leaving_out_everything_is_an_error():
    assert words(with_overrides(Override(".*", exclude=True))) == [
        "The overrides leave nothing to train."
    ]


BROKEN = {
    "no regular expression": Override("(", rank=8),
    "pattern is empty": Override("", rank=8),
    "changes nothing": Override(".*"),
    "nothing else can be set": Override(".*", exclude=True, rank=8),
    "no algorithm 'lorka'; did you mean lora?": Override(".*", algorithm="lorka"),
    "no option 'rs_lore'; did you mean rs_lora?": Override(".*", options={"rs_lore": True}),
    "factor does not apply to lora": Override(".*", options={"factor": 8}),
    "block_size does not apply to loha": Override(
        ".*", algorithm="loha", options={"block_size": 8}
    ),
    "rank does not apply to ia3": Override(".*", algorithm="ia3", rank=8),
    "rank must be at least 1 (you wrote 0)": Override(".*", rank=0),
    "alpha must be a number (you wrote '8')": Override(".*", alpha="8"),  # type: ignore[arg-type]
    "Alpha must be a number (you wrote nan)": Override(".*", alpha=float("nan")),
    "rank must be a whole number or 'full' (you wrote True)": Override(".*", rank=True),
    "tucker must be true or false (you wrote 1)": Override(".*", options={"tucker": 1}),
    "dora must be 'off' or 'input' or 'output'": Override(".*", options={"dora": "rows"}),
    "norm is for norm layers only": Override(".*", algorithm="norm"),
    "lora has no full rank": Override(".*", rank="full"),
    "block_size 4 does not divide rank 6": Override(".*", algorithm="dylora", rank=6),
}


@pytest.mark.parametrize("wanted", BROKEN)
def test_mistakes_are_told_in_words(wanted):
    [problem] = words(with_overrides(BROKEN[wanted]))
    assert wanted.lower() in problem.lower()


def test_all_mistakes_are_told_at_once_with_the_setting_they_belong_to():
    choice = with_overrides(
        Override("(", options={"rs_lore": True}),
        Override(".*", rank=-1, alpha=-1.0),
        targets="te-only",
    )
    layers = [layer for layer in SD1 if layer.component == "unet"]
    with pytest.raises(RecipeError) as caught:
        resolve(layers, choice)

    assert [problem.path for problem in caught.value.problems] == [
        "network.targets",
        *["network.overrides"] * 4,
    ]


def test_a_rank_is_asked_for_where_the_network_has_none():
    full = Choice("lokr", "full", 1.0, overrides=(Override("CLIPMLP", algorithm="lora"),))
    assert "lora has no full rank; give rank a number" in words(full)[0].lower()
    given = replace(full, overrides=(Override("CLIPMLP", algorithm="lora", rank=4),))
    assert settled(given)["encoder.layers.0.mlp.fc1"].rank == 4


def test_dora_is_the_same_in_all_layers_of_a_component():
    mixed = with_overrides(Override("Attention", options={"dora": "off"}), dora="output")
    [problem] = words(mixed)
    assert "DoRA must be the same in all layers of unet" in problem
    refused = with_overrides(Override("CLIPMLP", algorithm="full"), dora="input")
    assert "layers of te: input in encoder.layers.0.self_attn.k_proj, off in" in words(refused)[0]
    apart = with_overrides(Override("CLIPTextModel", options={"dora": "output"}), dora="input")
    assert {own.dora for own in settled(apart).values()} == {"input", "output"}


def test_the_table_of_options_knows_all_algorithms_and_all_options_of_a_choice():
    shared = {"algorithm", "targets", "train_norm", "overrides", "dropouts"}
    sizes = {"rank", "alpha", "conv_rank", "conv_alpha"}

    assert set(APPLIES) == set(SHAPES)
    assert {field.name for field in fields(Choice)} - shared - sizes == OPTIONS


def test_an_override_of_a_file_is_flat():
    entry = {"pattern": "Attention", "algorithm": "lokr", "rank": "full", "factor": 4}
    override, problems = override_of(entry)

    assert problems == []
    assert override == Override("Attention", algorithm="lokr", rank="full", options={"factor": 4})
    assert entry == {"pattern": "Attention", "algorithm": "lokr", "rank": "full", "factor": 4}
    nothing, problems = override_of({"pattern": 3, "exclude": "yes", "algorithm": 1, "rnak": 3})
    assert nothing is None
    assert len(problems) == 4
    assert mistakes(Override(".*", options={"factor": 4})) == []


# presets of one's own -------------------------------------------------------------------------

GOOD = r"""
convolutions = true

[unet]
classes = ["ResnetBlock2D"]
names = ['time_embedding\.linear_[12]', "conv_in"]

[text]
classes = ["CLIPMLP"]

[[overrides]]
pattern = '.*\.conv2'
conv_rank = 4

[[overrides]]
pattern = 'conv_in'
exclude = true
"""


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, "utf-8")
    return str(path)


def test_a_preset_of_ones_own_is_used_like_any_other(good):
    found = settled(replace(LORA, targets=good))

    assert len(found) == 22 * 3 + 14 + 2 + 24
    assert sum(own.conv_rank == 4 for own in found.values()) == 22
    assert "conv_in" not in found
    assert preset_of(good) == read_preset(Path(good))
    assert read_preset(Path(good)).spatial


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"ia3", "unet-up-blocks"}))
def test_each_preset_written_as_a_file_takes_the_same(name, tmp_path):
    """Without the classes that these models do not have."""
    preset = PRESETS[name]
    absent = {"CrossAttention", "SelfAttention", "CLIPSdpaAttention"}
    lines = [f"convolutions = {str(preset.spatial).lower()}"]
    for part, aim in (("unet", preset.unet), ("text", preset.text)):
        lines += [f"[{part}]", f"classes = {sorted(aim.classes - absent)}"]
        lines.append("names = [" + ", ".join(f"'{one}'" for one in aim.names) + "]")
    path = tmp_path / "copy.toml"
    path.write_text("\n".join(lines), "utf-8")

    assert selected(SD1, str(path)) == selected(SD1, name)


def test_everything_wrong_in_a_preset_is_told_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        """
convolutions = "yes"
convs = true
[unet]
classes = ["Transformer2DModel", 3]
names = ["(", ".*"]
nmaes = []
[text]
classes = "CLIPMLP"
[[overrides]]
rank = 8
[[overrides]]
pattern = "["
rank = 0
""",
        "utf-8",
    )
    with pytest.raises(RecipeError) as caught:
        read_preset(path)
    problems = caught.value.problems
    told = [str(problem).removeprefix(str(path)) for problem in problems]

    assert {problem.path for problem in problems} == {"network.targets_file"}
    assert all(str(problem).startswith(str(path)) for problem in problems)
    for part in (
        ": There is no setting 'convs'.",
        ": convolutions must be true or false (you wrote 'yes').",
        ", unet: There is no setting 'nmaes'. Did you mean names?",
        ", unet.classes: 3 is no text.",
        ", unet.names: '(' is no regular expression: ",
        ", text.classes: It must be a list of texts (you wrote 'CLIPMLP').",
        ", override: Every override needs a pattern, a text.",
        ", override '[': Its pattern is no regular expression: ",
        ", override '[': Rank must be at least 1 (you wrote 0).",
    ):
        assert [line for line in told if line.startswith(part)], part
    assert len(told) == 9


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "There is no such file of layers."),
        (b"[unet", "This is not TOML"),
        (b"\xff\xfe", "This is not UTF-8 text."),
        (b"convolutions = true", "It takes no layers. Give classes or names"),
        (b"unet = 3", "It must be a table: [unet]."),
        (b"overrides = 3\n[unet]\nnames=['.*']", "It must be a list of tables: [[overrides]]."),
        (b"#" * (1024 * 1024 + 1), "This is too large"),
    ],
)
def test_files_that_are_no_presets(tmp_path, content, wanted):
    path = tmp_path / "some.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        selected(SD1, str(path))
    assert wanted in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_preset(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_preset(tmp_path)


def test_classes_and_names_that_find_nothing_are_named(tmp_path):
    path = tmp_path / "idle.toml"
    path.write_text(
        '[unet]\nclasses = ["Transformer2DModel", "ResnetBlok2D"]\nnames = ["conv_inn"]\n'
        '[text]\nclasses = ["CLIPSdpaAttention", "CLIPMLP"]\n',
        "utf-8",
    )
    told = words(replace(LORA, targets=str(path)))

    assert len(told) == 3
    assert (
        "class ResnetBlok2D finds no layer in the U-Net. The nearest class is ResnetBlock2D"
        in (told[0])
    )
    assert "name conv_inn finds no layer in the U-Net. The nearest is conv_in." in told[1]
    assert "class CLIPSdpaAttention finds no layer in the text encoder" in told[2]


def test_a_presets_overrides_may_speak_of_a_part_that_is_not_trained(tmp_path):
    path = tmp_path / "both.toml"
    path.write_text(
        '[unet]\nclasses = ["Attention"]\n[text]\nclasses = ["CLIPMLP"]\n'
        '[[overrides]]\npattern = "CLIPMLP"\nrank = 4\n',
        "utf-8",
    )
    choice = replace(LORA, targets=str(path))
    unet = [layer for layer in SD1 if layer.component == "unet"]

    assert len(resolve(unet, choice)) == 128
    path.write_text(path.read_text("utf-8").replace('pattern = "CLIPMLP"', 'pattern = "CLIPMLQ"'))
    [problem] = words(choice)
    assert problem.startswith(f"{path}: The override 'CLIPMLQ' matches no layer")
    assert "The nearest class is CLIPMLP." in problem


@dataclass(frozen=True)
class Plan:
    component: str
    path: str
    kind: str
    out: int = 4
    in_: int = 4
    kernel: tuple[int, ...] = ()
    classes: tuple[str, ...] = ("Transformer2DModel",)
    bias: bool = True


def test_nothing_is_kept_between_calls():
    layers = [Plan("unet", "a", "linear"), Plan("unet", "b", "linear")]
    options = {"rs_lora": True}
    choice = with_overrides(Override("a", options=options))
    first = resolve(layers, choice)
    options["rs_lora"] = False
    plain = resolve(layers, LORA)

    assert resolve(layers, choice) == first
    assert [own.rs_lora for _, own in first] == [True, False]
    assert all(own is LORA for _, own in plain)
    assert not LORA.rs_lora
