"""`info` tells what a network file holds, in words and as the object that scripts read."""

import json

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import NetworkFileError
from lyctui.verbs.info import info_lines, info_object, show_info

torch.set_num_threads(1)
LAYER = "lora_unet_down_blocks_0_attentions_0_proj_in"
METADATA = {
    "ss_base_model_version": "sd_v1",
    "modelspec.trigger_phrase": "vexilo emblem, vexilo",
    "lyctui.recipe": "version = 1\n",
}


@pytest.fixture
def lora(tmp_path):
    torch.manual_seed(1)
    tensors = {
        f"{LAYER}.lora_up.weight": torch.randn(6, 2),
        f"{LAYER}.lora_down.weight": torch.randn(2, 5),
        f"{LAYER}.alpha": torch.tensor(1.0),
    }
    path = tmp_path / "net.safetensors"
    save_file(tensors, path, metadata=METADATA)
    return path, tensors


def test_the_object_has_everything_scripts_rely_on(lora):
    path, tensors = lora
    found = info_object(path)

    assert {"kind", "family", "algorithm", "modules", "triggers", "loads_in", "metadata"} < set(
        found
    )
    assert (found["kind"], found["family"], found["algorithm"]) == ("network", "sd1", "lora")
    assert found["problems"] == []
    assert found["triggers"] == ["vexilo emblem", "vexilo"]
    assert "diffusers" in found["loads_in"]
    (module,) = found["modules"]
    delta = 0.5 * tensors[f"{LAYER}.lora_up.weight"] @ tensors[f"{LAYER}.lora_down.weight"]
    assert (module["name"], module["rank"], module["alpha"]) == (LAYER, 2, 1.0)
    assert module["norm"] == pytest.approx(float(delta.norm()), rel=1e-5)


def test_the_norm_of_a_tucker_convolution_and_of_a_lokr_is_that_of_their_delta(tmp_path):
    torch.manual_seed(2)
    up, down = torch.randn(4, 3, 1, 1), torch.randn(3, 5, 1, 1)
    middle = torch.randn(3, 3, 3, 3)
    left, first, second = torch.randn(2, 3), torch.randn(4, 2), torch.randn(2, 6)
    path = tmp_path / "net.safetensors"
    tensors = {
        "lora_unet_conv_in.lora_up.weight": up,
        "lora_unet_conv_in.lora_down.weight": down,
        "lora_unet_conv_in.lora_mid.weight": middle,
        "lora_unet_conv_in.alpha": torch.tensor(3.0),
        f"{LAYER}.lokr_w1": left,
        f"{LAYER}.lokr_w2_a": first,
        f"{LAYER}.lokr_w2_b": second,
        f"{LAYER}.alpha": torch.tensor(4.0),
    }
    save_file(tensors, path, metadata=METADATA)
    norms = {module["name"]: module["norm"] for module in info_object(path)["modules"]}

    tucker = torch.einsum("po,orxy,rj->pjxy", up.flatten(1), middle, down.flatten(1))
    assert norms["lora_unet_conv_in"] == pytest.approx(float(tucker.norm()), rel=1e-5)
    product = 2 * torch.kron(left, first @ second)
    assert norms[LAYER] == pytest.approx(float(product.norm()), rel=1e-5)


def test_numbers_that_are_not_finite_are_a_problem_not_a_crash(lora, capsys):
    path, tensors = lora
    tensors[f"{LAYER}.lora_up.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata=METADATA)

    assert show_info(path, as_json=True) == 3
    found = json.loads(capsys.readouterr().out)
    assert any("not finite" in problem for problem in found["problems"])
    assert found["loads_in"] == []


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "base.safetensors"
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(2)}, path)
    found = info_object(path)

    assert found["kind"] == "other"
    (problem,) = found["problems"]
    assert problem == "This is a base model. Give a network file."
    lines = info_lines(found)
    assert not any(line.startswith(("modules", "ranks")) for line in lines)


def test_a_file_that_is_none_is_the_environments_fault(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\xff" * 40)

    with pytest.raises(NetworkFileError):
        info_object(path)


def test_the_words_hold_no_recipe_and_no_controls(lora, capsys):
    path, tensors = lora
    save_file(tensors, path, metadata=METADATA | {"note": "a\x1b[31mb"})

    assert show_info(path, as_json=False) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "lyctui.recipe" not in said
    assert "loads in   ComfyUI" in said
    assert any(line.startswith("modules    1") for line in info_lines(info_object(path)))
