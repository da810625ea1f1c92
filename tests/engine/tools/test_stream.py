"""Files are written as safetensors writes them, and read tensor by tensor."""

import os

import pytest
import torch
from safetensors.torch import load_file, save

from engine.errors import EnvironmentFault, NetworkFileError
from engine.networks.files import network_hashes
from engine.tools.stream import BLANK_HASHES, Spool, TensorFile, check_room

TENSORS = {
    "b.alpha": torch.tensor(2.0),
    "b.weight": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).half(),
    "a.weight": torch.randn(4, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "a.on_input": torch.tensor(1),
    "c.empty": torch.zeros(0, 3),
}


def spooled(path, tensors, metadata):
    with Spool(path) as spool:
        for name, tensor in tensors.items():
            spool.add(name, tensor)
        return spool.write(metadata, force=False)


def test_the_bytes_are_those_of_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    size = spooled(path, TENSORS, {})
    body = path.read_bytes()
    hashes = network_hashes(TENSORS, {})
    theirs = save(TENSORS, hashes)
    assert size == len(body) == len(theirs)
    start = 8 + int.from_bytes(body[:8], "little")
    assert body[start:] == theirs[start:]
    with TensorFile(path, NetworkFileError) as file:
        assert file.header.metadata == hashes
        assert list(file.entries) == list(load_file(path))
        for name, tensor in TENSORS.items():
            assert torch.equal(file.read(name), tensor)
            assert (
                b"".join(file.pieces(name)) == tensor.numpy().tobytes()
                if tensor.dtype not in (torch.bfloat16,)
                else True
            )


def test_the_older_hash_is_of_the_window_behind_the_first_megabyte(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {"a.weight": torch.randn(600_000, generator=generator)}
    metadata = {"ss_x": "é" * 50, "other": "y" * 3000}
    path = tmp_path / "x.safetensors"
    spooled(path, tensors, metadata)
    with TensorFile(path, NetworkFileError) as file:
        told = {key: file.header.metadata[key] for key in BLANK_HASHES}
    assert told == network_hashes(tensors, metadata)


def test_a_name_is_written_once(tmp_path):
    with Spool(tmp_path / "x.safetensors") as spool, pytest.raises(ValueError, match="twice"):
        spool.add("a", torch.zeros(1))
        spool.add("a", torch.zeros(1))


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(EnvironmentFault, match="needs"):
        check_room(tmp_path / "x.safetensors", 10**16)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault):
        Spool(tmp_path / "file" / "x.safetensors")


def overwritten(path):
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    os.utime(path, ns=(1, 1))


def test_a_file_that_is_overwritten_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    spooled(path, TENSORS, {})
    with TensorFile(path, NetworkFileError) as file:
        file.read("b.weight")
        overwritten(path)
        with pytest.raises(NetworkFileError, match="changed while it was read"):
            file.read("b.weight")
        with pytest.raises(NetworkFileError, match="changed while it was read"):
            list(file.pieces("b.weight"))


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path):
    path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    spooled(path, TENSORS, {})
    spooled(other, {"z": torch.zeros(2)}, {})
    with TensorFile(path, NetworkFileError) as file:
        other.replace(path)
        assert torch.equal(file.read("b.weight"), TENSORS["b.weight"])
