"""Memory short in a step: smaller passes give the same gradient, and the run goes on with them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine import gradients
from engine.assemble import Training
from engine.checkpoint.state import Place, list_states
from engine.data.order import BatchPlan, StepPlan
from engine.errors import OutOfMemory
from engine.events import RolledBack, StepDone, Warned
from engine.gradients import step_gradients
from engine.runs import RunFolder
from tests.faults.allocator import AllocatorLimit
from tests.going_wrong import assembled, no_memory_beyond, prepared
from tests.small_run import draw_pictures

STEP = 3
DROPS = {"dropout": 0.2, "rank_dropout": 0.2}
ATTENTION = "attn-only"
NETWORKS: dict[str, dict[str, Any]] = {
    "lora": {"algorithm": "lora", "rank": 4, "alpha": 2.0, **DROPS},
    "dylora": {"algorithm": "dylora", "rank": 4, "alpha": 2.0, "block_size": 1, "dropout": 0.1},
    "t-lora": {"algorithm": "t-lora", "rank": 4, "alpha": 2.0, "orthogonality": 0.1,
               "rank_dropout": 0.2},
    "loha": {"algorithm": "loha", "rank": 2, "alpha": 1.0, "module_dropout": 0.3, **DROPS},
}  # fmt: skip
PLAN = StepPlan((BatchPlan((64, 64), (0, 3, 1, 2)), BatchPlan((64, 64), (2, 0, 3))))
"""Two batches, the second a partial one; item 3 is a regularisation picture."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with masks, one for regularisation, a base."""
    root = tmp_path_factory.mktemp("gradients")
    folder = draw_pictures(root / "pictures" / "2_vexilo emblem", 3)
    draw_pictures(root / "reg", 1, seed=1)
    (root / "masks").mkdir()
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            mask = Image.new("L", image.size, 40)
            mask.paste(255, (0, 0, image.width // 2, image.height))
        mask.save(root / "masks" / path.name)
    return root


def training_of(root: Path, name: str, **more: dict[str, Any]) -> Training:
    """All that depends on a sample's place: dropouts, noise of several kinds, masks, weights."""
    return assembled(
        root,
        network={"targets": ATTENTION, **NETWORKS[name]},
        data={
            "resolution": [64, 64], "buckets": False, "flip": True, "shuffle_tags": True,
            "caption_dropout": 0.3, "masked_loss": "folder", "mask_folder": str(root / "masks"),
            "reg_folder": str(root / "reg"),
        },
        objective={"noise_offset": 0.1, "multires_iterations": 2, "prior_loss_weight": 0.5},
        **more,
    )  # fmt: skip


def away_from_zero(training: Training) -> None:
    """Let every tensor have a gradient."""
    training.network.train()
    with torch.no_grad():
        for number, parameter in enumerate(training.parameters):
            source = torch.Generator().manual_seed(number)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))


