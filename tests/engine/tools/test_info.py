"""What `lyctui info` tells of a file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import NetworkFileError
from engine.networks.choice import Choice
from engine.networks.files import write_network
from engine.networks.network import build
from engine.tools.info import describe
from tests.tiny import tiny_modules


@pytest.fixture(scope="module")
def tiny():
    modules = tiny_modules()
    return {"unet": modules.unet, "te": modules.text_encoder}


def written(tiny, tmp_path, choice, metadata=None):
    network = build(tiny, choice, seed=0)
    path = tmp_path / "x.safetensors"
    write_network(path, network.tensors(torch.float16), metadata or {})
    return network, path


def test_a_lora_of_two_ranks(tiny, tmp_path):
    choice = Choice("locon", 8, 4.0, "full", conv_rank=2, conv_alpha=2.0)
    network, path = written(
        tiny, tmp_path, choice, {"lyctui.family": "sd1", "lyctui.recipe": "a = 1"}
    )
    info = describe(path)

    assert info.algorithm == "lora"
    assert sum(info.ranks.values()) == len(network.adapters) == len(info.modules)
    assert set(info.ranks) == {"8", "2"}
    assert set(info.alphas) == {"4", "2"}
    assert set(info.scales) == {"0.5", "1"}
    assert info.components["te"] == 18
    assert info.parameters == network.count()
    assert info.dtypes == {"F16": 2 * len(network.adapters)}
    assert (info.family, info.has_recipe, info.resumable) == ("sd1", True, True)
    assert info.bytes == path.stat().st_size
    json.dumps(info.to_dict())


def test_a_lokr_with_full_factors_has_scale_one(tiny, tmp_path):
    _, path = written(tiny, tmp_path, Choice("lokr", "full", 1.0, factor=8))
    info = describe(path)

    assert info.algorithm == "lokr"
    assert set(info.ranks) == {"full"}
    assert set(info.scales) == {"1"}


def test_a_file_of_another_kind_says_what_it_is(tmp_path):
    path = tmp_path / "loha.safetensors"
    save_file({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, path, {"ss_\x1b[31m": "\x1b[0mred"})
    info = describe(path)

    assert not info.resumable
    assert "LoHa" in str(info.problems[0])
    assert "\x1b" not in json.dumps(info.to_dict(), ensure_ascii=False)


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "none.safetensors"
    path.write_bytes(b"hello, this is text")
    with pytest.raises(NetworkFileError):
        describe(path)
