"""The committed demo base, rebuilt as the single-file checkpoint that it stands for. No torch.

The asset holds every tensor of the checkpoint but the token table; of that it holds the rows that
training touched. The other rows come from a byte stream (`token_table`): they must be random, not
zero, or else unseen words would all mean the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open

from engine.checkpoint.atomic import file_sha256, sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.float16]]

TABLE_SEED = b"lyctui demo base: rows of words that training never met"
TABLE_LIMIT = 0.0866  # uniform in +-limit: standard deviation 0.05
TABLE_ROWS = 49408
TABLE_NAME = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
ROW_IDS_NAME = "token_rows.ids"
ROW_VALUES_NAME = "token_rows.values"
CONFIG_KEY = "lyctui.model_config"
SHA256_KEY = "lyctui.unpacked_sha256"


def asset_path() -> Path:
    return Path(str(files("presets") / "demo" / "base.safetensors"))


def token_table(rows: int, width: int) -> NDArray[np.float16]:
    """Uniform values from a byte stream that no library version can change.

    SHAKE-256 of TABLE_SEED, read as little-endian 16-bit numbers n, row by row; the value is
    (n - 32767.5) / 32768 x TABLE_LIMIT in double precision, rounded to half.
    """
    stream = hashlib.shake_256(TABLE_SEED).digest(rows * width * 2)
    numbers = np.frombuffer(stream, dtype="<u2").astype(np.float64)
    values = (numbers - 32767.5) / 32768 * TABLE_LIMIT
    return values.astype(np.float16).reshape(rows, width)


def with_whole_table(
    tensors: Tensors, row_ids: NDArray[np.int32], row_values: NDArray[np.float16]
) -> dict[str, NDArray[np.float16]]:
    table = token_table(TABLE_ROWS, row_values.shape[1])
    table[row_ids] = row_values
    return {**tensors, TABLE_NAME: table}


def checkpoint_bytes(tensors: Tensors, model_config: str) -> bytes:
    """A safetensors file whose bytes depend on its content alone: names sorted, no gaps.

    Written here because a library may order header and metadata as it likes, and the checksum
    of the unpacked file is part of the asset.
    """
    entries: dict[str, object] = {"__metadata__": {CONFIG_KEY: model_config, "format": "pt"}}
    offset = 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        shape = list(tensors[name].shape)
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    body = b"".join(tensors[name].astype("<f2").tobytes() for name in sorted(tensors))
    return len(header).to_bytes(8, "little") + header + body


def rebuild(asset: Path) -> bytes:
    """The bytes of the whole checkpoint."""
    with safe_open(asset, framework="numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    row_ids, row_values = stored.pop(ROW_IDS_NAME), stored.pop(ROW_VALUES_NAME)
    return checkpoint_bytes(with_whole_table(stored, row_ids, row_values), metadata[CONFIG_KEY])


def expected_sha256(asset: Path) -> str:
    with safe_open(asset, framework="numpy") as file:
        return str(file.metadata()[SHA256_KEY])


def unpack_base(cache_dir: Path) -> Path:
    """The demo checkpoint in the cache folder: made if it is missing, made again if damaged."""
    asset = asset_path()
    expected = expected_sha256(asset)
    target = cache_dir / f"demo-base-{expected[:12]}.safetensors"
    if target.is_file() and file_sha256(target) == expected:
        return target
    content = rebuild(asset)
    assert hashlib.sha256(content).hexdigest() == expected, "the asset does not match its checksum"
    write_whole(target, content)
    return target


def write_whole(target: Path, content: bytes) -> None:
    """Temporary name, then rename: another process sees the whole file or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        sync_file(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
