"""DoRA and T-LoRA against lycoris-lora 4.1.3: where both agree, and what theirs gets wrong."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.networks.choice import Choice
from engine.networks.network import from_file
from engine.networks.t_lora import active_ranks
from tests.engine.networks.layers import KINDS, make_input, make_model, make_network, stir

EVERY = pytest.mark.parametrize("kind", KINDS)
AXES = pytest.mark.parametrize("axis", ["input", "output"])
ALGORITHMS = pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:lycoris")


def only(network: Any) -> Any:
    (adapter,) = network.adapters.values()
    return adapter


def shaken(module: Any, size: float = 0.1) -> Any:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return module


def their_dora(lycoris: Any, algorithm: str, model: Any, axis: str) -> Any:
    names = {"lora": "LoConModule", "loha": "LohaModule", "lokr": "LokrModule"}
    common = {"weight_decompose": True, "wd_on_out": axis == "output", "bypass_mode": False}
    more = {"factor": 2} if algorithm == "lokr" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = getattr(lycoris, names[algorithm])
        return kind("x", model.layer, lora_dim=2, alpha=2.0, **common, **more)


def their_t_lora(lycoris: Any, model: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lycoris.TLoraModule("x", model.layer, lora_dim=4, alpha=2.0, **options)


def of_their_file(module: Any, model: Any) -> Any:
    saved = {
        f"lora_unet_layer.{key}": torch.as_tensor(tensor).detach().clone()
        for key, tensor in module.custom_state_dict().items()
    }
    return only(from_file({"unet": model}, saved, {}))


@torch.no_grad()
@EVERY
@AXES
@ALGORITHMS
def test_their_magnitudes_give_the_same_weight_here(lycoris, algorithm, axis, kind):
    model = make_model(kind)
    module = shaken(their_dora(lycoris, algorithm, model, axis))

    adapter = of_their_file(module, model)

    assert adapter.axis == axis
    shape = model.layer.weight.shape
    wanted = module.get_merged_weight(multiplier=1, shape=shape)[0]
    torch.testing.assert_close(model.layer.weight + adapter.delta(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@EVERY
@AXES
def test_fresh_magnitudes_are_theirs(lycoris, axis, kind):
    model = make_model(kind)
    module = their_dora(lycoris, "lora", model, axis)

    ours = only(make_network(model, Choice("lora", 2, 2.0, dora=axis)))

    torch.testing.assert_close(ours.dora_scale, module.dora_scale)


@torch.no_grad()
@EVERY
def test_our_output_axis_loads_there(lycoris, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, Choice("lora", 4, 2.0, dora="output")))
    network.inject()
    wanted = model(x) - base
    network.eject()
    group = {key.partition(".")[2]: tensor for key, tensor in network.tensors().items()}
    parts = [group.get(name) for name in lycoris.LoConModule.weight_list]

    module = lycoris.LoConModule.make_module_from_state_dict("x", model.layer, *parts)
    module.apply_to()
    found = model(x) - base
    module.restore()

    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-4)


@torch.no_grad()
@AXES
def test_theirs_leaves_a_change_at_strength_zero_and_ours_does_not(lycoris, axis):
    model, x = make_model("linear"), make_input("linear")
    module = shaken(their_dora(lycoris, "lora", model, axis))
    network = from_file(
        {"unet": model},
        {
            f"lora_unet_layer.{key}": torch.as_tensor(t).detach().clone()
            for key, t in module.custom_state_dict().items()
        },
        {},
    )
    base = model(x)

    theirs = module.get_merged_weight(multiplier=0)[0]
    network.inject()
    network.set_strength(0)

    assert (theirs - model.layer.weight).norm() > 0.1 * only(network).inner.delta().norm()
    assert torch.equal(model(x), base)


@AXES
def test_theirs_keeps_the_norm_in_the_graph_and_ours_does_not(lycoris, axis):
    model = make_model("linear")
    module = shaken(their_dora(lycoris, "lora", model, axis))
    adapter = of_their_file(module, model)
    probe = torch.randn(model.layer.weight.shape, generator=torch.Generator().manual_seed(2))

    def gradients(detached: bool) -> Tensor:
        weight = model.layer.weight + adapter.inner.delta()
        norm = weight.norm(dim=0 if axis == "input" else 1, keepdim=True)
        norm = norm.detach() if detached else norm
        changed = adapter.dora_scale / norm * weight
        (grad,) = torch.autograd.grad((changed * probe).sum(), adapter.weight("lora_up.weight"))
        return grad

    merged = module.get_merged_weight(multiplier=1)[0]
    (theirs,) = torch.autograd.grad((merged * probe).sum(), module.lora_up.weight)
    up = adapter.weight("lora_up.weight")
    (ours,) = torch.autograd.grad((adapter.delta() * probe).sum(), up)

    torch.testing.assert_close(theirs, gradients(detached=False), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours, gradients(detached=True), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(theirs, ours, rtol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("sig_type", ["principal", "last", "middle"])
@pytest.mark.parametrize("kind", ["linear", "conv1x1"])
def test_their_t_lora_gives_the_same_change_here(lycoris, kind, sig_type):
    model = make_model(kind)
    module = shaken(their_t_lora(lycoris, model, sig_type=sig_type), 0.02)

    adapter = of_their_file(module, model)

    assert adapter.derived
    wanted = module.get_diff_weight()[0].view(model.layer.weight.shape)
    torch.testing.assert_close(adapter.delta(), wanted, rtol=1e-3, atol=2e-5)


@torch.no_grad()
def test_our_t_lora_loads_there(lycoris):
    model = make_model("linear")
    network = stir(make_network(model, Choice("t-lora", 4, 2.0)), 0.05)
    group = {key.partition(".")[2]: tensor for key, tensor in network.tensors().items()}
    parts = [group[name] for name in lycoris.TLoraModule.weight_list]

    module = lycoris.TLoraModule.make_module_from_state_dict("x", model.layer, *parts)

    wanted = only(network).delta()
    torch.testing.assert_close(module.get_diff_weight()[0], wanted, rtol=1e-3, atol=2e-5)


def test_ranks_at_a_timestep_are_theirs(lycoris):
    from lycoris.modules.tlora import compute_timestep_mask

    for power in (0.5, 1.0, 2.0):
        found = active_ranks(torch.arange(1000), 1000, 16, min_rank=2, mask_alpha=power)
        theirs = [int(compute_timestep_mask(t, 1000, 16, 2, power).sum()) for t in range(1000)]
        assert found.tolist() == theirs


@torch.no_grad()
def test_their_t_lora_stops_at_a_wide_convolution(lycoris):
    module = their_t_lora(lycoris, make_model("conv3x3"))

    with pytest.raises(RuntimeError):
        module(make_input("conv3x3"))


@torch.no_grad()
def test_their_max_norm_of_a_t_lora_takes_the_scale_twice_and_ours_once(lycoris):
    model = make_model("linear")
    module = shaken(their_t_lora(lycoris, model), 0.02)
    network = from_file(
        {"unet": model},
        {
            f"lora_unet_layer.{key}": torch.as_tensor(t).detach().clone()
            for key, t in module.custom_state_dict().items()
        },
        {},
    )
    norm = float(module.get_diff_weight()[0].norm())

    _, theirs = module.apply_max_norm(norm * 10)
    _, _, ours = network.apply_max_norm(norm * 10).numbers()

    assert float(theirs) == pytest.approx(norm * 0.5)
    assert ours == pytest.approx(norm, rel=1e-3)
