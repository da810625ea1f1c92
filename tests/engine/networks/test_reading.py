"""Files of every layout hold the same network; what is of none is named, what is doubtful refused."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from engine.errors import NetworkFileError
from engine.networks.choice import Choice
from engine.networks.content import read_content
from engine.networks.files import read_network, write_network
from engine.networks.layouts import sort_out
from engine.networks.names import file_names, name_of
from engine.networks.network import Network, build, from_file
from engine.networks.reading import grouped
from engine.networks.targets import real_layers
from engine.planning.start import start_values
from engine.unet_names import original_unet_names
from tests.engine.networks.layers import make_model, stir
from tests.tiny import tiny_modules

CONFIGS = Path(__file__).parents[3] / "engine" / "models" / "configs"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    modules = tiny_modules()
    return {"unet": modules.unet.requires_grad_(False), "te": modules.text_encoder}


@pytest.fixture(scope="module")
def network(tiny: dict[str, Any]) -> Network:
    """Alpha equals the rank: the scale that a file of diffusers has without metadata."""
    return stir(build(tiny, Choice("locon", 4, 4.0, "full", conv_rank=2, conv_alpha=2.0), seed=0))


@cache
def full_unet(family: str) -> Any:
    """The U-Net of a family at full size, without numbers."""
    from diffusers import UNet2DConditionModel

    config = json.loads((CONFIGS / family / "unet" / "config.json").read_text())
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


# Layouts ----------------------------------------------------------------------------------------


def kohya(component: str, path: str, suffix: str) -> str:
    return f"{name_of(component, path)}.{suffix}"


def lycoris(component: str, path: str, suffix: str) -> str:
    return kohya(component, path, suffix).replace("lora_unet_", "lycoris_")


def one_of_two(component: str, path: str, suffix: str) -> str:
    return kohya(component, path, suffix).replace("lora_te_", "lora_te1_")


def bare_text(component: str, path: str, suffix: str) -> str:
    return kohya(component, path, suffix).replace("_text_model", "")


def sgm(component: str, path: str, suffix: str) -> str:
    paths = [path for _, path in places(tiny_unet())]
    return kohya(
        component, original_unet_names(paths)(path) if component == "unet" else path, suffix
    )


@cache
def tiny_unet() -> Any:
    return tiny_modules().unet


def places(unet: Any) -> list[tuple[str, str]]:
    return [(layer.component, layer.path) for layer in real_layers({"unet": unet})]


PARTS = {"unet": "unet", "te": "text_encoder"}
FACTORS = {"lora_down.weight": "down", "lora_up.weight": "up"}


def peft(component: str, path: str, suffix: str) -> str | None:
    ab = {"down": "lora_A.weight", "up": "lora_B.weight"}.get(FACTORS.get(suffix, ""))
    return ab and f"{PARTS[component]}.{path}.{ab}"


def peft_of_old_transformers(component: str, path: str, suffix: str) -> str | None:
    return peft(component, path if component == "unet" else f"text_model.{path}", suffix)


def peft_alone(component: str, path: str, suffix: str) -> str | None:
    key = peft(component, path, suffix)
    return key and key.replace("unet.", "base_model.model.", 1).replace(
        "text_encoder.", "base_model.model.text_model.", 1
    )


def peft_raw(component: str, path: str, suffix: str) -> str | None:
    key = peft(component, path, suffix)
    return key and f"base_model.model.{key.replace('.weight', '.default.weight')}"


def diffusers(component: str, path: str, suffix: str) -> str | None:
    word = "lora" if component == "unet" else "lora_linear_layer"
    factor = FACTORS.get(suffix)
    return factor and f"{PARTS[component]}.{path}.{word}.{factor}.weight"


def processors(component: str, path: str, suffix: str) -> str | None:
    """diffusers before 0.22: the factors belonged to the attention's processor."""
    factor = FACTORS.get(suffix)
    head, _, last = path.removesuffix(".0").rpartition(".")
    if factor is None or not (".attn" in path or "self_attn" in path):
        return diffusers(component, path, suffix)
    if component == "te":
        last = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out"}[last.split("_")[0]]
        return f"text_encoder.text_model.{head}.{last}_lora.{factor}.weight"
    return f"unet.{head}.processor.{last}_lora.{factor}.weight"


