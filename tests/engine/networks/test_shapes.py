"""Planned tensors are those of the real network; file sizes are exact."""

from dataclasses import dataclass, replace

import pytest
import torch

from engine.errors import RecipeError
from engine.networks.choice import Choice
from engine.networks.files import write_network
from engine.networks.network import build
from engine.networks.overrides import Override
from engine.networks.shapes import file_bytes, parameter_count, planned_layers, planned_tensors
from engine.networks.targets import real_layers
from tests.engine.networks.layers import CHOICES
from tests.tiny import tiny_modules


@dataclass(frozen=True)
class Plan:
    component: str
    path: str
    out: int
    in_: int
    kernel: tuple[int, ...] = ()
    classes: tuple[str, ...] = ("Transformer2DModel",)
    kind: str = "linear"
    bias: bool = True


@pytest.fixture(scope="module")
def tiny():
    modules = tiny_modules()
    return {"unet": modules.unet, "te": modules.text_encoder}


@pytest.mark.parametrize("form", CHOICES)
def test_the_plan_is_the_network(tiny, form, tmp_path):
    choice = replace(CHOICES[form], targets="full")
    layers = [
        Plan(x.component, x.path, x.out, x.in_, x.kernel, x.classes, x.kind, x.bias)
        for x in real_layers(tiny)
    ]

    planned = planned_tensors(layers, choice)
    network = build(tiny, choice, seed=1)
    tensors = network.tensors(torch.float16)

    assert planned == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert parameter_count(planned_layers(layers, choice)) == network.count()
    path = tmp_path / "x.safetensors"
    write_network(path, tensors, {})
    assert abs(file_bytes(planned, "fp16", metadata_bytes=300) - path.stat().st_size) < 200


SCALED = {"lora", "locon", "loha", "lokr", "glora"}
OTHERS = (
    Override(r".*\.to_v", algorithm="t-lora", rank=2),
    Override(r".*\.to_out\.0", algorithm="diag-oft", rank=4, options={"rescaled": True}),
    Override(r".*\.to_k", algorithm="ia3"),
)


@pytest.mark.parametrize("form", CHOICES)
def test_trained_numbers_are_counted_layer_by_layer(tiny, form):
    """With norms, other kinds among the layers, and a scalar switched the other way in some."""
    choice = replace(CHOICES[form], targets="full", train_norm=True)
    overrides: tuple[Override, ...] = ()
    if choice.dora == "off":
        overrides += OTHERS
    if choice.algorithm in SCALED:
        overrides += (Override(r".*\.ff\..*", options={"scalar": not choice.scalar}),)
    choice = replace(choice, overrides=overrides)

    counted = parameter_count(planned_layers(real_layers(tiny), choice))

    assert counted == build(tiny, choice, seed=1).count()


def test_norms_beside_a_scalar_can_be_saved(tiny):
    """A norm has no factor to take a scalar, so it must not get one."""
    choice = Choice("lora", 4, 1.0, scalar=True, train_norm=True)
    tensors = build(tiny, choice, seed=1).tensors()

    assert any(name.endswith("w_norm") for name in tensors)


def test_a_scalar_for_some_layers_is_one_number_for_each_of_them(tiny):
    plain = Choice("lora", 4, 1.0)
    some = replace(plain, overrides=(Override(r".*\.to_q", options={"scalar": True}),))
    layers = real_layers(tiny)
    wanted = sum(layer.path.endswith(".to_q") for layer, _ in planned_layers(layers, plain))

    more = parameter_count(planned_layers(layers, some)) - parameter_count(
        planned_layers(layers, plain)
    )

    assert wanted > 0 and more == wanted


def test_conv_rank_zero_leaves_out_convolutions_beyond_one_pixel(tiny):
    without = planned_tensors(real_layers(tiny), Choice("lora", 4, 1.0, "full", conv_rank=0))
    with_them = planned_tensors(real_layers(tiny), Choice("lora", 4, 1.0, "full", conv_rank=2))

    assert all(shape[2:] in ((), (1, 1)) for shape in without.values())
    assert any(shape[2:] == (3, 3) and shape[0] == 2 for shape in with_them.values())
    assert any(shape[2:] == (1, 1) and shape[0] == 4 for shape in without.values())


@pytest.mark.parametrize(("rank", "wanted"), [(4, 4.7), (16, 18.9), (128, 151)])
def test_file_sizes_of_sd1_are_the_documented_ones(full_sd1_layers, rank, wanted):
    planned = planned_tensors(full_sd1_layers, Choice("lora", rank, 1.0))
    header_bytes = 150_000

    found = file_bytes(planned, "fp16") / 1e6
    assert wanted * 0.99 < found < wanted * 1.01 + header_bytes / 1e6


@pytest.fixture(scope="module")
def full_sd1_layers():
    from engine.models.architecture import full_size
    from engine.models.shapes import layer_shapes

    return layer_shapes(full_size("sd1"))


def test_a_lora_has_no_full_rank(tiny):
    with pytest.raises(RecipeError, match="no full rank"):
        build(tiny, Choice("lora", "full", 1.0), seed=0)
