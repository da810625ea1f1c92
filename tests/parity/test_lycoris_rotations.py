"""Diag-OFT and BOFT beside lycoris-lora 4.1.3: the same change where it is right, and where it is not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from engine.networks.choice import Choice
from engine.networks.network import from_file
from tests.engine.networks.layers import (
    CHOICES,
    KINDS,
    make_input,
    make_model,
    make_network,
    stir,
)

FORMS = [form for form, choice in CHOICES.items() if choice.algorithm in ("diag-oft", "boft")]
CLIPPED = [form for form in FORMS if CHOICES[form].constraint]
BOTH = pytest.mark.parametrize("algorithm", ["diag-oft", "boft"])


def kind_of(lycoris: Any, algorithm: str) -> Any:
    return lycoris.DiagOFTModule if algorithm == "diag-oft" else lycoris.ButterflyOFTModule


def theirs(lycoris: Any, choice: Choice, model: Any, multiplier: float = 1.0) -> Any:
    """Their module, moved away from its start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = kind_of(lycoris, choice.algorithm)(
            "x",
            model.layer,
            multiplier,
            lora_dim=choice.rank,
            constraint=choice.constraint,
            rescaled=choice.rescaled,
            bypass_mode=False,
        )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def saved(module: Any) -> dict[str, torch.Tensor]:
    found = {**dict(module.named_parameters()), "alpha": module.alpha}
    return {f"lora_unet_layer.{key}": tensor.detach() for key, tensor in found.items()}


def ours(model: Any, tensors: dict[str, torch.Tensor]) -> Any:
    (adapter,) = from_file({"unet": model}, tensors, {}).adapters.values()
    return adapter


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_their_file_gives_the_same_change_here(lycoris, form, kind):
    model = make_model(kind)
    module = theirs(lycoris, CHOICES[form], model)
    wanted = module.get_diff_weight(shape=model.layer.weight.shape)[0]

    torch.testing.assert_close(ours(model, saved(module)).delta(), wanted, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_our_file_gives_the_same_output_there(lycoris, form, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, CHOICES[form]))
    network.inject()
    wanted = model(x) - base
    network.eject()
    group = {key.partition(".")[2]: tensor for key, tensor in network.tensors().items()}
    kind_there = kind_of(lycoris, CHOICES[form].algorithm)
    module = kind_there.make_module_from_state_dict(
        "x", model.layer, *(group.get(name) for name in kind_there.weight_list)
    )

    module.apply_to()
    found = model(x) - base
    module.restore()

    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("form", CLIPPED)
def test_their_file_is_clipped_by_a_number_that_not_every_reader_takes_the_same_way(lycoris, form):
    """Their blocks are above the limit and alpha tells it; a reader that clips at alpha itself,
    without the number of outputs, or not at all, gets another change. Ours holds what was trained.
    """
    choice, model = CHOICES[form], make_model("linear")
    module = theirs(lycoris, choice, model)
    wanted = module.get_diff_weight(shape=model.layer.weight.shape)[0]
    file = saved(module)
    unclipped = ours(model, file | {"lora_unet_layer.alpha": torch.zeros(())})
    at_alpha = ours(model, file | {"lora_unet_layer.alpha": torch.tensor(choice.constraint / 36)})

    for other in (unclipped, at_alpha):
        assert (other.delta() - wanted).norm() > 0.1 * wanted.norm()
    portable = ours(model, file).tensors()
    again = ours(model, {f"lora_unet_layer.{key}": tensor for key, tensor in portable.items()})
    assert float(portable["alpha"]) == 0.0
    torch.testing.assert_close(again.delta(), wanted, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("form", ["diag-oft rescaled", "boft", "boft rescaled"])
def test_their_strength_is_not_linear_and_ours_is(lycoris, form):
    """Half the strength: W + (W' - W) / 2. Their rescale stays whole, their stages are mixed each."""
    model, x = make_model("linear"), make_input("linear")
    base = model(x)
    module = theirs(lycoris, CHOICES[form], model)
    whole = module.get_diff_weight(shape=model.layer.weight.shape)[0]
    half = module.make_weight(0.5, "cpu") - model.layer.weight
    assert (half - whole / 2).norm() > 0.02 * whole.norm()

    network = from_file({"unet": model}, saved(module), {})
    network.set_strength(0.5)
    network.inject()
    torch.testing.assert_close(model(x) - base, x @ (whole / 2).T, rtol=2e-3, atol=2e-4)


@torch.no_grad()
def test_they_cannot_merge_a_rescaled_diag_oft_at_another_strength(lycoris):
    """The base weight is left in blocks when the rescale is put on it."""
    module = theirs(lycoris, CHOICES["diag-oft rescaled"], make_model("linear"))
    with pytest.raises(RuntimeError, match="must match"):
        module.get_diff_weight(0.5)


@torch.no_grad()
@BOTH
def test_their_max_norm_measures_the_blocks_and_not_the_change(lycoris, algorithm):
    """What they report and hold below the limit is |B|; W' - W stays above it."""
    model = make_model("linear")
    module = theirs(lycoris, Choice(algorithm, 18, 1.0), model)
    network = from_file({"unet": model}, saved(module), {})
    norm = float(module.get_diff_weight(shape=model.layer.weight.shape)[0].norm())
    limit = norm / 3

    _, reported = module.apply_max_norm(limit)
    left = float(module.get_diff_weight(shape=model.layer.weight.shape)[0].norm())
    assert abs(float(reported) - left) > 0.1 * left

    network.apply_max_norm(limit)
    (adapter,) = network.adapters.values()
    assert float(adapter.delta().norm()) == pytest.approx(limit, rel=1e-4)


@torch.no_grad()
@BOTH
def test_a_small_turn_is_lost_in_their_half_precision_and_not_in_ours(lycoris, algorithm):
    """(W + dW) - W in bf16 against (R - I) y."""
    model = make_model("linear", torch.bfloat16)
    x = make_input("linear", torch.bfloat16)
    module = theirs(lycoris, Choice(algorithm, 18, 1.0), model)
    for parameter in module.parameters():
        parameter.mul_(1e-3)
    adapter = ours(model, saved(module))
    wanted = torch.nn.functional.linear(x.float(), adapter.delta())
    weight = model.layer.weight
    delta = module.make_weight(1, "cpu").to(weight.dtype) - weight
    folded = torch.nn.functional.linear(x, delta).float()

    assert (folded - wanted).norm() > 0.3 * wanted.norm()
    assert (adapter.change(x, 1.0).float() - wanted).norm() < 0.03 * wanted.norm()