LAYOUTS = [
    kohya,
    lycoris,
    one_of_two,
    bare_text,
    sgm,
    peft,
    peft_of_old_transformers,
    peft_alone,
    peft_raw,
    diffusers,
    processors,
]


def written_as(layout: Any, network: Network) -> Tensors:
    """The network's tensors under the names of a layout; what the layout has no place for is left out."""
    found: Tensors = {}
    for member in network.members:
        for suffix, tensor in member.adapter.tensors().items():
            key = layout(member.component, member.path, suffix)
            if key:
                found[key] = tensor
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_network(
    layout: Any, tiny: dict[str, Any], network: Network, tmp_path: Path
) -> None:
    tensors = written_as(layout, network)
    assert len(tensors) >= 2 * len(network.adapters)
    again = from_file(tiny, tensors, {})

    assert list(again.adapters) == list(network.adapters)
    assert save(again.tensors()) == save(network.tensors())
    assert again.skipped == ()

    write_network(tmp_path / "x.safetensors", tensors, {})
    content = read_content(tmp_path / "x.safetensors")
    assert content.foreign is None
    assert {(module.rank, module.scale) for module in content.modules} == {(4, 1.0), (2, 1.0)}
    assert len(content.modules) == len(network.adapters)
    answers = start_values(content)
    assert answers.pop("alpha", 4.0) == 4.0
    assert answers.pop("conv_alpha", 2.0) == 2.0
    assert answers == {"algorithm": "locon", "rank": 4, "conv_rank": 2, "targets": "full"}


def test_sorting_needs_names_and_shapes_alone(network: Network) -> None:
    tensors = written_as(peft, network)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    names = {module.name for module in sort_out(shapes, {}).modules}

    assert names == set(network.adapters)
    assert set(grouped(tensors)) == names


@pytest.mark.parametrize("style", ["sgm", "diffusers"])
def test_sdxl_is_read_in_both_styles_and_written_in_that_of_the_original(style: str) -> None:
    unet = full_unet("sdxl")
    wanted = {
        "lora_unet_conv_in": "lora_unet_input_blocks_0_0",
        "lora_unet_add_embedding_linear_1": "lora_unet_label_emb_0_0",
        "lora_unet_up_blocks_0_upsamplers_0_conv": "lora_unet_output_blocks_2_2_conv",
        "lora_unet_down_blocks_2_attentions_1_transformer_blocks_9_attn2_to_k": (
            "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k"
        ),
    }
    paths = {name_of(*place): place[1] for place in places(unet)}
    tensors: Tensors = {}
    for ours, theirs in wanted.items():
        weight = unet.get_submodule(paths[ours]).weight
        name = theirs if style == "sgm" else ours
        ones = (1, 1)[: weight.dim() - 2]
        tensors[f"{name}.lora_up.weight"] = torch.ones(weight.shape[0], 2, *ones)
        tensors[f"{name}.lora_down.weight"] = torch.ones(2, *weight.shape[1:])
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    network = from_file({"unet": unet}, tensors, {"ss_base_model_version": "sdxl_base_v1-0"})

    assert set(network.adapters) == set(wanted.values())
    assert {member.path for member in network.members} == {paths[name] for name in wanted}


def test_both_text_encoders_of_sdxl_have_names_of_their_own() -> None:
    found = file_names(
        [("te", "text_model.a.fc1"), ("te2", "text_model.a.fc1"), ("unet", "conv_in")]
    )
    assert list(found.values()) == [
        "lora_te1_text_model_a_fc1",
        "lora_te2_text_model_a_fc1",
        "lora_unet_input_blocks_0_0",
    ]
    layer = make_model("linear")
    tensors = {
        f"{start}.layer.{end}": torch.full(shape, size)
        for start, size in (("text_encoder", 1.0), ("text_encoder_2", 2.0))
        for end, shape in (("lora_A.weight", (2, 24)), ("lora_B.weight", (36, 2)))
    }
    read = from_file({"te": layer, "te2": make_model("linear")}, tensors, {})
    with torch.no_grad():
        deltas = {member.component: float(member.adapter.delta()[0, 0]) for member in read.members}
    assert deltas == {"te": 2.0, "te2": 8.0}


