"""Files are written whole, read with distrust, and refused in words."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from engine.errors import EngineError, NetworkFileError
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


def lying(header: object, body: bytes = b"\0" * 64) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + body


def entry(**changed):
    return {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | changed


LIES = {
    "empty": b"",
    "short": b"\1\0\0",
    "longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "longest": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": lying(b"not json at all"),
    "a list": lying([1, 2]),
    "deep": lying(b"[" * 200_000),
    "offsets outside": lying({"x": entry(data_offsets=[0, 640], shape=[160])}),
    "offsets that do not fit": lying({"x": entry(shape=[5, 5])}),
    "huge shape": lying({"x": entry(shape=[2**40, 2**40])}),
    "negative": lying({"x": entry(data_offsets=[64, 0], shape=[-4, 4])}),
    "axes": lying({"x": entry(shape=[1] * 500)}),
    "dtype": lying({"x": entry(dtype="F99")}),
    "dtype list": lying({"x": entry(dtype=[1])}),
    "text shape": lying({"x": entry(shape="44")}),
    "true shape": lying({"x": entry(shape=[True, 16])}),
    "no entry": lying({"x": None}),
    "integers": lying({"x": entry(dtype="I32")}),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_files_are_refused_in_words(tmp_path, lie):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(LIES[lie])

    with pytest.raises(NetworkFileError) as caught:
        read_network(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused_in_words(tmp_path):
    with pytest.raises(NetworkFileError, match="cannot be read"):
        read_network(tmp_path / "none.safetensors")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_read_as_they_were_or_are_refused(good, data):
    body = bytearray(good.read_bytes())
    cut = data.draw(st.integers(0, len(body)))
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = good.parent / "damaged.safetensors"
    path.write_bytes(bytes(body[:cut]) if data.draw(st.booleans()) else bytes(body))

    try:
        file = read_network(path)
        from_file({"unet": make_model("linear")}, file.tensors, file.metadata)
        read_content(path)
    except EngineError as error:
        assert all(char.isprintable() or char == "\n" for char in str(error))


NAMES = st.text(max_size=40) | st.sampled_from(
    ["lora_unet_layer.alpha", "lora_unet_layer.lora_up.weight", "lora_unet_.lokr_w1", ".alpha", "."]
)


@settings(max_examples=80, deadline=None)
@given(
    names=st.lists(NAMES, max_size=6, unique=True),
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=6, max_size=6),
)
def test_hostile_names_and_shapes_are_refused_in_words(names, shapes):
    tensors = {name: torch.zeros(shape) for name, shape in zip(names, shapes, strict=False)}
    try:
        from_file({"unet": make_model("linear")}, tensors, {})
    except EngineError as error:
        assert all(char.isprintable() or char == "\n" for char in str(error))
        assert "\x1b" not in str(error)


FOREIGN = {
    "a LoHa": "lora_unet_layer.hada_w1_a",
    "a DoRA": "lora_unet_layer.dora_scale",
    "an OFT or BOFT": "lora_unet_layer.oft_blocks",
    "a GLoRA": "lora_unet_layer.a1.weight",
    "a T-LoRA": "lora_unet_layer.q_layer.weight",
    "full differences": "lora_unet_layer.diff",
    "trained norms": "lora_unet_layer.w_norm",
    "original layout": "lora_unet_input_blocks_1_1_proj_in.lora_up.weight",
    "an SDXL network": "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
    "diffusers layout": "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",
    "PEFT layout": "base_model.model.layer.lora_A.weight",
    "a base model": "model.diffusion_model.input_blocks.0.0.weight",
    "an embedding": "emb_params",
    "no network file that is known": "something.weight",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_files_of_another_kind_are_refused_by_what_they_are(what):
    with pytest.raises(NetworkFileError, match=what):
        from_file({"unet": make_model("linear")}, {FOREIGN[what]: torch.zeros(4, 4)}, {})


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


def test_keys_outside_the_network_are_listed_by_name():
    tensors = tensors_of() | {"bundle_emb.thing.string_to_param": torch.zeros(4)}
    network = from_file({"unet": make_model("linear")}, tensors, {})

    assert network.skipped == ("bundle_emb is no part of the network",)


def test_other_spellings_of_the_same_module_are_read():
    tensors = {name.replace("lora_unet", "lycoris"): t for name, t in tensors_of().items()}
    network = from_file({"unet": make_model("linear")}, tensors, {})

    assert list(network.adapters) == ["lora_unet_layer"]
    doubled = tensors | tensors_of()
    with pytest.raises(NetworkFileError, match="named twice"):
        from_file({"unet": make_model("linear")}, doubled, {})


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
