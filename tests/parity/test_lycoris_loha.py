"""LoHa against lycoris-lora 4.1.3: the same change, output, gradients, start and alpha."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.networks.network import from_file
from tests.engine.networks.layers import (
    CHOICES,
    KINDS,
    make_input,
    make_model,
    make_network,
    stir,
)

FORMS = [
    form for form, choice in CHOICES.items() if choice.algorithm == "loha" and choice.dora == "off"
]


def theirs(lycoris: Any, form: str, model: Any) -> Any:
    choice = CHOICES[form]
    return lycoris.LohaModule(
        "x",
        model.layer,
        lora_dim=choice.rank,
        alpha=choice.alpha,
        use_tucker=choice.tucker,
        use_scalar=choice.scalar,
        rs_lora=choice.rs_lora,
        bypass_mode=False,
    )


def shake(module: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_their_tensors_give_the_same_change_and_alpha_here(lycoris, form, kind):
    model = make_model(kind)
    module = theirs(lycoris, form, model)
    shake(module)
    saved = {f"lora_unet_layer.{key}": tensor for key, tensor in module.custom_state_dict().items()}
    (adapter,) = from_file({"unet": model}, saved, {}).adapters.values()
    ours = make_network(model, CHOICES[form]).tensors()

    wanted = module.get_weight(module.shape) * module.scalar
    torch.testing.assert_close(
        adapter.delta(), wanted.view(model.layer.weight.shape), rtol=1e-4, atol=1e-5
    )
    assert {key: tuple(t.shape) for key, t in ours.items()} == {
        key: tuple(torch.as_tensor(t).shape) for key, t in saved.items()
    }
    alpha = float(ours["lora_unet_layer.alpha"])
    assert alpha == pytest.approx(float(saved["lora_unet_layer.alpha"]), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_our_tensors_give_the_same_output_and_gradients_there(lycoris, form, kind):
    model = make_model(kind)
    x = make_input(kind).requires_grad_()
    network = stir(make_network(model, CHOICES[form]))
    group = {key.partition(".")[2]: tensor for key, tensor in network.tensors().items()}
    names = lycoris.LohaModule.weight_list
    with torch.no_grad():
        module = lycoris.LohaModule.make_module_from_state_dict(
            "x", model.layer, *(group.get(name) for name in names)
        )
    module.apply_to()
    wanted = model(x)
    wanted_grads = torch.autograd.grad(
        wanted.square().sum(),
        [x, *(getattr(module, name) for name in names if name in group if name != "alpha")],
    )
    module.restore()

    again = from_file({"unet": model}, network.tensors(), {})
    (adapter,) = again.adapters.values()
    again.inject()
    found = model(x)
    grads = torch.autograd.grad(
        found.square().sum(),
        [x, *(adapter.weight(name) for name in names if name in group if name != "alpha")],
    )

    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-4)
    for one, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3 * float(other.abs().max()))


@torch.no_grad()
def test_their_merge_multiplies_by_the_scale_twice_and_ours_once(lycoris):
    form = "loha"
    model, x = make_model("linear"), make_input("linear")
    module = theirs(lycoris, form, model)
    shake(module)
    saved = {f"lora_unet_layer.{key}": tensor for key, tensor in module.custom_state_dict().items()}
    (adapter,) = from_file({"unet": model}, saved, {}).adapters.values()
    trained = F.linear(x, module.get_weight(module.shape))
    merged = F.linear(x, module.get_diff_weight()[0])

    assert adapter.size.scale == 0.5
    torch.testing.assert_close(F.linear(x, adapter.delta()), trained, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged, 0.5 * trained, rtol=1e-4, atol=1e-4)


def test_the_start_has_their_spreads(lycoris):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(200, 300, 3)
    for scalar in (False, True):
        module = lycoris.LohaModule(
            "x", layer, lora_dim=16, alpha=1, use_tucker=True, use_scalar=scalar, bypass_mode=False
        )
        from engine.networks.loha import START_STD

        for suffix, std in START_STD.items():
            wanted = 0.0 if suffix == "hada_w2_a" and not scalar else std
            assert float(getattr(module, suffix).detach().std()) == pytest.approx(wanted, rel=0.06)
