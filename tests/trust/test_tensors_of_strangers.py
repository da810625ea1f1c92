"""Damaged and lying .safetensors as base model, as state and as cache entry: refused, skipped or made again."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from engine.checkpoint.state import Identity, Place, State, list_states, read_newest, write_state
from engine.data.store import Store, content_key
from engine.errors import EngineError, ModelError, RunError
from engine.models.detect import inspect_model
from engine.models.headers import read_header
from engine.safetensors_header import LONGEST_HEADER
from tests.engine.networks.test_hostile_files import LIES
from tests.trust.bounded import bounded

QUIET = settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
UNET = "model.diffusion_model."
BASE = {
    f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
    f"{UNET}time_embed.0.weight": torch.zeros(8, 8),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(9, 8),
    "first_stage_model.decoder.conv_in.weight": torch.zeros(8, 4, 3, 3),
}
WHOLE = save(BASE, {"modelspec.prediction_type": "v", "format": "pt"})
KEY = content_key(of="a picture")


def changed(draw: st.DataObject, body: bytes) -> bytes:
    """Bytes changed, most in the header, and perhaps the end cut."""
    found = bytearray(body)
    header = 8 + int.from_bytes(found[:8], "little")
    for _ in range(draw.draw(st.integers(1, 5))):
        last = draw.draw(st.sampled_from([header, header, len(found)])) - 1
        found[draw.draw(st.integers(0, last))] = draw.draw(st.integers(0, 255))
    return bytes(found[: draw.draw(st.just(len(found)) | st.integers(0, len(found)))])


@given(data=st.data())
@QUIET
def test_a_changed_base_model_is_told_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "base.safetensors"
    path.write_bytes(changed(data, WHOLE))
    with bounded():
        try:
            facts = inspect_model(path)
        except ModelError as error:
            assert str(error).isprintable() or "\n" in str(error)
        else:
            assert facts.unet_parameters < 10_000


NAMES = st.sampled_from([*BASE, f"{UNET}out.2.weight", "conditioner.embedders.1.x", "v_pred", UNET])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 9, 320, 2**20, 2**48]), max_size=5)


@given(shapes=st.dictionaries(NAMES, SHAPES, max_size=6), told=st.text(max_size=40))
@QUIET
def test_any_shapes_of_a_base_model_are_told_or_refused(
    tmp_path: Path, shapes: dict[str, list[int]], told: str
) -> None:
    """Shapes with a zero side take no bytes, so any others may stand beside them."""
    table: dict[str, object] = {
        name: {"dtype": "F16", "shape": [0, *shape], "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }
    table["__metadata__"] = {"lyctui.model_config": told, "modelspec.prediction_type": told}
    text = json.dumps(table).encode()
    path = tmp_path / "base.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with bounded():
        try:
            inspect_model(path)
        except ModelError as error:
            assert error.problems


@pytest.mark.parametrize("length", [LONGEST_HEADER + 1, 100_000_000, 1 << 40])
def test_a_header_of_any_length_is_not_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "base.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{")
        file.truncate(min(length, 200_000_000) + 100)
    with bounded(mib=64), pytest.raises(ModelError):
        read_header(path)


@pytest.mark.parametrize("lie", LIES)
def test_lying_cache_entries_are_made_again(tmp_path: Path, lie: str) -> None:
    store = Store(tmp_path, limit_bytes=1 << 30)
    store.put(KEY, {"latents": torch.ones(4)})
    store.path(KEY).write_bytes(LIES[lie])
    with bounded():
        assert store.get(KEY) is None
    assert not store.path(KEY).exists()
    store.put(KEY, {"latents": torch.ones(4)})
    assert store.get(KEY) is not None


@given(data=st.data())
@QUIET
def test_a_changed_cache_entry_is_never_believed(tmp_path: Path, data: st.DataObject) -> None:
    store = Store(tmp_path, limit_bytes=1 << 30)
    wanted = {"latents": torch.arange(6.0).view(2, 3), "mask": torch.ones(2, dtype=torch.float16)}
    store.put(KEY, wanted)
    store.path(KEY).write_bytes(changed(data, store.path(KEY).read_bytes()))
    found = store.get(KEY)
    assert found is None or all(torch.equal(found[name], wanted[name]) for name in wanted)


def state() -> State:
    return State(
        place=Place(3, 1, 0),
        identity=Identity("recipe", "data", "base", 2, {"torch": "2"}, "x86"),
        network={"a": torch.ones(3, 4)},
        optimizer={"state": {0: {"step": torch.ones(())}}, "param_groups": [{"params": [0]}]},
        scaler={},
        session={},
    )


@pytest.mark.parametrize("resealed", [False, True])
@pytest.mark.parametrize("lie", LIES)
def test_lying_states_are_passed_over(tmp_path: Path, lie: str, resealed: bool) -> None:
    """Also where whoever made it wrote a manifest that fits."""
    states = tmp_path / "state"
    folder = write_state(states, state(), keep=2)
    body = LIES[lie]
    (folder / "network.safetensors").write_bytes(body)
    if resealed:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["network.safetensors"] = {
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with bounded():
        try:
            read_newest(states)
        except RunError as error:
            assert "\x1b" not in str(error)
        else:
            # The library may take what our own reader of headers refuses.
            assert resealed
    assert list_states(states) == [folder], "nothing of it was removed"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "a/b", "x\x00y", "\x1b[2J"])
def test_a_manifest_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    states = tmp_path / "state"
    folder = write_state(states, state(), keep=2)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = manifest["network.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError) as caught:
        read_newest(states)
    assert "\x1b" not in str(caught.value)
