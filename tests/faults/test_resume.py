"""A run that was asked to stop goes on as if it had not been; what a resume may change, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from engine.control import Control
from engine.events import Event, StepDone
from engine.models.load import load_model
from engine.networks.headers import read_header
from engine.session import Session, create_run, stored_recipe
from engine.settings import Recipe
from tests.faults.golden import Golden
from tests.faults.table import Ledger
from tests.small_run import draw_pictures, small_recipe

pytestmark = pytest.mark.slow


def run(
    recipe: Recipe, folder: Path, *, resume: bool = False, watch: Callable[[Event, Control], None]
) -> Session:
    """Run a session to its end, `watch` seeing each event as it happens."""
    holder: list[Session] = []
    session = Session(
        recipe, folder, resume=resume, on_event=lambda event: watch(event, holder[0].control)
    )
    holder.append(session)
    session.start()
    assert session.wait(240)
    return session


def calmly(event: Event, control: Control) -> None:
    """Let the run go."""


def stop_at(step: int) -> Callable[[Event, Control], None]:
    """Ask to stop once `step` was done."""

    def watch(event: Event, control: Control) -> None:
        if isinstance(event, StepDone) and event.step == step:
            control.ask("stop")

    return watch


def whole_run(recipe: Recipe) -> Path:
    """The network file of an uninterrupted run."""
    folder = create_run(recipe)
    session = run(recipe, folder, watch=calmly)
    assert session.error is None, session.error
    return folder / f"{folder.name}.safetensors"


@pytest.mark.fault("stopped")
@pytest.mark.parametrize(
    "step", [1, *(pytest.param(step, marks=pytest.mark.faults_long) for step in (2, 3))]
)
def test_stopped_and_resumed_equals_uninterrupted(quick: Golden, ledger: Ledger, step: int) -> None:
    """Step 1 and 3 lie in the middle of an epoch, 2 at its end."""
    folder = quick.new_run()
    with ledger.fault("stopped", f"at step {step}") as lost:
        assert quick.job(folder, watch=stop_at(step)).run().code == 130
        quick.resumed(folder)
        lost += quick.differences(folder, deaths=0, asked=True)
        file = folder / f"{folder.name}.safetensors"
        (hop,) = json.loads(read_header(file).metadata["lyctui.lineage"])
        assert (hop["run"], hop["step"]) == (folder.name, step)
        assert [note.partition(":")[0] for note in hop["notes"]] == ["exact"]


def test_accumulation_in_parts_gives_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    import torch

    from engine.assemble import assemble
    from engine.checkpoint.state import Place
    from engine.data.order import BatchPlan, StepPlan
    from engine.step import train_step

    recipe = small_recipe(
        tmp_path,
        data={"buckets": False, "reg_folder": str(draw_pictures(tmp_path / "reg", 2, seed=1))},
        network={"algorithm": "lora", "rank": 4, "alpha": 2.0, "dropout": 0.2, "rank_dropout": 0.2},
        optim={"max_grad_norm": 0.0, "lr": 1e-9, "te_lr": 1e-9},
        objective={"prior_loss_weight": 0.5, "noise_offset": 0.1},
    )
    bucket, items = (128, 128), (0, 6, 2, 7)
    whole = StepPlan((BatchPlan(bucket, items),))
    parts = StepPlan((BatchPlan(bucket, items[:1]), BatchPlan(bucket, items[1:])))
    found = []
    for plan in (whole, parts):
        training = assemble(recipe, tmp_path / "cache", lambda phase, done, total: None)
        with torch.no_grad():  # a network away from zero: every tensor has a gradient
            for number, parameter in enumerate(training.parameters):
                source = torch.Generator().manual_seed(number)
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
        step = train_step(training, plan, Place(1, 1, 1))
        gradients = [parameter.grad for parameter in training.parameters]
        found.append(
            (step.loss.item(), torch.cat([g.flatten() for g in gradients if g is not None]))
        )
        training.network.eject()
    (loss, gradient), (loss_of_parts, gradient_of_parts) = found
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert gradient.abs().max() > 0
    difference = (gradient - gradient_of_parts).norm() / gradient.norm()
    assert difference < 1e-5


def test_more_epochs_go_on_and_other_changes_are_refused(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, train={"epochs": 1})
    folder = whole_run(recipe).parent
    finished = run(stored_recipe(folder), folder, resume=True, watch=calmly)
    assert finished.error is not None
    assert "finished" in str(finished.error)
    longer = run(stored_recipe(folder, ["train.epochs=2"]), folder, resume=True, watch=calmly)
    assert longer.error is None, longer.error
    assert longer.snapshot().step == longer.snapshot().total_steps == 12
    from engine.errors import RunError

    with pytest.raises(RunError, match=r"optim\.lr"):
        stored_recipe(folder, ["optim.lr=0.1"])


def test_another_vae_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    assert recipe.model.path is not None
    state = load_model(recipe.model.path).vae.state_dict()  # type: ignore[attr-defined]
    vae = tmp_path / "vae.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, vae)
    recipe = small_recipe(
        tmp_path, model={"vae": str(vae)}, network={"algorithm": "lora", "rank": 1, "alpha": 1.0}
    )
    folder = create_run(recipe)
    run(recipe, folder, watch=stop_at(1))
    save_file({name: tensor * 1.5 for name, tensor in state.items()}, vae)
    resumed = run(stored_recipe(folder), folder, resume=True, watch=calmly)
    assert "The VAE is another one than this run began with." in str(resumed.error)
