"""Files of strangers: refused in words or read as they are, never believed, never a traceback."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from engine.errors import EngineError, ModelError, NetworkFileError
from engine.models.headers import read_header as read_model_header
from engine.networks.content import read_content
from engine.networks.files import read_network, write_network
from engine.networks.headers import read_header
from engine.networks.kinds import RANK_FROM
from engine.networks.layouts import sort_out
from engine.networks.network import from_file
from engine.networks.reading import grouped
from engine.safetensors_header import LONGEST_HEADER
from tests.engine.networks.layers import (
    CHOICES,
    KINDS,
    Transformer2DModel,
    make_model,
    make_network,
    stir,
)

QUIET = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
Tensors = dict[str, torch.Tensor]


def is_inert(error: EngineError) -> bool:
    return all(char.isprintable() or char == "\n" for char in str(error))


def file_of(header: object, body: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(start: int = 0, end: int = 64, **changed: Any) -> dict[str, Any]:
    sides = [(end - start) // 4]
    return {"dtype": "F32", "shape": sides, "data_offsets": [start, end]} | changed


GOOD = '{"dtype":"F32","shape":[16],"data_offsets":[0,64]}'
LIES: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\2\0\0\0\0\0\0",
    "no header": struct.pack("<Q", 0) + b"\0" * 64,
    "header beyond the file": struct.pack("<Q", 10**6) + b"{}",
    "header of 2**63": struct.pack("<Q", 2**63) + b"{}",
    "header of 2**64-1": b"\xff" * 8 + b"{}",
    "no JSON": file_of(b"not json at all"),
    "half a JSON": file_of(b'{"a":'),
    "two JSON": file_of(b"{}{}"),
    "a list": file_of([1, 2]),
    "a number": file_of(7),
    "bomb of lists": file_of(b"[" * 200_000),
    "bomb of tables": file_of(b'{"a":' * 100_000),
    "bomb in metadata": file_of(b'{"__metadata__":' + b'{"a":' * 100_000),
    "number bomb": file_of(b'{"x":{"dtype":"F32","shape":[' + b"9" * 10_000 + b"]}}"),
    "not UTF-8": file_of(b'{"\xff\xfe":' + GOOD.encode() + b"}"),
    "UTF-16": file_of(f'{{"x":{GOOD}}}'.encode("utf-16")),
    "byte order mark": file_of(b"\xef\xbb\xbf" + f'{{"x":{GOOD}}}'.encode()),
    "half a character": file_of(f'{{"\\ud800":{GOOD}}}'.encode()),
    "tensor twice": file_of(f'{{"x":{GOOD},"x":{GOOD}}}'.encode()),
    "metadata twice": file_of(f'{{"__metadata__":{{}},"x":{GOOD},"__metadata__":{{}}}}'.encode()),
    "dtype twice": file_of(b'{"x":' + GOOD.replace("{", '{"dtype":"F16",').encode() + b"}"),
    "no entry": file_of({"x": None}),
    "text for an entry": file_of({"x": "y"}),
    "no offsets": file_of({"x": {"dtype": "F32", "shape": [16]}}),
    "one offset": file_of({"x": entry(data_offsets=[64])}),
    "three offsets": file_of({"x": entry(data_offsets=[0, 64, 64])}),
    "offsets outside": file_of({"x": entry(0, 640)}),
    "offsets backwards": file_of({"x": entry(data_offsets=[64, 0])}),
    "offsets below zero": file_of({"x": entry(data_offsets=[-64, 0])}),
    "offsets with a fraction": file_of({"x": entry(data_offsets=[0.0, 64.0])}),
    "offsets as text": file_of({"x": entry(data_offsets=["0", "64"])}),
    "offsets of 2**70": file_of({"x": entry(data_offsets=[2**70, 2**70 + 64])}),
    "shape of another size": file_of({"x": entry(shape=[5, 5])}),
    "shape of 2**80": file_of({"x": entry(shape=[2**40, 2**40])}),
    "shape of 2**64": file_of({"x": entry(shape=[2**32, 2**32, 4])}),
    "shape of nothing times much": file_of({"x": entry(0, 0, shape=[0, 2**63])}, b""),
    "shape below zero": file_of({"x": entry(shape=[-4, -4])}),
    "shape of truth": file_of({"x": entry(shape=[True, 16])}),
    "shape of fractions": file_of({"x": entry(shape=[4.0, 4.0])}),
    "shape as text": file_of({"x": entry(shape="16")}),
    "shape of 500 axes": file_of({"x": entry(shape=[1] * 499 + [16])}),
    "dtype of nobody": file_of({"x": entry(dtype="F99")}),
    "dtype with escapes": file_of({"x": entry(dtype="\x1b[31mF32")}),
    "dtype as list": file_of({"x": entry(dtype=["F32"])}),
    "overlap": file_of({"x": entry(0, 40), "y": entry(24, 64)}),
    "the same place": file_of({"x": entry(), "y": entry()}),
    "gap": file_of({"x": entry(0, 24), "y": entry(40, 64)}),
    "overlap that fills a gap": file_of({"x": entry(0, 24), "y": entry(0, 16), "z": entry(40, 64)}),
    "gap before the first": file_of({"x": entry(8, 64)}),
    "more data than told": file_of({"x": entry(0, 32)}),
    "data of nobody": file_of({}),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers_are_refused_by_networks_and_models(lie: str, tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(LIES[lie])
    readers: list[tuple[Callable[[Path], object], type[EngineError]]] = [
        (read_header, NetworkFileError),
        (read_network, NetworkFileError),
        (read_content, NetworkFileError),
        (read_model_header, ModelError),
    ]
    for read, kind in readers:
        with pytest.raises(kind) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert is_inert(caught.value)


def test_a_header_longer_than_any_real_one_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", LONGEST_HEADER + 1))
        file.truncate(2 * LONGEST_HEADER)  # a sparse file: no disk, no memory
    with pytest.raises(NetworkFileError, match="not a whole"):
        read_header(path)


def test_folders_pipes_and_names_that_cannot_be_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, tmp_path / "gone", Path("a\0b"), Path("/dev/zero")):
        for read, kind in ((read_header, NetworkFileError), (read_model_header, ModelError)):
            with pytest.raises(kind, match="cannot be read") as caught:
                read(path)
            assert is_inert(caught.value)


def test_a_file_name_with_escapes_is_shown_without_them(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mred\x07.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(NetworkFileError) as caught:
        read_network(path)
    assert is_inert(caught.value)


SIDES = st.lists(st.integers(-1, 5) | st.integers(2**31, 2**65), max_size=4)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "F8_E4M3", "BOOL", "F7", 4]),
        "shape": SIDES | st.just("4"),
        "data_offsets": st.lists(st.integers(-8, 80), min_size=1, max_size=3),
    },
)


@st.composite
def whole_entries(draw: st.DrawFn) -> dict[str, Any]:
    """Tensors that follow each other as they should, at times pushed out of place."""
    found: dict[str, Any] = {}
    place = 0
    for name in draw(st.lists(st.text(max_size=8), max_size=5, unique=True)):
        count = draw(st.integers(0, 4))
        end = place + 4 * count
        shift = draw(st.sampled_from([0, 0, 0, 0, 4, -4]))
        found[name] = entry(place, end, shape=[count], data_offsets=[place + shift, end + shift])
        place = end
    return found


@settings(QUIET, max_examples=150)
@given(
    header=whole_entries() | st.dictionaries(st.text(max_size=8), ENTRIES, max_size=4),
    size=st.integers(0, 80),
    fits=st.booleans(),
)
def test_what_is_believed_is_what_the_format_allows(
    tmp_path: Path, header: dict[str, Any], size: int, fits: bool
) -> None:
    """The library that reads the tensors is the judge: it takes every file that we take."""
    ends = [item.get("data_offsets", [0])[-1] for item in header.values()]
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(header, bytes(max([0, *ends]) if fits else size)))
    try:
        ours = read_header(path)
        assert set(read_model_header(path).tensors) == set(ours.entries)
    except EngineError as error:
        assert is_inert(error)
        return
    with safe_open(path, "pt") as theirs:
        assert set(theirs.keys()) == set(ours.entries)
        for name, shape in ours.shapes.items():
            assert tuple(theirs.get_slice(name).get_shape()) == shape


def test_sound_files_of_the_library_are_believed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(0), "ü": torch.ones(())}, path, {"k": "v"})
    assert read_header(path).shapes == {"a": (2, 3), "b": (0,), "ü": ()}
    assert set(read_model_header(path).tensors) == {"a", "b", "ü"}


# Numbers ----------------------------------------------------------------------------------------

LORA = {
    "lora_unet_layer.lora_up.weight": torch.ones(36, 2),
    "lora_unet_layer.lora_down.weight": torch.ones(2, 24),
}
UP = "lora_unet_layer.lora_up.weight"
ALPHA = "lora_unet_layer.alpha"


def refusal(tensors: Tensors, tmp_path: Path, metadata: dict[str, str] | None = None) -> str:
    """What is said of the file by all that reads it; at least one must refuse."""
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata)
    said = []
    try:
        read_content(path)
    except NetworkFileError as error:
        said.append(error)
    with pytest.raises(NetworkFileError) as caught:
        file = read_network(path)
        from_file({"unet": make_model("linear")}, file.tensors, file.metadata)
    said.append(caught.value)
    assert all(map(is_inert, said))
    return " ".join(map(str, said))


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int16", "int64", "bool"]
)
def test_weights_in_formats_of_no_network_are_refused(dtype: str, tmp_path: Path) -> None:
    said = refusal(LORA | {UP: torch.ones(36, 2).to(getattr(torch, dtype))}, tmp_path)
    assert "in a number format of no network" in said
    assert UP in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_with_the_module(
    dtype: torch.dtype, number: float, tmp_path: Path
) -> None:
    bad = torch.ones(36, 2, dtype=dtype)
    bad[7, 1] = number
    said = refusal(LORA | {UP: bad}, tmp_path)
    assert "1 of 2 tensors hold numbers that are not finite" in said
    assert UP in said


ALPHAS = {
    "nan": torch.tensor(float("nan")),
    "inf": torch.tensor(float("inf")),
    "half inf": torch.tensor(float("-inf"), dtype=torch.float16),
    "negative": torch.tensor(-4.0),
    "negative whole": torch.tensor(-4),
    "vector": torch.tensor([1.0, 2.0]),
    "matrix": torch.ones(2, 2),
    "empty": torch.ones(0),
    "float8": torch.tensor(1.0).to(torch.float8_e4m3fn),
    "truth": torch.tensor(True),
}


@pytest.mark.parametrize("alpha", ALPHAS)
def test_an_alpha_that_cannot_be_is_refused_with_its_module(alpha: str, tmp_path: Path) -> None:
    assert "lora_unet_layer" in refusal(LORA | {ALPHA: ALPHAS[alpha]}, tmp_path)


@pytest.mark.parametrize("shape", [(0, 2), (36, 0), (0,), (0, 0), (36, 2, 0, 0)])
def test_tensors_without_elements_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    assert "is empty" in refusal(LORA | {UP: torch.ones(shape)}, tmp_path)
    empty = {key: torch.ones(shape) for key in LORA}
    assert "is empty" in refusal(empty, tmp_path)


# Shapes of every algorithm ----------------------------------------------------------------------


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda t: t.transpose(0, -1) if t.dim() else t[None],
    "one row less": lambda t: t[:-1] if t.dim() else t.repeat(2),
    "one column less": lambda t: t[..., :-1] if t.dim() else t.repeat(3),
    "one row more": lambda t: torch.cat([t, t[:1]]) if t.dim() else t[None, None],
    "twice as wide": lambda t: torch.cat([t, t], -1) if t.dim() else t.repeat(2),
    "flat": lambda t: t.flatten(),
    "an axis more": lambda t: t[None],
    "an axis at the end": lambda t: t[..., None],
    "one number": lambda t: t.flatten()[0].clone(),
    "one column": lambda t: t[..., :1] if t.dim() else t,
    "empty": lambda t: t.flatten()[:0],
    "five axes": lambda t: t.reshape(*t.shape, *(1,) * (5 - t.dim())) if t.dim() < 5 else t,
}


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_shapes_of_every_algorithm_fit_or_are_refused(kind: str) -> None:
    """What is accepted must work: the change has the layer's shape, and is saved again."""
    tried = 0
    for form, choice in CHOICES.items():
        try:
            tensors = stir(make_network(make_model(kind), choice)).tensors()
        except EngineError:
            continue  # this form has nothing to do on this kind of layer
        for key in tensors:
            for name, change in CHANGES.items():
                damaged = tensors | {key: change(tensors[key]).contiguous()}
                tried += 1
                _reads_or_refuses(kind, damaged, f"{form}, {name} {key}")
    assert tried > 100


