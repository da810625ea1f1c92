"""The weight change of our files is that of lycoris-lora 4.1.3, both ways."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

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
    form
    for form, choice in CHOICES.items()
    if choice.algorithm in ("lora", "locon", "lokr") and choice.dora == "off"
]
GUESSED = (
    "lokr full unbalanced",
    "lokr both",
    "lokr both unbalanced scalar",
    "lokr tucker",
    "lokr tucker both scalar",
)
"""Forms whose sizes lycoris-lora cannot tell from the file; it is built with them instead."""


def theirs(lycoris: Any, form: str, model: Any) -> Any:
    """Their module of the same form on the same layer."""
    choice = CHOICES[form]
    spatial = getattr(model.layer, "kernel_size", (1,)) == (3, 3)
    rank = choice.conv_rank if spatial and choice.conv_rank else choice.rank
    alpha = choice.conv_alpha if spatial and choice.conv_alpha else choice.alpha
    common = {
        "lora_dim": 10_000 if rank == "full" else rank,
        "alpha": alpha,
        "use_tucker": choice.tucker,
        "use_scalar": choice.scalar,
        "rs_lora": choice.rs_lora,
        "bypass_mode": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if choice.algorithm != "lokr":
            return lycoris.LoConModule("x", model.layer, **common)
        return lycoris.LokrModule(
            "x",
            model.layer,
            factor=choice.factor,
            decompose_both=choice.decompose_both,
            full_matrix=rank == "full",
            unbalanced_factorization=choice.unbalanced,
            **common,
        )


def shake(module: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def their_delta(module: Any, form: str) -> torch.Tensor:
    """Their LoKr multiplies by its scale twice in get_diff_weight, and leaves out the scalar."""
    if CHOICES[form].algorithm == "lokr":
        return module.get_weight(module.shape) * module.scalar
    return module.get_diff_weight()[0]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lycoris")
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

    torch.testing.assert_close(adapter.delta(), their_delta(module, form), rtol=1e-4, atol=1e-5)
    assert {key: tuple(t.shape) for key, t in ours.items()} == {
        key: tuple(torch.as_tensor(t).shape) for key, t in saved.items()
    }
    if adapter.size.rank is not None:
        alpha = float(ours["lora_unet_layer.alpha"])
        assert alpha == pytest.approx(float(saved["lora_unet_layer.alpha"]), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lycoris")
@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [form for form in FORMS if form not in GUESSED])
def test_our_tensors_give_the_same_output_there(lycoris, form, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, CHOICES[form]))
    network.inject()
    wanted = model(x) - base
    network.eject()
    group = {key.partition(".")[2]: tensor for key, tensor in network.tensors().items()}
    kind_of = (
        lycoris.LokrModule
        if "alpha" in group and any("lokr" in key for key in group)
        else (lycoris.LoConModule)
    )
    parts = [group.get(name) for name in kind_of.weight_list]

    module = kind_of.make_module_from_state_dict("x", model.layer, *parts)
    module.apply_to()
    found = model(x) - base
    module.restore()

    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-4)
