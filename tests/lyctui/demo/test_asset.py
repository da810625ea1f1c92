"""The demo checkpoint is rebuilt from the asset, whole, once, and again when damaged."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from lyctui.demo import asset


def test_token_table_is_the_specified_stream() -> None:
    stream = hashlib.shake_256(asset.TABLE_SEED).digest(4)
    first, second = (int.from_bytes(stream[at : at + 2], "little") for at in (0, 2))
    expected = [np.float16((n - 32767.5) / 32768 * 0.0866) for n in (first, second)]
    table = asset.token_table(100, 64)
    assert (table.dtype, table.shape) == (np.float16, (100, 64))
    assert table[0, :2].tolist() == expected
    assert table.std() == pytest.approx(0.05, rel=0.03)
    assert (asset.token_table(50, 64) == table[:50]).all()


def test_unpacked_file_is_a_whole_checkpoint(tmp_path: Path) -> None:
    path = asset.unpack_base(tmp_path / "cache")
    with (
        safe_open(path, framework="numpy") as file,
        safe_open(asset.asset_path(), framework="numpy") as packed,
    ):
        names, stored = set(file.keys()), set(packed.keys())
        extra = {asset.ROW_IDS_NAME, asset.ROW_VALUES_NAME}
        assert names == (stored - extra) | {asset.TABLE_NAME}
        table = file.get_tensor(asset.TABLE_NAME)
        row_ids = packed.get_tensor(asset.ROW_IDS_NAME)
        assert (table[row_ids] == packed.get_tensor(asset.ROW_VALUES_NAME)).all()
        config = json.loads(file.metadata()[asset.CONFIG_KEY])
    assert table.shape == (asset.TABLE_ROWS, 64)
    assert (table.astype(np.float32).std(axis=1) > 0.01).all(), "rows of unseen words are random"
    assert set(config) == {"unet", "vae", "text_encoder"}
    assert asset.file_sha256(path) == asset.expected_sha256(asset.asset_path())


def test_second_call_leaves_the_file_alone(tmp_path: Path) -> None:
    path = asset.unpack_base(tmp_path)
    before = path.stat()
    assert asset.unpack_base(tmp_path) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    path = asset.unpack_base(tmp_path)
    content = bytearray(path.read_bytes())
    content[1_000_000] ^= 1
    path.write_bytes(content[:-100] if damage == "cut" else content)
    assert asset.unpack_base(tmp_path) == path
    assert asset.file_sha256(path) == asset.expected_sha256(asset.asset_path())


def test_asset_is_small_and_needs_no_torch() -> None:
    assert asset.asset_path().stat().st_size < 8_000_000
    code = "import sys, lyctui.demo.asset, lyctui.demo.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