def _reads_or_refuses(kind: str, tensors: Tensors, what: str) -> None:
    model = make_model(kind)
    try:
        network = from_file({"unet": model}, tensors, {})
    except NetworkFileError as error:
        assert is_inert(error), what
        return
    for member in network.members:
        weight = model.get_submodule(member.path).get_parameter("weight")
        assert member.adapter.delta().shape == weight.shape, what
    network.tensors()


@pytest.mark.parametrize(
    "norm", [torch.nn.LayerNorm(24), torch.nn.GroupNorm(4, 24), torch.nn.LayerNorm(36)]
)
def test_no_algorithm_of_layers_fits_a_norm_nor_the_other_way_round(norm: torch.nn.Module) -> None:
    for choice in CHOICES.values():
        tensors = stir(make_network(make_model("linear"), choice)).tensors()
        with pytest.raises(NetworkFileError):
            from_file({"unet": Transformer2DModel(norm)}, tensors, {})
    tensors = {f"lora_unet_layer.{suffix}": torch.ones(24) for suffix in ("w_norm", "b_norm")}
    with pytest.raises(NetworkFileError):
        from_file({"unet": make_model("linear")}, tensors, {})


def test_headers_alone_tell_wrong_shapes_without_failing() -> None:
    tensors = stir(make_network(make_model("linear"), CHOICES["lora"])).tensors()
    for change in CHANGES.values():
        for suffix in RANK_FROM:
            shapes = {key: tuple(change(tensor).shape) for key, tensor in tensors.items()}
            shapes |= {f"lora_unet_x.{suffix}": ()}
            found = sort_out(shapes, {})
            told = {module.name for module in found.modules}
            # Nothing vanishes: what is no module is left out by name.
            assert "lora_unet_layer" in told | {line.partition(" ")[0] for line in found.left_out}


