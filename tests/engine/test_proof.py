"""The finished file in a clean base: a good one is told so, and whatever is wrong with one is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.control import Control
from engine.errors import Problem, TrainingError
from engine.events import Ended, Event, Proved, StepDone, Warned
from engine.models.family import BaseModel
from engine.models.load import load_model
from engine.networks.choice import Choice
from engine.networks.files import write_network
from engine.networks.flat import flatten
from engine.networks.network import Network, build
from engine.networks.table import ALGORITHMS
from engine.proof import Painter, Proof, prove
from engine.runs import RunFolder
from engine.sampling import Shot, paint_one
from engine.session import Session, create_run
from tests.one_thread import one_thread as one_thread
from tests.small_run import small_recipe
from tests.tiny_families import Family, write_tiny

SHOT = Shot("vexilo emblem", "", 64, 64, seed=3, steps=2, guidance=1.0, clip_skip=1)
RANKS: dict[str, Any] = {"ia3": "full", "full": "full", "norm": "full", "diag-oft": 8, "boft": 16}
FORMS: dict[str, dict[str, Any]] = {
    **{algorithm: {"algorithm": algorithm} for algorithm in ALGORITHMS},
    "lokr with a scalar": {"algorithm": "lokr", "scalar": True},
    "lokr whole": {"algorithm": "lokr", "rank": "full"},
    "locon tucker": {"algorithm": "locon", "tucker": True},
    "dora": {"algorithm": "lora", "dora": "input"},
    "dora of outputs": {"algorithm": "lora", "dora": "output"},
}
FILE_FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Tensors = dict[str, Tensor]
DOWN = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"
UP = DOWN.replace("down", "up")
OTHER = UP.replace("to_q", "to_k")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_of(tmp_path_factory.mktemp("base"), "sd1")


def base_of(folder: Path, family: Family, **options: Any) -> BaseModel:
    return load_model(write_tiny(folder / f"{family}.safetensors", family, **options))


def trained(base: BaseModel, *, algorithm: str = "lora", **options: Any) -> Network:
    """A network that changes the base, in front of it."""
    rank = options.pop("rank", RANKS.get(algorithm, 4))
    choice = Choice(algorithm, rank, 2.0, options.pop("targets", "unet-up-blocks"), **options)
    network = build(base.components(), choice, seed=1)
    for number, parameter in enumerate(network.parameters()):
        source = torch.Generator().manual_seed(number)
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=source))
    network.eval()
    network.inject()
    return network


@pytest.fixture
def lora(base: BaseModel) -> Iterator[Network]:
    network = trained(base)
    yield network
    network.eject()


def written(network: Network, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    write_network(path, network.tensors(dtype), {"ss_network_module": "networks.lora"})
    return path


def proof_of(
    path: Path, network: Network, base: BaseModel, dtype: torch.dtype = torch.float32
) -> Proof:
    return prove(path, network, Painter(base, SHOT), dtype=dtype)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_every_algorithm_is_good(form: str, base: BaseModel, tmp_path: Path) -> None:
    targets = "full" if form in ("norm", "locon tucker") else "unet-up-blocks"
    network = trained(base, targets=targets, **FORMS[form])
    try:
        proof = proof_of(written(network, tmp_path / "n.safetensors"), network, base)
    finally:
        network.eject()
    assert proof.faults == []
    known, shapes, numbers, changes, picture = proof.findings
    assert "ComfyUI" in known
    assert shapes == f"shapes fit {len(network.members)} layers, each there once"
    assert numbers == "finite, not zero"
    assert changes == "every layer is changed as in training, to the last bits"
    assert picture.startswith("same picture as in training: largest difference ")
    assert "the file changes it by up to " in picture


@pytest.mark.parametrize("precision", FILE_FORMATS)
def test_what_a_number_format_rounds_is_no_fault(
    precision: str, lora: Network, base: BaseModel, tmp_path: Path
) -> None:
    dtype = FILE_FORMATS[precision]
    proof = proof_of(written(lora, tmp_path / "n.safetensors", dtype), lora, base, dtype)
    assert proof.good, proof.faults


@pytest.mark.parametrize("axis", ["input", "output"])
def test_a_small_change_of_a_dora_held_in_bf16_is_proved_and_rounded_magnitudes_are_found(
    axis: str, base: BaseModel, tmp_path: Path
) -> None:
    choice = Choice("lora", 4, 2.0, "unet-up-blocks", dora=axis)  # type: ignore[arg-type]
    network = build(base.components(), choice, seed=1)
    for component in sorted({member.component for member in network.members}):
        flatten(network.members, component, dtype=torch.bfloat16)
    for number, member in enumerate(network.members):
        up = member.adapter.weight("lora_up.weight")
        up.data.add_(1e-3 * torch.randn(up.shape, generator=torch.Generator().manual_seed(number)))
    network.eval()
    network.inject()
    try:
        file = written(network, tmp_path / "n.safetensors")
        assert proof_of(file, network, base).faults == []
        tensors = load_file(file)
        for name in [name for name in tensors if name.endswith("dora_scale")]:
            tensors[name] = tensors[name].bfloat16().float()
        save_file(tensors, file)
        assert "changed otherwise than in training" in proof_of(file, network, base).faults[0]
    finally:
        network.eject()


def test_a_change_below_the_weights_own_last_bits_is_no_fault(
    base: BaseModel, tmp_path: Path
) -> None:
    choice = Choice("lokr", 4, 2.0, "unet-up-blocks", dora="input")
    network = build(base.components(), choice, seed=1)
    for component in sorted({member.component for member in network.members}):
        flatten(network.members, component, dtype=torch.bfloat16)
    for number, parameter in enumerate(network.parameters()):
        if not bool(parameter.any()):
            source = torch.Generator().manual_seed(number)
            parameter.data.add_(1e-7 * torch.randn(parameter.shape, generator=source))
    network.eval()
    network.inject()
    try:
        proof = proof_of(written(network, tmp_path / "n.safetensors"), network, base)
        assert "finite, not zero" in proof.findings
        assert proof.faults == []
    finally:
        network.eject()


def test_numbers_too_small_for_fp16_are_told(base: BaseModel, tmp_path: Path) -> None:
    network = trained(base)
    for member in network.members:
        member.adapter.weight("lora_up.weight").data.mul_(1e-7)
    proof = proof_of(
        written(network, tmp_path / "n.safetensors", torch.float16), network, base, torch.float16
    )
    network.eject()
    assert any(
        "fp16 rounds so much away, save.precision bf16 does not" in line for line in proof.findings
    )


@pytest.mark.parametrize(
    ("family", "options"), [("sd2", {}), ("sdxl", {}), ("sd1", {"in_channels": 9})]
)
def test_other_families_and_bases_that_inpaint(
    family: Family, options: dict[str, Any], tmp_path: Path
) -> None:
    base = base_of(tmp_path, family, **options)
    network = trained(base, targets="attn-only")
    file = written(network, tmp_path / "n.safetensors")
    proof = proof_of(file, network, base)
    assert proof.good, proof.faults
    assert len(proof.findings) == 5
    tensors = load_file(file)
    tensors[UP if UP in tensors else sorted(tensors)[-1]].zero_()
    save_file(tensors, file)
    assert not proof_of(file, network, base).good


# What can be wrong -------------------------------------------------------------------------------


def a_key_is_no_key(tensors: Tensors) -> None:
    tensors[UP.replace("lora_up", "lora_pu")] = tensors.pop(UP)


def a_module_is_of_no_layer(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith(DOWN.partition(".")[0])]:
        tensors[name.replace("up_blocks", "ap_blocks")] = tensors.pop(name)


def a_layer_is_missing(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith(DOWN.partition(".")[0])]:
        del tensors[name]


def an_alpha_is_another(tensors: Tensors) -> None:
    tensors[DOWN.replace("lora_down.weight", "alpha")] += 0.5


def one_tensor_is_zero(tensors: Tensors) -> None:
    tensors[UP].zero_()


def all_tensors_are_zero(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if not name.endswith("alpha"):
            tensor.zero_()


def two_tensors_are_swapped(tensors: Tensors) -> None:
    tensors[UP], tensors[OTHER] = tensors[OTHER], tensors[UP]


def a_shape_is_another(tensors: Tensors) -> None:
    tensors[UP] = tensors[UP][:-1].clone()


def a_number_is_none(tensors: Tensors) -> None:
    tensors[UP][0, 0] = float("nan")


FAULTS: dict[Callable[[Tensors], None], str] = {
    a_key_is_no_key: "lora_pu",
    a_module_is_of_no_layer: "no such layer",
    a_layer_is_missing: "1 layer is missing",
    an_alpha_is_another: "1 layer changed otherwise than in training, by 25 %",
    one_tensor_is_zero: "1 layer changed otherwise than in training, by 1e+02 %",
    all_tensors_are_zero: "every change is zero in the file",
    two_tensors_are_swapped: "2 layers changed otherwise than in training",
    a_shape_is_another: "does not fit the layer",
    a_number_is_none: "not finite",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_of_a_file_is_found(
    fault: Callable[[Tensors], None], lora: Network, base: BaseModel, tmp_path: Path
) -> None:
    file = written(lora, tmp_path / "n.safetensors")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    fault(tensors)
    save_file(tensors, file, metadata)
    proof = proof_of(file, lora, base)
    assert not proof.good
    assert FAULTS[fault] in "; ".join(proof.faults)


def test_a_file_that_is_cut_off_is_found(lora: Network, base: BaseModel, tmp_path: Path) -> None:
    file = written(lora, tmp_path / "n.safetensors")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 100)
    assert "cut off" in "; ".join(proof_of(file, lora, base).faults)


def test_another_picture_is_found_where_every_layer_is_right(
    lora: Network, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose numbers are right may still be applied otherwise."""
    read_eval = Network.eval

    def weaker(self: Network) -> None:
        read_eval(self)
        self.set_strength(0.2)

    file = written(lora, tmp_path / "n.safetensors")
    monkeypatch.setattr(Network, "eval", weaker)
    assert "another picture than in training" in "; ".join(proof_of(file, lora, base).faults)


