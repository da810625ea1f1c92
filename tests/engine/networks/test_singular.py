"""Singular triplets are those of torch's SVD in fp64, whatever the form of the weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.networks.singular import Spectrum, Triplets, leading_vectors

PLACES = {"principal": slice(0, 4), "middle": slice(10, 14), "last": slice(20, 24)}


def product(found: Triplets) -> Tensor:
    return (found.left_OD.double() * found.values_D) @ found.right_DI.double()


def check(weight: Tensor, sig_type: str) -> Triplets:
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    place = PLACES[sig_type]

    found = Spectrum(weight).pick(4, sig_type)

    wanted = (left[:, place] * values[place]) @ right[place]
    torch.testing.assert_close(product(found), wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.values_D.double(), values[place], rtol=1e-5, atol=1e-7)
    one = torch.eye(4)
    torch.testing.assert_close(found.left_OD.t() @ found.left_OD, one, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.right_DI @ found.right_DI.t(), one, rtol=0, atol=1e-5)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)])
@pytest.mark.parametrize("sig_type", PLACES)
def test_triplets_are_those_of_an_svd(shape, sig_type, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)

    found = check(weight, sig_type)

    assert found.left_OD.dtype == torch.float32


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_values_that_their_square_would_lose_are_exact_too(shape):
    generator = torch.Generator().manual_seed(3)
    left = torch.linalg.qr(torch.randn(shape[0], 24, generator=generator).double())[0]
    right = torch.linalg.qr(torch.randn(shape[1], 24, generator=generator).double())[0]
    weight = (left * torch.logspace(0, -7, 24).double()) @ right.t()

    check(weight, "last")


@pytest.mark.parametrize("sig_type", PLACES)
def test_a_weight_of_zeros_has_orthogonal_vectors_and_no_values(sig_type):
    found = check(torch.zeros(24, 30), sig_type)

    assert not found.values_D.any()


def test_no_more_triplets_than_there_are():
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(3))

    found = Spectrum(weight).pick(9, "middle")

    assert found.values_D.shape == (3,)
    torch.testing.assert_close(product(found).float(), weight)


def large_weight(power: float) -> Tensor:
    """1000 x 1200, with values that fall as a power of their number."""
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(1000, 1200, generator=generator)
    return normal * torch.arange(1, 1001)[:, None] ** -power


def test_leading_vectors_of_a_large_weight_are_those_of_all(monkeypatch):
    weight = large_weight(0.2)
    calls = []
    real = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: calls.append(len(m)) or real(m))

    found = Spectrum(weight).pick(16, "principal")

    assert max(calls) <= 500  # the whole matrix was not taken apart
    values, vectors = real(weight.double() @ weight.double().t())
    vectors = vectors.flip(1)[:, :16]
    wanted = vectors @ (vectors.t() @ weight.double())
    assert (product(found) - wanted).norm() / wanted.norm() < 1e-5
    torch.testing.assert_close(found.values_D.double(), values.flip(0)[:16].sqrt())


def test_vectors_that_a_small_space_does_not_hold_are_not_taken(monkeypatch):
    weight = large_weight(0.0).double()
    monkeypatch.setattr("engine.networks.singular.KRYLOV_PART", 0.15)

    assert leading_vectors(weight @ weight.t(), 8) is None


def test_many_vectors_and_small_weights_are_found_with_all_others():
    weight = large_weight(0.2).double()

    assert leading_vectors(weight @ weight.t(), 64) is None
    assert leading_vectors(torch.eye(100).double(), 4) is None