# Names ------------------------------------------------------------------------------------------

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "[red]bold[/red]",
    "[/]",
    "../../../etc/passwd",
    "C:\\windows\\x",
    "\u202eevil",
    "a\nb",
    "a\x00b",
    "x" * 100_000,
    "." * 1000,
    "__metadata",
    "lora_unet_" + "_" * 5000,
    "unet." + "a." * 5000,
    "base_model.model." * 200,
    "{0.__class__}",
    "%s%n",
]
STARTS = ["", "lora_unet_", "lycoris_", "lora_te_", "unet.", "text_encoder.", "base_model.model."]
ENDS = [
    "",
    ".lora_up.weight",
    ".lora_A.weight",
    ".alpha",
    "_lora.down.weight",
    ".hada_w1_a",
    ".diff",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_shown_without_teeth(name: str, tmp_path: Path) -> None:
    for start in STARTS:
        for end in ENDS:
            key = f"{start}{name}{end}"
            try:
                network = from_file(
                    {"unet": make_model("linear")}, LORA | {key: torch.ones(1)}, {"ss_v2": name}
                )
                said = "\n".join(network.skipped)
            except NetworkFileError as error:
                said = str(error)
            assert all(char.isprintable() or char == "\n" for char in said)
            assert len(said) < 5000
    save_file(
        LORA | {f"lora_unet_{name}.lora_up.weight": torch.ones(1)}, tmp_path / "x.safetensors"
    )
    content = read_content(tmp_path / "x.safetensors")
    assert all(str(problem).isprintable() for problem in content.unknown)
    assert len(content.modules) == 1


NAMES = st.text(max_size=40) | st.builds(
    lambda start, middle, end: start + middle + end,
    st.sampled_from([*STARTS, "lora_te2_", "text_encoder_2.", "oft_unet_", "bundle_emb."]),
    st.text(max_size=8) | st.sampled_from(["layer", "attn1.processor.to_q", "to_out"]),
    st.sampled_from([*ENDS, ".lora_magnitude_vector", ".dora_scale", ".a1.weight"]),
)


@settings(QUIET, max_examples=200)
@given(
    names=st.lists(NAMES, max_size=8, unique=True),
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=8, max_size=8),
    metadata=st.dictionaries(
        st.sampled_from(
            ["lora_adapter_metadata", "ss_base_model_version", "modelspec.architecture"]
        ),
        st.text(max_size=20) | st.sampled_from(['{"lora_alpha": 2}', '{"unet.lora_alpha": []}']),
    ),
)
@example(["lora_unet_layer.dora_scale"], [[]] * 8, {})
@example(["unet.layer.lora_A.weight", "unet.layer.lora_magnitude_vector"], [[], [0]] * 4, {})
def test_any_names_shapes_and_metadata_are_read_or_refused(
    names: list[str], shapes: list[list[int]], metadata: dict[str, str]
) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in zip(names, shapes, strict=False)}
    for read in (
        lambda: from_file({"unet": make_model("linear")}, tensors, metadata),
        lambda: grouped(tensors, metadata),
    ):
        try:
            read()
        except NetworkFileError as error:
            assert is_inert(error)


