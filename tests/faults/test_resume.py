"""A run stopped or killed at any instant and resumed ends in the same tensors as one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from engine.control import Control
from engine.events import Event, StepDone
from engine.models.load import load_model
from engine.networks.headers import read_header
from engine.runs import RunFolder, read_events, run_info
from engine.session import Session, create_run, stored_recipe
from engine.settings import Recipe
from tests.small_run import draw_pictures, small_recipe, tensor_bytes

pytestmark = pytest.mark.slow

ALGORITHMS: list[dict[str, Any]] = [
    {"algorithm": "lora", "rank": 4, "alpha": 2.0, "dropout": 0.1, "rank_dropout": 0.1},
    {"algorithm": "locon", "targets": "full", "rank": 2, "alpha": 1.0, "tucker": True},
    {"algorithm": "lokr", "rank": "full", "alpha": 1.0, "factor": 4, "module_dropout": 0.1},
    {"algorithm": "lokr", "rank": 2, "alpha": 1.0, "factor": -1, "scalar": True, "max_norm": 0.5},
]
OTHERS: list[dict[str, Any]] = [
    {"algorithm": "lora", "rank": 4, "alpha": 2.0, "dora": "input", "train_norm": True},
    {"algorithm": "loha", "targets": "full", "rank": 2, "tucker": True, "scalar": True},
    {"algorithm": "lokr", "rank": 2, "alpha": 1.0, "factor": 4, "dora": "output"},
    {"algorithm": "ia3", "max_norm": 0.5, "module_dropout": 0.2},
    {"algorithm": "dylora", "rank": 4, "alpha": 2.0, "block_size": 2, "dropout": 0.1},
    {"algorithm": "glora", "rank": 2, "alpha": 1.0, "scalar": True, "rank_dropout": 0.2},
    {"algorithm": "diag-oft", "rank": 8, "constraint": 1e-4, "rescaled": True, "max_norm": 0.2},
    {"algorithm": "boft", "rank": 16, "module_dropout": 0.1},
    {"algorithm": "full", "targets": "unet-up-blocks", "max_norm": 0.2},
    {"algorithm": "t-lora", "rank": 4, "alpha": 2.0, "rank_dropout": 0.1},
    {
        "algorithm": "lora",
        "rank": 4,
        "overrides": [
            {"pattern": ".*attn2.*", "algorithm": "lokr", "rank": "full"},
            {"pattern": "mid_block.*", "exclude": True},
            {"pattern": ".*ff.*", "rank": 2},
        ],
    },
]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "te_lr": 5e-4},
    "adamw8bit": {"optimizer": "adamw8bit", "lr": 1e-3, "te_lr": 5e-4},
    # Stopped after step 2, where its text encoder leaves.
    "prodigy": {"optimizer": "prodigy", "lr": 1.0, "te_lr": 1.0, "te_stop_percent": 50},
}


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


def _tried(network: dict[str, Any], optimizer: str) -> bool:
    """The optimizers are tried with the algorithms that are quick."""
    return optimizer == "adamw" or network["algorithm"] != "locon"


def _words(value: Any) -> str:
    return value if isinstance(value, str) else f"{value['algorithm']}-{'-'.join(list(value)[1:])}"


CASES = [
    *[(network, name) for name in OPTIMIZERS for network in ALGORITHMS if _tried(network, name)],
    *[(network, "adamw") for network in OTHERS],
]


@pytest.mark.parametrize(("network", "optimizer"), CASES, ids=_words)
def test_stopped_and_resumed_equals_uninterrupted(
    tmp_path: Path, network: dict[str, Any], optimizer: str
) -> None:
    recipe = small_recipe(
        tmp_path,
        network=network,
        optim=OPTIMIZERS[optimizer],
        data={"flip": True, "shuffle_tags": True, "caption_dropout": 0.2},
        train={"epochs": 1, "accumulation": 2},
    )
    golden = tensor_bytes(whole_run(recipe))
    folder = create_run(recipe)
    stopped = run(recipe, folder, watch=stop_at(2))
    assert stopped.snapshot().state == "stopped"
    assert stopped.exit_code == 130
    resumed = run(stored_recipe(folder), folder, resume=True, watch=calmly)
    assert resumed.error is None, resumed.error
    assert resumed.snapshot().state == "finished"
    file = folder / f"{folder.name}.safetensors"
    assert tensor_bytes(file) == golden
    (hop,) = json.loads(read_header(file).metadata["lyctui.lineage"])
    assert (hop["run"], hop["step"]) == (folder.name, 2)
    assert [note.partition(":")[0] for note in hop["notes"]] == ["exact"]


def test_killed_twice_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, save={"precision": "fp32", "state_minutes": 0.01})
    golden = tensor_bytes(whole_run(recipe))
    folder = RunFolder(create_run(recipe))
    rng = random.Random(11)
    for attempt in range(2):
        kill_after(folder, steps=3 + 3 * attempt, resume=attempt > 0, rng=rng)
        assert run_info(folder.path).state == "ended unexpectedly"
    resumed = run(stored_recipe(folder.path), folder.path, resume=True, watch=calmly)
    assert resumed.error is None, resumed.error
    assert tensor_bytes(folder.path / f"{folder.name}.safetensors") == golden


def kill_after(folder: RunFolder, *, steps: int, resume: bool, rng: random.Random) -> None:
    """Train in a process of its own and SIGKILL it somewhere after `steps` steps."""
    code = (
        "import sys; from pathlib import Path; from engine.session import Session, stored_recipe\n"
        "folder = Path(sys.argv[1])\n"
        "session = Session(stored_recipe(folder), folder, resume=sys.argv[2] == 'True')\n"
        "session.start(); session.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder.path), str(resume)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        events, _ = read_events(folder.events)
        done = [event.step for event in events if isinstance(event, StepDone)]
        if done and done[-1] >= steps:
            break
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(rng.random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()


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


def test_changed_pictures_are_noticed(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    folder = create_run(recipe)
    run(recipe, folder, watch=stop_at(2))
    caption = next((tmp_path / "pictures").rglob("*.txt"))
    caption.write_text("something else")
    resumed = run(stored_recipe(folder), folder, resume=True, watch=calmly)
    assert "Pictures or captions have changed" in str(resumed.error)


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


def test_a_damaged_newest_state_falls_back(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    golden = tensor_bytes(whole_run(recipe))
    folder = RunFolder(create_run(recipe))
    run(recipe, folder.path, watch=stop_at(8))
    newest = sorted(folder.states.iterdir())[-1]
    (newest / "network.safetensors").write_bytes(b"broken")
    resumed = run(stored_recipe(folder.path), folder.path, resume=True, watch=calmly)
    assert resumed.error is None, resumed.error
    messages = [getattr(event, "message", "") for event in resumed.snapshot().log]
    assert any(newest.name in message for message in messages)
    assert tensor_bytes(folder.path / f"{folder.name}.safetensors") == golden
