"""Loading, from every layout, without a network: exact weights, or every fault by its name."""

from __future__ import annotations

import json
import pickle
import socket
import sys
import types
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import ModelError
from engine.models import source
from engine.models.family import BaseModel
from engine.models.headers import Header
from engine.models.load import load_model
from tests.conftest import NetworkUsed
from tests.tiny import (
    MODEL_CONFIG,
    VAE,
    TinyModules,
    tiny_modules,
    write_tiny_sd1,
    write_tiny_sd1_folder,
)

HEADER = {"lyctui.model_config": json.dumps(MODEL_CONFIG)}
TEXT = "cond_stage_model.transformer."


@lru_cache(maxsize=2)
def original(seed: int) -> TinyModules:
    """The modules a file was written from; not to be changed."""
    return tiny_modules(seed)


def same_weights(module: nn.Module, reference: nn.Module) -> bool:
    found, wanted = module.state_dict(), reference.state_dict()
    return found.keys() == wanted.keys() and all(
        torch.equal(found[name], wanted[name]) for name in wanted
    )


def assert_is_seed(model: BaseModel, seed: int) -> None:
    reference = original(seed)
    assert same_weights(model.components()["unet"], reference.unet)
    assert same_weights(model.components()["te"], reference.text_encoder)
    assert same_weights(model.vae, reference.vae)  # type: ignore[attr-defined]


def test_a_test_that_asks_for_the_network_fails() -> None:
    with pytest.raises(NetworkUsed):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(NetworkUsed), socket.socket() as client:
        client.connect(("192.0.2.1", 80))
    left, right = socket.socketpair(socket.AF_UNIX)
    left.sendall(b"ok")
    assert right.recv(2) == b"ok"
    left.close(), right.close()


def test_single_file_and_folder_give_the_exact_weights(tiny_file: Path, tiny_folder: Path) -> None:
    for path in (tiny_file, tiny_folder):
        assert_is_seed(load_model(path), 1)


def test_configurations_are_those_the_file_was_made_with(shared_model: Any) -> None:
    reference = original(1)
    for name in ("attention_head_dim", "norm_num_groups", "cross_attention_dim", "sample_size"):
        assert shared_model.unet.config[name] == reference.unet.config[name]
    assert shared_model.vae.config["norm_num_groups"] == VAE["norm_num_groups"]
    assert shared_model.text_encoder.config.num_attention_heads == 4
    assert shared_model.text_encoder.config.hidden_act == "quick_gelu"


def test_base_is_frozen_and_in_evaluation_mode(shared_model: Any) -> None:
    for part in (shared_model.unet, shared_model.vae, shared_model.text_encoder):
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert not any(module.training for module in part.modules())
        tensors = [*part.parameters(), *part.buffers()]
        assert not any(tensor.is_meta for tensor in tensors), "nothing is left without numbers"


def test_the_wanted_number_format_and_no_other(tmp_path: Path) -> None:
    half = write_tiny_sd1(tmp_path / "half.safetensors", dtype="float16")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        model: Any = load_model(half, dtype=dtype)
        for part, wanted in (
            (model.unet, dtype),
            (model.text_encoder, dtype),
            (model.vae, torch.float32),
        ):
            assert {parameter.dtype for parameter in part.parameters()} == {wanted}