# Real files, damaged ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_files() -> list[tuple[str, bytes]]:
    """A small file of every form of every algorithm."""
    found = []
    for choice in CHOICES.values():
        for kind in KINDS:
            with suppress(EngineError):  # this form has nothing to do on this kind of layer
                tensors = stir(make_network(make_model(kind), choice)).tensors(torch.float16)
                found.append((kind, save(tensors, {"ss_network_dim": "4"})))
    return found


@settings(QUIET, max_examples=250)
@given(data=st.data())
def test_flipped_and_cut_files_are_read_as_they_are_or_refused(
    real_files: list[tuple[str, bytes]], tmp_path: Path, data: st.DataObject
) -> None:
    kind, whole = data.draw(st.sampled_from(real_files))
    body = bytearray(whole)
    header = 8 + int.from_bytes(body[:8], "little")
    for _ in range(data.draw(st.integers(0, 4))):
        # Half of the blows fall on the header, which is a small part of the file.
        last = data.draw(st.sampled_from([header, len(body)])) - 1
        body[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)) | st.just(len(body)))
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(body[:cut]))
    try:
        read_content(path)
        file = read_network(path)
        network = from_file({"unet": make_model(kind)}, file.tensors, file.metadata)
    except NetworkFileError as error:
        assert is_inert(error)
        return
    finally:
        try:
            read_model_header(path)
        except ModelError as error:
            assert is_inert(error)
    write_network(tmp_path / "again.safetensors", network.tensors(), {})


def test_every_shorter_file_is_refused(tmp_path: Path) -> None:
    tensors = stir(make_network(make_model("linear"), CHOICES["lora"])).tensors(torch.float16)
    whole = save(tensors)
    path = tmp_path / "x.safetensors"
    for length in {*range(400), *range(400, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(NetworkFileError):
            read_network(path)
        with pytest.raises(ModelError):
            read_model_header(path)