# diffusers and PEFT as oracles ------------------------------------------------------------------


def saved_by_diffusers(folder: Path, **config: Any) -> tuple[Path, Any, Any]:
    """The file that diffusers writes for a U-Net and text encoder adapted by PEFT, and both."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    modules = tiny_modules()
    unet, text = modules.unet, modules.text_encoder
    unet.add_adapter(LoraConfig(target_modules=["to_k", "to_out.0", "proj_in", "conv1"], **config))
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=6, target_modules=["fc1"]), text)
    text.peft_config = {"default": LoraConfig(r=2, lora_alpha=6, target_modules=["fc1"])}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in [*unet.named_parameters(), *text.named_parameters()]:
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
            elif "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        text_encoder_lora_layers=get_peft_model_state_dict(text),
        **_collate_lora_metadata({"unet": unet, "text_encoder": text}),
    )
    return folder / "pytorch_lora_weights.safetensors", unet, text


SETTINGS: dict[str, dict[str, Any]] = {
    "alpha": {"r": 4, "lora_alpha": 2},
    "root": {"r": 4, "lora_alpha": 3, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 2,
        "rank_pattern": {"conv1": 2, "attn1.to_k": 3},
        "alpha_pattern": {"conv1": 7, "down_blocks.0.attentions.0.proj_in": 5},
    },
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_diffusers_writes_changes_the_weights_as_peft_does(
    settings: str, tmp_path: Path
) -> None:
    path, unet, text = saved_by_diffusers(tmp_path, **SETTINGS[settings])
    file = read_network(path)
    modules = tiny_modules()
    network = from_file(
        {"unet": modules.unet, "te": modules.text_encoder}, file.tensors, file.metadata
    )

    roots = {"unet": unet, "te": text}
    for member in network.members:
        theirs = roots[member.component].get_submodule(member.path).get_delta_weight("default")
        torch.testing.assert_close(member.adapter.delta(), theirs, rtol=1e-5, atol=1e-6)
    assert len(network.members) == sum(".lora_A." in name for name, _ in named(unet, text))
    scales = {round(module.scale, 5) for module in read_content(path).modules}
    assert scales == {round(member.adapter.size.scale, 5) for member in network.members}


def named(*roots: Any) -> list[tuple[str, Any]]:
    return [pair for root in roots for pair in root.named_parameters()]


def test_a_dora_of_diffusers_computes_what_peft_computes(tmp_path: Path) -> None:
    path, unet, _ = saved_by_diffusers(tmp_path, r=4, lora_alpha=2, use_dora=True)
    file = read_network(path)
    network = from_file(
        {"unet": (fresh := tiny_modules()).unet, "te": fresh.text_encoder},
        file.tensors,
        file.metadata,
    )
    network.inject()

    generator = torch.Generator().manual_seed(1)
    seen = set()
    for member in network.members:
        if member.component != "unet":
            continue
        layer, theirs = member.adapter.layer, unet.get_submodule(member.path)
        weight = layer.get_parameter("weight")
        shape = (2, 3, weight.shape[1]) if weight.dim() == 2 else (2, weight.shape[1], 5, 5)
        x = torch.randn(shape, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)
        magnitude = member.adapter.tensors()["dora_scale"]
        assert magnitude.shape == (weight.shape[0], *(1,) * (weight.dim() - 1))
        seen.add((weight.dim(), weight.shape[0] == weight.shape[1]))
    # Square convolutions are those whose axis the shape alone does not tell.
    assert {(2, True), (2, False), (4, True), (4, False)} <= seen


def test_a_vector_is_a_scale_of_the_output_axis_and_a_row_stays_one() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "lora_unet_a.lora_up.weight": (8, 2, 1, 1),
        "lora_unet_a.lora_down.weight": (2, 8, 3, 3),
        "lora_unet_a.dora_scale": (8,),
        "lora_unet_b.lora_up.weight": (8, 2),
        "lora_unet_b.lora_down.weight": (2, 8),
        "lora_unet_b.dora_scale": (1, 8),
        "unet.c.lora_B.weight": (8, 2, 1, 1),
        "unet.c.lora_A.weight": (2, 8, 3, 3),
        "unet.c.lora_magnitude_vector": (1, 8, 1, 1),
    }
    found = {module.name: module.shapes["dora_scale"] for module in sort_out(shapes, {}).modules}
    assert found == {
        "lora_unet_a": (8, 1, 1, 1),
        "lora_unet_b": (1, 8),
        "lora_unet_c": (8, 1, 1, 1),
    }


# Scales in the metadata -------------------------------------------------------------------------


def scale_of(told: Any, path: str = "x.to_k", rank: int = 4) -> float:
    shapes = {f"unet.{path}.lora_A.weight": (rank, 8), f"unet.{path}.lora_B.weight": (8, rank)}
    text = told if isinstance(told, str) else json.dumps(told)
    (module,) = sort_out(shapes, {"lora_adapter_metadata": text}).modules
    assert module.alpha is not None
    return module.alpha / rank


def test_scales_come_from_the_settings_of_the_component() -> None:
    assert scale_of({"unet.lora_alpha": 2, "unet.r": 4}) == 0.5
    assert scale_of({"lora_alpha": 2, "r": 4}) == 0.5
    assert scale_of({"text_encoder.lora_alpha": 2}) == 1.0
    assert scale_of({}) == 1.0
    assert math.isclose(scale_of({"unet.lora_alpha": 2, "unet.use_rslora": True}), 1.0)
    patterned = {"unet.lora_alpha": 2, "unet.alpha_pattern": {"to_k": 8, "x.to_k": 12}}
    assert scale_of(patterned) == 2.0
    assert scale_of(patterned, "another.to_q") == 0.5
    assert scale_of({"unet.lora_alpha": 2, "unet.alpha_pattern": {r"^x\.to_k$": 12}}) == 3.0


@pytest.mark.parametrize(
    "told",
    [
        "{",
        "[1]",
        "[" * 100_000,
        {"unet.lora_alpha": "2"},
        {"unet.lora_alpha": True},
        {"unet.lora_alpha": -1},
        '{"unet.lora_alpha": NaN}',
        '{"unet.lora_alpha": 1e999}',
        {"unet.lora_alpha": 2, "unet.alpha_pattern": [1]},
        {"unet.lora_alpha": 2, "unet.alpha_pattern": {"to_k": None}},
        {"unet.lora_alpha": 2, "unet.alpha_pattern": {"(a+)+b": 4}},
    ],
)
def test_settings_that_cannot_be_read_are_refused_not_guessed(told: Any) -> None:
    with pytest.raises(NetworkFileError, match="scales of the file cannot be read"):
        scale_of(told)


def test_an_alpha_in_the_file_counts_more_than_the_settings() -> None:
    shapes = {"unet.x.lora_A.weight": (4, 8), "unet.x.lora_B.weight": (8, 4), "unet.x.alpha": ()}
    (module,) = sort_out(shapes, {"lora_adapter_metadata": '{"unet.lora_alpha": 2}'}).modules
    assert module.alpha is None
    assert module.tensors["alpha"].key == "unet.x.alpha"


# GLoRA ------------------------------------------------------------------------------------------

IN, OUT, D = 6, 10, 4
NEW = {"a1": (IN, D), "a2": (D, IN), "b1": (OUT, D), "b2": (D, IN)}
OLD = {"a1": (D, IN), "a2": (IN, D), "b1": (D, IN), "b2": (OUT, D)}


def glora(name: str, sides: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"lora_unet_{name}.{side}.weight": shape for side, shape in sides.items()}


def keys_read(shapes: dict[str, tuple[int, ...]], name: str) -> dict[str, str]:
    (module,) = (m for m in sort_out(shapes, {}).modules if m.name == f"lora_unet_{name}")
    return {suffix[:2]: source.key.split(".")[1] for suffix, source in module.tensors.items()}


def test_gloras_old_layout_is_told_by_the_common_axis_and_turned_into_the_new_one() -> None:
    straight = {side: side for side in NEW}
    crossed = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
    assert keys_read(glora("x", NEW), "x") == straight
    assert keys_read(glora("x", OLD), "x") == crossed
    for in_, out in ((D, OUT), (IN, D)):
        new = {"a1": (in_, D), "a2": (D, in_), "b1": (out, D), "b2": (D, in_)}
        old = {"a1": (D, in_), "a2": (in_, D), "b1": (D, in_), "b2": (out, D)}
        assert keys_read(glora("x", new), "x") == straight
        assert keys_read(glora("x", old), "x") == crossed
    square = dict.fromkeys(NEW, (D, D))
    assert keys_read(glora("x", square), "x") == straight
    assert keys_read(glora("x", square) | glora("y", OLD), "x") == crossed
    assert keys_read(glora("x", square) | glora("y", NEW), "x") == straight


def test_gloras_old_layout_computes_its_own_formula() -> None:
    """s((W a2) a1 + b2 b1), as the old files mean it."""
    model = make_model("linear")
    generator = torch.Generator().manual_seed(0)
    weight = model.get_submodule("layer").weight
    sides = {"a1": (D, 24), "a2": (24, D), "b1": (D, 24), "b2": (36, D)}
    old = {side: torch.randn(shape, generator=generator) for side, shape in sides.items()}
    tensors = {f"lora_unet_layer.{side}.weight": tensor for side, tensor in old.items()}
    (group,) = grouped(tensors).values()
    new = {suffix[:2]: tensor for suffix, tensor in group.items()}
    theirs = (weight @ old["a2"]) @ old["a1"] + old["b2"] @ old["b1"]
    torch.testing.assert_close(weight @ new["a1"] @ new["a2"] + new["b1"] @ new["b2"], theirs)


# What is left out, and what is refused ----------------------------------------------------------


def lora(name: str, in_: int = 24, out: int = 36) -> Tensors:
    return {
        f"{name}.lora_up.weight": torch.ones(out, 2),
        f"{name}.lora_down.weight": torch.ones(2, in_),
    }


def test_what_is_outside_the_network_is_named() -> None:
    extra = [
        "bundle_emb.thing.string_to_param",
        "bundle_emb.thing.clip_g",
        "bundle_emb.\x1b[31mother.clip_l",
        "lora_unet_layer.bias_indices",
        "lora_unet_layer.bias_values",
        "lora_unet_layer.bias_size",
        "something.else",
    ]
    tensors = lora("lora_unet_layer") | {key: torch.zeros(4) for key in extra}
    assert from_file({"unet": make_model("linear")}, tensors, {}).skipped == (
        "bundle_emb.thing is left out: it is an embedding",
        "bundle_emb.?[31mother is left out: it is an embedding",
        "lora_unet_layer.bias_indices is left out: sparse changes of a bias are not read",
        "lora_unet_layer.bias_values is left out: sparse changes of a bias are not read",
        "lora_unet_layer.bias_size is left out: sparse changes of a bias are not read",
        "something.else is no part of the network",
    )


def test_a_thousand_strange_tensors_are_not_a_thousand_lines() -> None:
    tensors = lora("lora_unet_layer") | {f"x.{n}": torch.zeros(1) for n in range(1000)}
    skipped = from_file({"unet": make_model("linear")}, tensors, {}).skipped
    assert len(skipped) < 50
    assert skipped[-1] == "960 more tensors are left out"


@pytest.mark.parametrize(
    "other",
    ["lycoris_layer", "unet.layer", "base_model.model.unet.layer", "base_model.model.layer"],
)
def test_two_names_of_one_layer_are_refused(other: str) -> None:
    tensors = lora("lora_unet_layer") | lora(other)
    with pytest.raises(NetworkFileError, match="named twice") as caught:
        from_file({"unet": make_model("linear")}, tensors, {})
    assert "lora_unet_layer" in str(caught.value)
    assert other in str(caught.value)
    if other != "lycoris_layer":  # whose component only a model tells
        with pytest.raises(NetworkFileError, match="named twice"):
            grouped(tensors)


def test_one_tensor_in_two_spellings_is_refused() -> None:
    tensors = lora("unet.layer") | {"unet.layer.lora_A.weight": torch.ones(2, 24)}
    with pytest.raises(NetworkFileError, match="there twice"):
        from_file({"unet": make_model("linear")}, tensors, {})


FOREIGN = {
    "an OFT of kohya's own format": "oft_unet_layer.oft_blocks",
    "an OFT in the layout of PEFT and OneTrainer": "lora_unet_layer.oft_R.weight",
    "a LoHa in the layout of PEFT": "base_model.model.layer.hada_w1_a",
    "a LoKr in the layout of PEFT": "unet.down_blocks.0.x.lokr_w1",
    "a LoRA for FLUX": "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight",
    "a LoRA for a transformer model": "transformer.blocks.0.attn.to_q.lora_A.weight",
    "a base model": "model.diffusion_model.input_blocks.0.0.weight",
    "an embedding": "emb_params",
    "no network file that is known": "something.weight",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_files_of_another_kind_are_refused_by_what_they_are(what: str, tmp_path: Path) -> None:
    tensors = {FOREIGN[what]: torch.zeros(4, 4)}
    with pytest.raises(NetworkFileError, match=what):
        from_file({"unet": make_model("linear")}, tensors, {})
    save_file(tensors, tmp_path / "x.safetensors")
    assert what in str(read_content(tmp_path / "x.safetensors").foreign)


@pytest.mark.parametrize(
    "name",
    [
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
        "lora_unet_label_emb_0_0",
        "lora_unet_add_embedding_linear_1",
        "lora_unet_input_blocks_8_1_transformer_blocks_3_ff_net_2",
        "unet.mid_block.attentions.0.transformer_blocks.4.ff.net.2",
    ],
)
def test_names_tell_an_sdxl_network(name: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NetworkFileError, match="an SDXL network"):
        from_file(tiny, lora(name), {})
    save_file(lora(name), tmp_path / "x.safetensors")
    assert read_content(tmp_path / "x.safetensors").family == "sdxl"


KEYS = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("width", "told", "what"),
    [(2048, {}, "an SDXL network"), (1024, {}, "Stable Diffusion 2"), (768, {}, None)],
)
def test_shapes_tell_the_family(width: int, told: dict[str, str], what: str | None) -> None:
    unet = full_unet("sd1")
    if what is None:
        assert len(from_file({"unet": unet}, lora(KEYS, width, 1280), told).members) == 1
        return
    with pytest.raises(NetworkFileError, match=what) as caught:
        from_file({"unet": unet}, lora(KEYS, width, 1280), told)
    assert "the base model is of Stable Diffusion 1" in str(caught.value)


@pytest.mark.parametrize(("family", "width"), [("sd2", 768), ("sdxl", 768), ("sdxl", 1024)])
def test_a_network_of_another_family_is_refused_on_every_base(family: str, width: int) -> None:
    with pytest.raises(NetworkFileError, match="the base model is of"):
        from_file({"unet": full_unet(family)}, lora(KEYS, width, 1280), {})


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"ss_v2": "True"}, "sd2"),
        ({}, None),
    ],
)
def test_metadata_tell_the_family_where_names_do_not(
    metadata: dict[str, str], family: str | None, tmp_path: Path
) -> None:
    save_file(lora("lora_unet_layer"), tmp_path / "x.safetensors", metadata)
    assert read_content(tmp_path / "x.safetensors").family == family


def test_modules_of_no_algorithm_are_told_with_what_they_seem_to_be(tmp_path: Path) -> None:
    tensors = lora("lora_unet_layer") | {"lora_unet_other.hada_w1_a": torch.zeros(2, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    content = read_content(tmp_path / "x.safetensors")
    assert [module.name for module in content.modules] == ["lora_unet_layer"]
    assert "seems to be a LoHa" in str(content.unknown[0])
    model = make_model("linear")
    with pytest.raises(NetworkFileError, match="seems to be a LoHa"):
        from_file({"unet": model}, {"lora_unet_layer.hada_w1_a": torch.zeros(2, 2)}, {})
