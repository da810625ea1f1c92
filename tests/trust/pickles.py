"""Hostile pickles and archives, put together byte by byte as no pickler would."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MAGIC = 0x1950A86A20F9469CFC6C


class Call:
    """Unpickles into a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def proto(body: bytes, version: int = 2) -> bytes:
    return b"\x80" + bytes([version]) + body + b"."


def touch(canary: Path) -> str:
    return f"touch '{canary}'"


def acting(canary: Path) -> dict[str, bytes]:
    """Pickles that would make `canary`, were they obeyed."""
    shell = touch(canary)
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    pair = text(shell) + b"\x85"
    return {
        "os.system by reduce": pickle.dumps(Call(os.system, shell), 2),
        "eval": pickle.dumps(Call(builtins.eval, code), 2),
        "exec": pickle.dumps(Call(builtins.exec, code), 2),
        "getattr of a module": pickle.dumps(Call(getattr, OrderedDict, "fromkeys"), 2),
        "open": pickle.dumps(Call(builtins.open, str(canary), "w"), 2),
        "beside tensors": pickle.dumps({"state_dict": {}, "x": Call(os.system, shell)}, 2),
        "protocol 0": pickle.dumps(Call(os.system, shell), 0),
        "protocol 4": pickle.dumps(Call(os.system, shell), 4),
        "protocol 5": pickle.dumps(Call(os.system, shell), 5),
        "INST": f"(S{shell!r}\nios\nsystem\n.".encode(),
        "OBJ": proto(b"(" + name("os", "system") + text(shell) + b"o"),
        "NEWOBJ": proto(name("subprocess", "Popen") + text(shell) + b"\x85\x81"),
        "NEWOBJ_EX": proto(name("subprocess", "Popen") + pair + b"}\x92", 4),
        "STACK_GLOBAL": proto(b"\x8c\x02os\x8c\x06system\x93" + pair + b"R", 4),
        "EXT1": proto(b"\x82\x01" + pair + b"R"),
        "BUILD with a state": proto(
            name("torch.nn.modules.module", "Module") + b")\x81}" + text("__call__") + pair + b"sb"
        ),
        "torch.load": proto(name("torch", "load") + text(str(canary)) + b"\x85R"),
        "torch.jit.load": proto(name("torch.jit", "load") + text(str(canary)) + b"\x85R"),
        "torch.hub": proto(name("torch.hub", "load") + text(str(canary)) + b"\x85R"),
        "torch through a dotted name": proto(name("torch", "serialization.load") + pair + b"R"),
        "numpy": proto(name("numpy", "load") + text(str(canary)) + b"\x85R"),
        "a storage of any size": proto(
            name("torch.storage", "UntypedStorage") + b"J\xff\xff\xff\x7f\x85R"
        ),
        "an array of any size": proto(name("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R"),
        "a tensor of any size": proto(name("torch", "Tensor") + b"J\xff\xff\xff\x7f\x85R"),
        "an encoder in rounds": proto(
            name("_codecs", "encode") * 40
            + text("a")
            + (text("hex") + b"\x86R") * 40
        ),
        "a name with a space": proto(b"ctorch load\n_utils\n" + pair + b"R"),
    }  # fmt: skip


def bloated() -> dict[str, bytes]:
    """Pickles without a call that would take the memory or the day."""
    doubled = text("a") + b"".join(b"q%c0h%ch%c\x86" % (n, n, n) for n in range(60))
    key = doubled + b"q\xffN"
    return {
        "a key that doubles": proto(b"}" + key + b"s"),
        "keys that double": proto(b"}(" + key + b"u"),
        "a storage's name that doubles": proto(doubled + b"Q"),
        "lists of lists": proto(b"]" * 3_000_000),
        "lists that hold each other": proto(
            b"]" + b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(200))
        ),
        "a text of 4 GB": proto(b"X\xff\xff\xff\xff" + b"a" * 20),
        "a text of 2**63 bytes": proto(b"\x8d" + struct.pack("<Q", 2**63) + b"a", 4),
        "an endless number": proto(b"\x8b\xff\xff\xff\x7f" + b"\x01" * 1000),
        "a number in digits": b"L" + b"9" * 1_000_000 + b"L\n.",
        "a memo of 2**32": proto(b"]r\xff\xff\xff\xff"),
        "nothing on the stack": proto(b"R"),
        "no end": b"\x80\x02}q",
        "a mark that is missing": proto(b"}u"),
        "a number as content": proto(b"K\x05"),
        "own methods": proto(
            name("collections", "OrderedDict") + b")R}" + text("get") + b"K\x05sb"
        ),
    }  # fmt: skip


def zipped(content: bytes, packing: int = zipfile.ZIP_STORED, **others: bytes) -> bytes:
    """A checkpoint of today around a pickle."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packing) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for entry, body in others.items():
            archive.writestr(entry, body)
        archive.writestr("archive/version", "3\n")
    return made.getvalue()


def legacy(content: bytes) -> bytes:
    """A checkpoint from before torch 1.6 around a pickle."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    before = [pickle.dumps(each, 2) for each in (MAGIC, 1001, machine)]
    return b"".join([*before, content, pickle.dumps([], 2)])


def saved(content: object, **options: Any) -> bytes:
    """What torch writes."""
    made = io.BytesIO()
    torch.save(content, made, **options)
    return made.getvalue()
