"""Files are written whole, read with distrust, and refused in words."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from engine.errors import NetworkFileError
from engine.networks.content import read_content, recipe_differences
from engine.networks.files import read_network, verify_network, write_network
from engine.networks.headers import read_header
from engine.networks.network import from_file
from tests.engine.networks.layers import CHOICES, make_model, make_network, stir

METADATA = {"ss_network_dim": "4", "modelspec.title": "x", "lyctui.seed": "1"}


def tensors_of(form="lora", dtype=torch.float16):
    return stir(make_network(make_model("linear"), CHOICES[form])).tensors(dtype)


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.safetensors"
    write_network(path, tensors_of(), METADATA)
    return path


def test_a_file_reads_back_as_it_was_written(good):
    file = read_network(good)

    wanted = tensors_of()
    assert set(file.tensors) == set(wanted)
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in wanted.items())
    assert METADATA.items() <= file.metadata.items()
    assert [path.name for path in good.parent.iterdir()] == ["good.safetensors"]
    verify_network(good, wanted)


def test_hashes_are_those_of_kohyas_tools(tmp_path):
    path = tmp_path / "large.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {"lora_unet_x.lora_up.weight": torch.randn(600, 1000, generator=generator)}
    write_network(path, tensors, METADATA)
    found = read_network(path).metadata

    body = save(tensors, metadata={"ss_network_dim": "4"})
    whole = hashlib.sha256(body[8 + int.from_bytes(body[:8], "little") :]).hexdigest()
    assert found["sshs_model_hash"] == whole
    assert found["modelspec.hash_sha256"] == f"0x{whole}"
    window = body[0x100000 : 0x100000 + 0x10000]
    assert found["sshs_legacy_hash"] == hashlib.sha256(window).hexdigest()[:8]


def test_the_legacy_hash_of_a_small_file_is_that_of_nothing(good):
    assert read_network(good).metadata["sshs_legacy_hash"] == "e3b0c442"


def test_an_interrupted_write_leaves_the_old_file_and_no_other(good, monkeypatch):
    before = good.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_network(good, tensors_of("lokr full"), {})

    assert good.read_bytes() == before
    assert [path.name for path in good.parent.iterdir()] == ["good.safetensors"]


def test_verification_names_what_differs(good):
    tensors = tensors_of()
    name = next(iter(tensors))
    changed = tensors | {name: tensors[name] + 1}
    with pytest.raises(NetworkFileError, match="1 tensors differ"):
        verify_network(good, changed)
    with pytest.raises(NetworkFileError, match="1 tensors differ"):
        verify_network(good, [*tensors, "another.alpha"])


def test_weights_that_do_not_fit_the_precision_are_refused():
    network = stir(make_network(make_model("linear"), CHOICES["lora"]))
    with torch.no_grad():
        next(iter(network.parameters())).fill_(1e6)

    network.tensors(torch.bfloat16)
    with pytest.raises(NetworkFileError, match="do not fit float16"):
        network.tensors(torch.float16)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "nan.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.tensor([1.0, float("nan")])}, path)

    with pytest.raises(NetworkFileError, match="1 of 1 tensors hold numbers that are not finite"):
        read_network(path)


def test_a_missing_file_is_refused_in_words(tmp_path):
    with pytest.raises(NetworkFileError, match="cannot be read"):
        read_network(tmp_path / "none.safetensors")


def test_the_metadata_tell_another_family():
    with pytest.raises(NetworkFileError, match="an SDXL network"):
        from_file(
            {"unet": make_model("linear")},
            tensors_of(),
            {"ss_base_model_version": "sdxl_base_v1-0"},
        )


def test_layers_that_the_model_does_not_have_are_named():
    tensors = {name.replace("layer", "elsewhere"): t for name, t in tensors_of().items()}
    with pytest.raises(NetworkFileError, match="no such layer") as caught:
        from_file({"unet": make_model("linear")}, tensors, {})
    assert "lora_unet_elsewhere" in str(caught.value)


@pytest.mark.parametrize("form", ["lora", "lokr low", "lokr full", "lokr both"])
def test_shapes_of_another_model_are_refused(form):
    with pytest.raises(NetworkFileError, match="does not fit the layer"):
        from_file({"unet": make_model("conv3x3")}, tensors_of(form), {})


@pytest.mark.parametrize(("kind", "squeeze"), [("conv1x1", True), ("linear", False)])
def test_matrices_and_one_by_one_convolutions_stand_for_each_other(kind, squeeze):
    tensors = stir(make_network(make_model(kind), CHOICES["lora"])).tensors()
    turned = {
        name: t if t.dim() == 0 else t[..., 0, 0] if squeeze else t[..., None, None]
        for name, t in tensors.items()
    }
    again = from_file({"unet": make_model(kind)}, turned, {})

    assert save(again.tensors()) == save(tensors)


def test_an_alpha_of_any_form_is_read_and_a_missing_one_means_the_rank():
    tensors = tensors_of(dtype=torch.float32)
    for alpha, scale in ((torch.tensor([2]), 0.5), (torch.tensor(8.0).half(), 2.0), (None, 1.0)):
        given_ = {name: t for name, t in tensors.items() if not name.endswith("alpha")}
        if alpha is not None:
            given_["lora_unet_layer.alpha"] = alpha
        (adapter,) = from_file({"unet": make_model("linear")}, given_, {}).adapters.values()
        assert adapter.size.scale == scale


def test_typed_answers_that_the_file_contradicts_are_refused_with_its_values(good):
    content = read_content(good)

    assert recipe_differences(content, {"algorithm": "locon", "rank": 4, "alpha": 2.0}) == []
    problems = recipe_differences(content, {"algorithm": "lokr", "rank": 8, "alpha": 1.0})
    assert [problem.path for problem in problems] == [
        "network.algorithm",
        "network.rank",
        "network.alpha",
    ]
    assert "Set network.rank to 4" in problems[1].remedy


def test_headers_need_no_weights(good):
    header = read_header(good)
    tensors = load_file(good)

    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert header.bytes == good.stat().st_size