def test_a_network_that_learnt_nothing_makes_a_good_file_that_says_so(
    base: BaseModel, tmp_path: Path
) -> None:
    network = build(base.components(), Choice("lora", 4, 2.0, "unet-up-blocks"), seed=1)
    network.eval()
    network.inject()
    proof = proof_of(written(network, tmp_path / "n.safetensors"), network, base)
    network.eject()
    assert proof.good
    assert "finite; it changes nothing, and neither does what was trained" in proof.findings
    assert proof.findings[-1].endswith("as without the file")


# What it leaves behind ---------------------------------------------------------------------------


def test_base_and_network_are_afterwards_as_before(
    lora: Network, base: BaseModel, tmp_path: Path
) -> None:
    before = paint_one(base, SHOT).tobytes()
    assert proof_of(written(lora, tmp_path / "n.safetensors"), lora, base).good
    assert paint_one(base, SHOT).tobytes() == before
    lora.eject()
    assert all("forward" not in module.__dict__ for module in base.components()["unet"].modules())


class BrokenOff(Exception):
    """Somebody does not wait."""


def test_whoever_breaks_off_finds_the_network_in_front_of_the_base(
    lora: Network, base: BaseModel, tmp_path: Path
) -> None:
    before = paint_one(base, SHOT).tobytes()
    file = written(lora, tmp_path / "n.safetensors")
    calls = 0

    def look() -> None:
        nonlocal calls
        calls += 1
        if calls > SHOT.steps + 1:
            raise BrokenOff

    with pytest.raises(BrokenOff):
        prove(file, lora, Painter(base, SHOT, look=look), dtype=torch.float32)
    assert paint_one(base, SHOT).tobytes() == before


