"""What a network file's header says, in this part's own error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import NetworkFileError
from engine.networks.headers import read_header, read_metadata, read_scalars

SCALARS = {
    "f64": torch.tensor(1.5, dtype=torch.float64),
    "f32": torch.tensor(1.5),
    "f16": torch.tensor([1.5], dtype=torch.float16),
    "bf16": torch.tensor([[1.5]], dtype=torch.bfloat16),
    "i64": torch.tensor(-3),
    "i8": torch.tensor(-3, dtype=torch.int8),
    "u8": torch.tensor(250, dtype=torch.uint8),
}


def test_numbers_of_every_format_are_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    others = {"many": torch.ones(2), "flag": torch.tensor(True), "none": torch.ones(0)}
    save_file({**SCALARS, **others}, path, {"a": "b"})
    header = read_header(path)

    assert read_scalars(header, [*SCALARS, *others]) == {
        name: tensor.item() for name, tensor in SCALARS.items()
    }
    assert read_scalars(header, ["f32"]) == {"f32": 1.5}
    assert read_metadata(path) == header.metadata == {"a": "b"}
    assert header.bytes == path.stat().st_size


def test_a_fault_is_an_error_of_networks_with_file_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(NetworkFileError) as caught:
        read_header(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert problem.remedy
