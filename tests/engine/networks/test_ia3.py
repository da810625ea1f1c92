"""What is special about (IA)³: the bias is left alone, the layer runs once, the flag in the file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.errors import NetworkFileError
from engine.networks.choice import Choice
from engine.networks.network import from_file
from tests.engine.networks.layers import KINDS, make_input, make_model, make_network, stir

OUT = Choice("ia3", "full", 1.0)
IN = replace(OUT, train_on_input=True)
BOTH = pytest.mark.parametrize("choice", [OUT, IN], ids=["out", "in"])
EVERY = pytest.mark.parametrize("kind", KINDS)


class Products(TorchDispatchMode):
    """Counts matrix products and convolutions, and remembers how large the tensors made are."""

    NAMES = ("mm", "addmm", "bmm", "convolution", "mkldnn_linear", "convolution_backward")

    def __init__(self):
        super().__init__()
        self.count = 0
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        self.count += name in self.NAMES
        views = ("t", "view", "transpose", "reshape", "_unsafe_view", "detach", "expand")
        if isinstance(out, torch.Tensor) and name not in views:
            self.made.add(tuple(out.shape))
        return out


def only(network):
    (adapter,) = network.adapters.values()
    return adapter


@torch.no_grad()
@EVERY
@BOTH
def test_every_row_or_column_has_its_number_and_the_bias_none(choice, kind):
    model = make_model(kind)
    adapter = only(stir(make_network(model, choice)))
    numbers = adapter.tensors()["weight"].flatten()
    weight = model.layer.weight
    wanted = torch.zeros_like(weight)
    for out in range(weight.shape[0]):
        for in_ in range(weight.shape[1]):
            number = numbers[in_] if choice.train_on_input else numbers[out]
            wanted[out, in_] = weight[out, in_] * number

    torch.testing.assert_close(adapter.delta(), wanted)
    assert adapter.bias_delta() is None
    count = weight.shape[1] if choice.train_on_input else weight.shape[0]
    shape = (count,) if kind == "linear" else (1, count, 1, 1)
    assert tuple(adapter.tensors()["weight"].shape) == shape


@EVERY
@BOTH
def test_a_large_bias_is_not_scaled(choice, kind):
    model = make_model("linear" if kind == "linear" else "conv1x1")
    with torch.no_grad():
        model.layer.weight.zero_()
        model.layer.bias.fill_(7.0)
    network = stir(make_network(model, choice))
    network.inject()
    out = model(make_input("linear" if kind == "linear" else "conv1x1"))

    torch.testing.assert_close(out, torch.full_like(out, 7.0))


@EVERY
@BOTH
def test_the_layer_runs_once_and_nothing_of_its_size_is_made(choice, kind):
    model, x = make_model(kind), make_input(kind, rows=5).requires_grad_()
    with Products() as bare:
        model(x).sum().backward()
    network = stir(make_network(model, choice))
    network.inject()
    with Products() as adapted:
        model(x).sum().backward()

    # A convolution whose inputs are scaled runs once more each way: its change is a sum beside it.
    extra = 2 if choice.train_on_input and kind != "linear" else 0
    assert adapted.count == bare.count + extra
    assert bare.count == 2
    shape = tuple(model.layer.weight.shape)
    assert shape not in adapted.made
    assert (shape[1], shape[0]) not in adapted.made


@torch.no_grad()
def test_scaled_inputs_survive_in_the_output_of_a_bf16_layer():
    # x (1 + 1e-3 w) in bf16 is x again, for nearly every number.
    torch.manual_seed(0)
    model = make_model("linear", torch.bfloat16)
    model.layer = nn.Linear(256, 256).to(torch.bfloat16).requires_grad_(False)
    adapter = only(stir(make_network(model, IN), 1e-3))
    x = torch.randn(512, 256).bfloat16()
    base = model(x).double()
    adapter.inject()
    wanted = x.double() @ adapter.delta().double().t()

    found = model(x).double() - base
    assert float((found * wanted).sum() / wanted.square().sum()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
@pytest.mark.parametrize("shape", [(), (1,)])
@BOTH
def test_the_flag_is_read_in_any_type_and_written_as_int64(choice, shape, dtype):
    model = make_model("linear")
    tensors = stir(make_network(model, choice)).tensors()
    assert tensors["lora_unet_layer.on_input"].dtype == torch.int64
    assert tensors["lora_unet_layer.on_input"].shape == ()
    assert set(tensors) == {"lora_unet_layer.weight", "lora_unet_layer.on_input"}
    other = dict(tensors)
    other["lora_unet_layer.on_input"] = tensors["lora_unet_layer.on_input"].to(dtype).view(shape)

    again = from_file({"unet": model}, other, {}).tensors()

    assert again["lora_unet_layer.on_input"].dtype == torch.int64
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_flag_and_numbers_decide_in_a_square_layer():
    model = make_model("linear")
    model.layer = nn.Linear(24, 24).requires_grad_(False)
    deltas = []
    for choice in (OUT, IN):
        network = stir(make_network(model, choice))
        deltas.append(only(from_file({"unet": model}, network.tensors(), {})).delta())
        torch.testing.assert_close(deltas[-1], only(network).delta())
    assert not torch.equal(*deltas)


@pytest.mark.parametrize(
    ("suffix", "tensor"),
    [
        ("weight", torch.zeros(7)),
        ("weight", torch.zeros(6, 6)),
        ("on_input", torch.tensor(1)),
        ("on_input", torch.tensor(0.5)),
        ("on_input", torch.tensor(float("nan"))),
        ("on_input", torch.tensor([0, 0])),
    ],
)
def test_tensors_that_do_not_fit_are_refused(suffix, tensor):
    model = make_model("linear")
    tensors = make_network(model, OUT).tensors() | {f"lora_unet_layer.{suffix}": tensor}

    with pytest.raises(NetworkFileError):
        from_file({"unet": model}, tensors, {})


@torch.no_grad()
@EVERY
@BOTH
def test_max_norm_scales_the_numbers_alone(choice, kind):
    network = stir(make_network(make_model(kind), choice))
    adapter = only(network)
    before = adapter.tensors()["weight"].clone()
    norm = float(adapter.delta().norm())

    network.apply_max_norm(norm / 4)

    torch.testing.assert_close(adapter.tensors()["weight"], before / 4)
    assert adapter.size.alpha is None


def test_a_resumed_state_brings_its_direction_along():
    model = make_model("linear")
    model.layer = nn.Linear(24, 24).requires_grad_(False)
    one, other = stir(make_network(model, IN)), stir(make_network(model, OUT), seed=9)
    other.load_training_state(one.training_state())

    x = make_input("linear")
    torch.testing.assert_close(only(other).change(x, 1.0), only(one).change(x, 1.0))