def test_short_memory_leaves_the_picture_out_and_is_no_fault(
    lora: Network, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[Any] = []

    def once(*given: Any, **more: Any) -> Any:
        painted.append(given)
        if len(painted) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return paint_one(*given, **more)

    monkeypatch.setattr("engine.proof.paint_one", once)
    proof = proof_of(written(lora, tmp_path / "n.safetensors"), lora, base)
    assert proof.good
    assert "not enough memory" in proof.left_out
    assert len(proof.findings) == 4


def test_a_base_that_gives_no_picture_is_no_fault_of_the_file(
    lora: Network, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that overflows in fp16, whose previews were left out all along."""
    monkeypatch.setattr("engine.proof.paint_one", no_picture)
    proof = proof_of(written(lora, tmp_path / "n.safetensors"), lora, base)
    assert proof.good
    assert "not made of numbers" in proof.left_out
    assert len(proof.findings) == 4


def test_a_file_that_gives_no_picture_where_training_gave_one_is_found(
    lora: Network, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[Any] = []

    def at_last_none(*given: Any, **more: Any) -> Any:
        painted.append(given)
        return no_picture() if len(painted) == 3 else paint_one(*given, **more)

    monkeypatch.setattr("engine.proof.paint_one", at_last_none)
    before = paint_one(base, SHOT).tobytes()
    proof = proof_of(written(lora, tmp_path / "n.safetensors"), lora, base)
    assert "no picture, and one in training" in proof.faults[0]
    assert paint_one(base, SHOT).tobytes() == before


def no_picture(*_: Any, **__: Any) -> Any:
    raise TrainingError(Problem("The picture is not made of numbers any more."))


# In a run ----------------------------------------------------------------------------------------


def finished(folder: Path, recipe: Any, watch: Callable[[Event, Control], None]) -> list[Event]:
    events: list[Event] = []
    sessions: list[Session] = []

    def hear(event: Event) -> None:
        events.append(event)
        watch(event, sessions[0].control)

    sessions.append(Session(recipe, folder, cache=folder.parent / "cache", on_event=hear))
    sessions[0].start()
    assert sessions[0].wait(240)
    return events


def calmly(event: Event, control: Control) -> None:
    """Let the run go."""


@pytest.mark.slow
def test_a_run_proves_the_averaged_weights_that_its_file_has(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        train={"epochs": 1, "max_steps": 3, "ema_decay": 0.5},
        optim={"optimizer": "adamw", "lr": 1e-2},
    )
    events = finished(create_run(recipe), recipe, calmly)
    (proof,) = [event for event in events if isinstance(event, Proved)]
    assert proof.good
    assert proof.step == 3
    assert proof.findings[3] == "every layer is changed as in training, to the last bits"
    assert isinstance(events[-1], Ended)
    assert (events[-1].state, events[-1].exit) == ("finished", 0)


@pytest.mark.slow
def test_a_run_whose_file_does_not_do_what_was_trained_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(path: Path, expected: Tensors) -> None:
        """After it was read back: from then on nobody would look at it again."""
        tensors = load_file(path)
        two_tensors_are_swapped(tensors)
        save_file(tensors, path, {"ss_network_module": "networks.lora"})

    monkeypatch.setattr("engine.saving.verify_network", spoil)
    recipe = small_recipe(tmp_path, train={"epochs": 1, "max_steps": 2}, optim={"lr": 1e-2})
    folder = create_run(recipe)
    events = finished(folder, recipe, calmly)
    (proof,) = [event for event in events if isinstance(event, Proved)]
    assert not proof.good
    said = next(event.message for event in events if isinstance(event, Warned))
    assert "does not do what was trained: 2 layers changed otherwise" in said
    assert f"lyctui resume {RunFolder(folder).called} --from-step" in said
    assert isinstance(events[-1], Ended)
    assert (events[-1].state, events[-1].exit) == ("finished", 1)
    assert "does not do what was trained" in events[-1].message
    assert (RunFolder(folder).states / "step-00000002").is_dir()


def test_a_stop_does_not_wait_for_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import conduct

    recipe = small_recipe(tmp_path, train={"epochs": 1, "max_steps": 1})
    trained_to_the_end = conduct.train

    def train_then_stop(training: Any, outputs: Any, control: Control, *more: Any) -> Any:
        place = trained_to_the_end(training, outputs, control, *more)
        control.ask("stop")
        return place

    monkeypatch.setattr(conduct, "train", train_then_stop)
    events = finished(create_run(recipe), recipe, calmly)
    assert not any(isinstance(event, Proved) for event in events)
    assert any(
        isinstance(event, Warned) and "not checked to the end: stop was asked" in event.message
        for event in events
    )
    assert any(isinstance(event, StepDone) for event in events)
    assert isinstance(events[-1], Ended)
    assert events[-1].state == "finished"
