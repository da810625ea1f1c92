"""Settings of the whole process and of the single step: threads, exact kernels, clipping, rates of parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.assemble import Training, assemble
from engine.assemble_network import trained_rates
from engine.checkpoint.state import Place
from engine.conduct import _set_device_modes
from engine.data.order import BatchPlan, StepPlan
from engine.settings import Recipe
from engine.step import train_step
from tests.small_run import small_recipe

SDXL_PARTS = frozenset({"unet", "te", "te2"})


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process as it was."""
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(exact)


def recipe_with(section: str, **values: Any) -> Recipe:
    return Recipe.model_validate({section: values})


@pytest.mark.usefixtures("modes")
@pytest.mark.parametrize("threads", [1, 2])
def test_torch_computes_with_as_many_threads_as_are_set(threads: int) -> None:
    _set_device_modes(recipe_with("train", threads=threads))
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("modes")
def test_only_exact_kernels_are_used_where_that_is_asked_for() -> None:
    _set_device_modes(recipe_with("run", deterministic=False))
    assert not torch.are_deterministic_algorithms_enabled()
    _set_device_modes(recipe_with("run", deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()


def test_the_second_text_encoder_has_a_rate_of_its_own_or_that_of_the_first() -> None:
    own = recipe_with("optim", lr=1e-4, te_lr=5e-5, te2_lr=1e-5)
    assert trained_rates(own, SDXL_PARTS) == {"unet": 1e-4, "te": 5e-5, "te2": 1e-5}
    with_first = recipe_with("optim", lr=1e-4, te_lr=5e-5)
    assert trained_rates(with_first, SDXL_PARTS)["te2"] == 5e-5
    untrained = recipe_with("optim", lr=1e-4, te_lr=5e-5, te2_lr=0.0)
    assert "te2" not in trained_rates(untrained, SDXL_PARTS)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clipped")


def stepped(place: Path, limit: float) -> tuple[float, float]:
    """Gradient norm that is told and norm of the gradient that was used, after one step."""
    recipe = small_recipe(place, optim={"max_grad_norm": limit, "optimizer": "sgd", "lr": 1e-9})
    training: Training = assemble(recipe, place / "cache", lambda *_: None)
    plan = StepPlan((BatchPlan((128, 128), (0, 3)),))
    step = train_step(training, plan, Place(1, 1, 1))
    used = [p.grad for p in training.weights.parameters if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in used])))
    training.network.eject()
    return float(step.grad_norm), norm


def test_a_long_gradient_is_shortened_and_told_as_it_was(places: Path) -> None:
    told, whole = stepped(places, 0.0)
    assert whole == pytest.approx(told, rel=1e-4), "0 switches clipping off"
    limit = told / 10
    told_again, clipped = stepped(places, limit)
    assert told_again == pytest.approx(told, rel=1e-4)
    assert clipped == pytest.approx(limit, rel=1e-3)