def gradient(
    training: Training, rows: int | None = None, plan: StepPlan = PLAN
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the plan, in passes of so many rows."""
    training.guard.rows = rows
    found = step_gradients(training, plan, Place(STEP, 1, STEP))
    assert len(found.plain_N) == len(found.timesteps_N) == plan.samples
    grads = [one.grad for one in training.parameters if one.grad is not None]
    return float(found.loss), torch.cat([grad.flatten().clone() for grad in grads])


@pytest.mark.parametrize("name", NETWORKS)
def test_smaller_passes_give_the_gradient_of_the_whole(root: Path, name: str) -> None:
    training = training_of(root, name)
    away_from_zero(training)
    loss, whole = gradient(training)
    assert whole.abs().max() > 0
    loss_of_parts, parts = gradient(training, 2)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert (whole - parts).norm() / whole.norm() < 1e-5
    training.network.eject()


def test_the_draws_that_passes_must_share_are_not_the_same_for_all() -> None:
    """Else the test above could not fail: another batch number draws another rank."""
    from engine.networks.dropout import Moment
    from engine.networks.dylora import drawn_blocks

    ranks = [drawn_blocks(Moment(7, STEP, batch), 4) for batch in range(8)]
    assert len(set(ranks)) > 1


def test_under_a_limit_passes_shrink_and_pieces_are_made_whole(root: Path) -> None:
    plan = StepPlan(PLAN.batches[:1])
    training = training_of(root, "lora")
    away_from_zero(training)
    with AllocatorLimit() as all_of_it:
        loss, whole = gradient(training, plan=plan)
    # Refused once, as by memory in pieces: the same is computed again, bit for bit.
    pieces = AllocatorLimit(all_of_it.peak - 1, only_first=1)
    with pieces:
        found = gradient(training, plan=plan)
    assert pieces.refused == 1
    assert training.guard.rows is None
    assert found[0] == loss
    assert torch.equal(found[1], whole)
    # Refused for good: in parts.
    limit = AllocatorLimit(all_of_it.peak * 7 // 10)
    with limit:
        loss_of_parts, parts = gradient(training, plan=plan)
    assert limit.refused >= 2, "as a whole, and once more as a whole"
    assert training.guard.rows in (1, 2)
    assert (whole - parts).norm() / whole.norm() < 1e-5
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    training.network.eject()


def test_nothing_of_a_pass_that_failed_is_held_when_it_is_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the error's frames nor by a graph: there would be no more memory than before."""
    training = training_of(root, "lora")
    whole, made, alive = gradients.batch_loss, [], []

    def short(*given: Any) -> Any:
        alive.append(sum(one() is not None for one in made))
        found = whole(*given)
        large = found.weighted_B.expand(1000, -1).contiguous()
        made.extend(weakref.ref(one) for one in (large, found.weighted_B, found.plain_B))
        if len(made) < 9:
            raise torch.OutOfMemoryError("out of memory by a test")
        return found

    monkeypatch.setattr(gradients, "batch_loss", short)
    gc.disable()
    monkeypatch.setattr(gradients, "free_memory", lambda _: None)
    try:
        step_gradients(training, StepPlan(PLAN.batches[:1]), Place(STEP, 1, STEP))
    finally:
        gc.enable()
        training.network.eject()
    assert alive[:3] == [0, 0, 0]


def test_a_batch_of_eight_is_halved_down_to_one_and_then_there_is_no_more_hope(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_of(root, "lora")
    plan = StepPlan((BatchPlan((64, 64), (0, 1, 2, 3, 0, 1, 2, 3)),))
    tried = no_memory_beyond(monkeypatch, 0, steps=(STEP,))
    with pytest.raises(OutOfMemory, match="single picture"):
        step_gradients(training, plan, Place(STEP, 1, STEP))
    assert tried == [8, 8, 4, 2, 1]
    assert training.guard.rows is None, "resumed where there is room, it is as fast as before"
    training.network.eject()


SHORT: dict[str, dict[str, Any]] = {
    "network": {"algorithm": "lora", "rank": 2, "alpha": 2.0, "targets": ATTENTION, **DROPS},
    "optim": {"optimizer": "adamw", "lr": 1e-3, "te_lr": 0.0},
    "data": {"resolution": [64, 64], "buckets": False},
    "train": {"epochs": 3, "batch_size": 6},
}


def test_a_run_goes_on_in_smaller_passes_and_says_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = prepared(root, RunFolder(tmp_path / "golden"), **SHORT).go()
    folder = RunFolder(tmp_path / "small")
    with monkeypatch.context() as patch:
        no_memory_beyond(patch, 3, steps=(2, 3))
        found = prepared(root, folder, states=(2,), **SHORT).go()
    (warning,) = found.of(Warned)
    assert warning.message.startswith("Memory ran short in step 2: batches of 6 ")
    assert [one.rows for one in found.of(StepDone)] == [None, 3, 3]
    assert not found.of(RolledBack)
    for one, other in zip(golden.of(StepDone), found.of(StepDone), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
    expected = golden.tensors()
    for name, tensor in found.tensors().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-5)
    resumed = prepared(root, folder, resume=2, **SHORT).go()
    assert [one.rows for one in resumed.of(StepDone)] == [3], "a resume does not try in vain"
    assert not resumed.of(Warned)


def test_where_nothing_fits_the_last_good_step_is_saved_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_memory_beyond(monkeypatch, 0, steps=(3,))
    folder = RunFolder(tmp_path / "small")
    run = prepared(root, folder, states=(1,), **SHORT)
    with pytest.raises(OutOfMemory) as raised:
        run.go()
    assert raised.value.exit_code == 5
    assert "step 2 is saved" in str(raised.value)
    assert [path.name[-1] for path in list_states(folder.states)] == ["1", "2"]


def test_a_part_of_a_batch_has_its_own_rows_of_everything(root: Path) -> None:
    from engine.gradients import in_passes

    training = training_of(root, "lora")
    batch = training.loader.batch(PLAN.batches[0], epoch=1, step=STEP, first_sample=0)
    batch = replace(batch, hole_mask_B1HW=batch.loss_mask_B1HW)
    parts = dict(in_passes(batch, 3))
    assert list(parts) == [0, 3]
    last = parts[3]
    assert last.items == (2,)
    assert last.captions == batch.captions[3:]
    assert last.target_size == batch.target_size
    for name in ("latents_BCHW", "is_reg_B", "loss_mask_B1HW", "hole_mask_B1HW"):
        assert torch.equal(getattr(last, name), getattr(batch, name)[3:]), name
    assert last.hole_latents_BCHW is None
    assert dict(in_passes(batch, 4)) == {0: batch}
    training.network.eject()