def test_no_weight_hangs_on_the_files_once_they_are_loaded(tmp_path: Path) -> None:
    """Whatever is done to the files then: overwritten in place, cut off, both."""
    single = write_tiny_sd1(tmp_path / "own" / "m.safetensors", seed=1)
    folder = write_tiny_sd1_folder(tmp_path / "own" / "m", seed=1)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    pickled = tmp_path / "own" / "vae.pt"
    torch.save(load_file(vae), pickled)
    loaded = [load_model(path) for path in (single, folder)]
    loaded += [load_model(single, vae=path) for path in (vae, pickled)]
    maps = Path("/proc/self/maps")
    if maps.exists():
        # Told here, since reading what was cut off would kill the process.
        assert str(tmp_path / "own") not in maps.read_text()
    for file in [path for path in (tmp_path / "own").rglob("*") if path.is_file()]:
        with file.open("r+b") as overwritten:
            overwritten.write(bytes(file.stat().st_size // 2))
            overwritten.truncate()
    for model in loaded:
        assert_is_seed(model, 1)


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(
    tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "m.safetensors"
    copy.write_bytes(tiny_file.read_bytes())
    header = source.read_raw

    def cut_then(path: Path) -> Any:
        found = header(path)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        return found

    monkeypatch.setattr(source, "read_raw", cut_then)
    with pytest.raises(ModelError, match="shorter while it was read"):
        source.read_safetensors(copy)


def test_text_keys_without_their_level_are_read(tmp_path: Path, tiny_file: Path) -> None:
    state = {name.replace("text_model.", ""): t for name, t in load_file(tiny_file).items()}
    assert any(name.startswith(TEXT + "encoder.") for name in state)
    save_file(state, tmp_path / "m.safetensors", metadata=HEADER)
    assert_is_seed(load_model(tmp_path / "m.safetensors"), 1)


def test_a_folder_with_the_level_and_old_vae_names_is_read(tmp_path: Path) -> None:
    """As published folders are: written by older libraries."""
    folder = write_tiny_sd1_folder(tmp_path / "m", seed=1)
    text = folder / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name}": tensor for name, tensor in load_file(text).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, text)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in load_file(vae).items():
        for new, old in new_to_old.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    save_file(renamed, vae)
    assert_is_seed(load_model(folder), 1)


def test_ema_copies_and_other_extras_are_left_alone(tmp_path: Path, tiny_file: Path) -> None:
    state = load_file(tiny_file)
    state["model_ema.diffusion_modelout2weight"] = torch.zeros(3)
    state[TEXT + "text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, tmp_path / "m.safetensors", metadata=HEADER)
    assert_is_seed(load_model(tmp_path / "m.safetensors"), 1)


def test_missing_and_wrong_tensors_are_named_for_all_parts_at_once(
    tmp_path: Path, tiny_file: Path
) -> None:
    state = load_file(tiny_file)
    del state["model.diffusion_model.out.2.bias"]
    del state[TEXT + "text_model.encoder.layers.1.mlp.fc1.weight"]
    state["first_stage_model.quant_conv.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "m.safetensors", metadata=HEADER)
    with pytest.raises(ModelError) as error:
        load_model(tmp_path / "m.safetensors")
    told = str(error.value)
    assert "model.diffusion_model.out.2.bias" in told
    assert "encoder.layers.1.mlp.fc1.weight" in told
    assert "first_stage_model.quant_conv.bias is 5, not 8" in told
    assert str(tmp_path / "m.safetensors") in told


def test_tensors_of_another_structure_are_refused(tmp_path: Path, tiny_file: Path) -> None:
    state = load_file(tiny_file)
    state["model.diffusion_model.middle_block.1.fuser.weight"] = torch.zeros(4)
    save_file(state, tmp_path / "m.safetensors", metadata=HEADER)
    with pytest.raises(ModelError, match="fuser"):
        load_model(tmp_path / "m.safetensors")


def test_a_checkpoint_without_vae_asks_for_one(tmp_path: Path, tiny_file: Path) -> None:
    state = load_file(tiny_file)
    vae = {name: t for name, t in state.items() if name.startswith("first_stage_model.")}
    rest = {name: tensor for name, tensor in state.items() if name not in vae}
    save_file(rest, tmp_path / "m.safetensors", metadata=HEADER)
    save_file(vae, tmp_path / "vae.safetensors", metadata=HEADER)
    with pytest.raises(ModelError, match=r"model\.vae"):
        load_model(tmp_path / "m.safetensors")
    assert_is_seed(load_model(tmp_path / "m.safetensors", vae=tmp_path / "vae.safetensors"), 1)


def write_vae(path: Path, layout: str) -> Path:
    from engine.models.original_layout import vae_to_original

    vae = original(5).vae
    state = {name: tensor.contiguous() for name, tensor in vae.state_dict().items()}
    match layout:
        case "folder":
            vae.save_pretrained(path)
            return path
        case "diffusers":
            save_file(state, path)
        case "original":
            named = vae_to_original(state)
            bare = {name.removeprefix("first_stage_model."): t for name, t in named.items()}
            save_file(bare, path)
        case "ckpt":
            torch.save({"state_dict": vae_to_original(state)}, path)
    return path


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("folder", "vae"),
        ("diffusers", "a.safetensors"),
        ("original", "b.safetensors"),
        ("ckpt", "c.pt"),
    ],
)
def test_another_vae_takes_the_place_of_the_own(
    tmp_path: Path, tiny_file: Path, shared_model: BaseModel, layout: str, name: str
) -> None:
    model: Any = load_model(tiny_file, vae=write_vae(tmp_path / name, layout))
    assert same_weights(model.vae, original(5).vae)
    assert same_weights(model.unet, original(1).unet)
    assert model.vae_hash != shared_model.vae_hash
    assert model.te_hash == shared_model.te_hash
    assert model.sha256 == shared_model.sha256


def test_what_is_no_vae_is_refused(tmp_path: Path, tiny_file: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    for path in (tmp_path / "x.safetensors", tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(ModelError) as error:
            load_model(tiny_file, vae=path)
        assert error.value.problems[0].path == "model.vae"


@pytest.fixture
def tiny_sizes_for_ckpt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A .ckpt has no header that could tell heads and groups of the tiny model."""
    plain = source.header_of
    monkeypatch.setattr(source, "header_of", lambda tensors: Header(plain(tensors).tensors, HEADER))


@pytest.mark.usefixtures("tiny_sizes_for_ckpt")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_ckpt_as_trainers_write_it_is_read(tmp_path: Path, tiny_file: Path, zipped: bool) -> None:
    """With numpy numbers and the framework's own class among the keys, in both torch formats."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module, callback = types.ModuleType(name), type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    content = {
        "epoch": 3,
        "best": np.float64(0.5),
        "state_dict": OrderedDict(load_file(tiny_file)),
        "callbacks": {callback: {"scores": [np.int64(7), np.float32(0.5)]}},
    }
    path = tmp_path / "m.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
        patch.setitem(sys.modules, "pytorch_lightning.callbacks", types.ModuleType("callbacks"))
        patch.setitem(sys.modules, name, module)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    model = load_model(path)
    assert (model.facts.layout, model.facts.family) == ("ckpt", "sd1")
    assert_is_seed(model, 1)


class Trap:
    """Runs `touch` when it is unpickled the careless way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_ckpt_is_refused_and_nothing_runs(tmp_path: Path, zipped: bool) -> None:
    victim = tmp_path / "victim"
    content = {"state_dict": {"x": torch.zeros(1)}, "trap": Trap(victim)}
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="could run code"):
        load_model(tmp_path / "m.ckpt")
    assert not victim.exists()
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(Trap(victim)))
    with pytest.raises(ModelError):
        load_model(tmp_path / "bare.ckpt")
    assert not victim.exists()


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04 and nothing else", b"\x80\x02junk"])
def test_a_ckpt_that_is_no_checkpoint_is_said(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "m.ckpt").write_bytes(body)
    with pytest.raises(ModelError):
        load_model(tmp_path / "m.ckpt")


def test_a_file_cut_off_while_copied_is_said(tmp_path: Path, tiny_file: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(tiny_file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cut off"):
        load_model(tmp_path / "m.safetensors")


def test_v_prediction_comes_from_the_mark_or_the_choice(tmp_path: Path, tiny_file: Path) -> None:
    marked = load_model(write_tiny_sd1(tmp_path / "m.safetensors", prediction="v"))
    assert marked.prediction == "v" and "v_pred" in marked.prediction_source
    chosen = load_model(tiny_file, prediction="v")
    assert chosen.prediction == "v" and chosen.prediction_source == "your choice"
    assert chosen.facts.prediction == "v"


def test_hashes_know_contents_not_paths(
    tmp_path: Path, tiny_file: Path, shared_model: BaseModel, tiny_folder: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(tiny_file.read_bytes())
    again = load_model(copy)
    assert again.sha256 == shared_model.sha256
    folder = load_model(tiny_folder)
    assert (folder.vae_hash, folder.te_hash) == (shared_model.vae_hash, shared_model.te_hash)
    half = load_model(tiny_file, dtype=torch.bfloat16)
    assert half.te_hash != shared_model.te_hash, "its outputs differ, so its cache must"
    assert half.vae_hash == shared_model.vae_hash, "the VAE runs in fp32 always"


def test_nothing_is_printed(tiny_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(tiny_file)
    assert capfd.readouterr() == ("", "")


def test_the_models_own_generator_draws_nothing(tiny_file: Path) -> None:
    before: Tensor = torch.random.get_rng_state()
    load_model(tiny_file)
    assert torch.equal(before, torch.random.get_rng_state())
