"""A recipe that names a network file and nothing else: its network is that of the file, of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.hardware import Hardware
from engine.models.detect import ModelFacts, inspect_model
from engine.models.load import load_model
from engine.models.shapes import layer_shapes
from engine.networks.choice import Choice
from engine.networks.content import Content, read_content
from engine.networks.files import read_network, write_network
from engine.networks.layouts_glora import old_layout
from engine.networks.names import file_names, name_table, split_key
from engine.networks.network import Network, build, from_file
from engine.networks.shapes import planned_tensors
from engine.networks.targets import real_layers
from engine.plan import Facts, Origin, Plan, gather, plan
from engine.planning.rules import network_choice
from engine.planning.start import start_problems
from engine.session import Session, create_run, stored_recipe
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.network import Dylora, Lora, TLora
from engine.settings.toml import dumps, loads, read_recipe, write_recipe
from tests.engine.networks.layers import stir
from tests.small_run import small_recipe
from tests.tiny import write_tiny_sd1

Spelled = Callable[[Network, dict[str, nn.Module]], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd1(tmp_path_factory.mktemp("base") / "tiny.safetensors")


@pytest.fixture(scope="module")
def components(base: Path) -> dict[str, nn.Module]:
    return dict(load_model(base).components())


@pytest.fixture(scope="module")
def model(base: Path) -> ModelFacts:
    return inspect_model(base)


@pytest.fixture(scope="module")
def facts(model: ModelFacts) -> Facts:
    hardware = Hardware(gpus=(), cores=2, ram_total=2**34, ram_free=2**33)
    return Facts(hardware, model=model, drawn_seed=1)


def ours(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    return network.tensors()


def sgm(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    """In the names of the original layout, as kohya's tools write SDXL."""
    places = {(one.component, one.path) for one in real_layers(components)}
    names = file_names(places, sdxl=True)
    return {
        f"{names[one.component, one.path]}.{suffix}": tensor
        for one in network.members
        for suffix, tensor in one.adapter.tensors().items()
    }


def peft(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    """As diffusers and PEFT write it: no alpha where it is the rank."""
    parts = {"unet": "unet", "te": "text_encoder.text_model"}
    words = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    return {
        f"{parts[one.component]}.{one.path}.{words[suffix]}": tensor
        for one in network.members
        for suffix, tensor in one.adapter.tensors().items()
        if suffix in words
    }


def old_glora(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    found = {}
    for one in network.members:
        tensors = one.adapter.tensors()
        alpha = tensors.pop("alpha")
        for suffix, tensor in {**old_layout(tensors), "alpha": alpha}.items():
            found[f"{one.adapter.name}.{suffix}"] = tensor.contiguous()
    return found


CASES: dict[str, tuple[Choice, Spelled]] = {
    "lora": (Choice("lora", 4, 2.0), ours),
    "lora rs": (Choice("lora", 4, 2.0, rs_lora=True), ours),
    "lora dora input": (Choice("lora", 4, 2.0, dora="input"), ours),
    "lora dora output": (Choice("lora", 4, 2.0, dora="output", targets="full"), ours),
    "lora norms": (Choice("lora", 4, 2.0, train_norm=True, targets="full"), ours),
    "lora of the U-Net's linear layers": (
        Choice("lora", 4, 2.0, conv_rank=0, targets="unet-only"), ours,
    ),
    "lora of original names": (Choice("locon", 4, 2.0, targets="unet-up-blocks"), sgm),
    "lora of original names, convolutions": (
        Choice("locon", 4, 2.0, conv_rank=2, conv_alpha=1.0, targets="full"), sgm,
    ),
    "lora of PEFT": (Choice("lora", 4, 4.0, targets="attn-only"), peft),
    "locon tucker": (Choice("locon", 4, 2.0, tucker=True, conv_rank=2, targets="full"), ours),
    "loha": (Choice("loha", 3, 2.0, targets="full", conv_rank=2, conv_alpha=1.0), ours),
    "loha tucker": (Choice("loha", 3, 2.0, targets="unet-only", tucker=True), ours),
    "lokr full": (Choice("lokr", "full", 1.0, factor=4), ours),
    "lokr full even": (Choice("lokr", "full", 1.0, factor=-1, targets="full"), ours),
    "lokr low": (Choice("lokr", 2, 1.0, factor=8, targets="full"), ours),
    "lokr whole convolutions": (
        Choice("lokr", 2, 1.0, factor=4, targets="full", conv_rank=500), ours,
    ),
    "lokr low convolutions": (
        Choice("lokr", "full", 1.0, factor=4, targets="full", conv_rank=2, conv_alpha=1.0), ours,
    ),
    "lokr low tucker": (Choice("lokr", 2, 1.0, factor=4, targets="full", tucker=True), ours),
    "lokr both": (Choice("lokr", 1, 1.0, factor=4, decompose_both=True), ours),
    "lokr unbalanced": (Choice("lokr", "full", 1.0, factor=4, unbalanced=True), ours),
    "lokr both unbalanced": (
        Choice("lokr", 2, 1.0, factor=4, decompose_both=True, unbalanced=True, targets="full"),
        ours,
    ),
    "lokr dora": (Choice("lokr", 2, 1.0, factor=4, dora="output", targets="full"), ours),
    "ia3": (Choice("ia3", "full", 0.0, targets="ia3"), ours),
    "ia3 attn-mlp": (Choice("ia3", "full", 0.0), ours),
    "ia3 on inputs": (Choice("ia3", "full", 0.0, targets="full", train_on_input=True), ours),
    "dylora": (Choice("dylora", 4, 2.0, block_size=2), ours),
    "glora": (Choice("glora", 3, 2.0, targets="full", conv_rank=2), ours),
    "glora of the old layout": (Choice("glora", 3, 2.0, targets="full"), old_glora),
    "diag-oft": (Choice("diag-oft", 32, 0.0), ours),
    "diag-oft rescaled": (
        Choice("diag-oft", 6, 0.0, targets="full", conv_rank=4, rescaled=True), ours,
    ),
    "boft": (Choice("boft", 32, 0.0), ours),
    "boft rescaled": (Choice("boft", 8, 0.0, rescaled=True, targets="full", conv_rank=4), ours),
    "full": (Choice("full", "full", 0.0, targets="te-only"), ours),
    "full with norms": (Choice("full", "full", 0.0, train_norm=True), ours),
    "t-lora": (Choice("t-lora", 4, 2.0, targets="attn-only"), ours),
}  # fmt: skip


@pytest.fixture
def written(components: dict[str, nn.Module], tmp_path: Path) -> Callable[..., Path]:
    def write(network: Network, spelled: Spelled = ours, **metadata: str) -> Path:
        path = tmp_path / "start.safetensors"
        write_network(path, spelled(network, components), metadata)
        return path

    return write


def made_of(components: dict[str, nn.Module], choice: Choice, size: float = 0.05) -> Network:
    return stir(build(components, choice, seed=0), size)


def planned(path: Path, facts: Facts, **network: Any) -> Plan:
    """The plan of a recipe of a network file; what is given besides was typed."""
    recipe = parse({"network": {"weights": str(path), **network}})
    typed = {f"network.{key}": Origin("you") for key in ("weights", *network)}
    return plan(recipe, facts, typed)


def both_shapes(recipe: Recipe, content: Content, model: ModelFacts) -> tuple[Any, Any]:
    """By place in the base: what the filled recipe alone would build, and what the file holds."""
    assert model.architecture is not None
    layers = layer_shapes(model.architecture)
    table = name_table((layer.component, layer.path) for layer in layers)
    built: dict[Any, dict[str, tuple[int, ...]]] = {}
    for key, shape in planned_tensors(layers, network_choice(recipe.network)).items():
        name, suffix = split_key(key)
        if suffix != "alpha":
            built.setdefault(table[name], {})[suffix] = shape
    held = {
        table[module.name]: {key: shape for key, shape in module.shapes.items() if key != "alpha"}
        for module in content.sources
    }
    return built, held


@pytest.mark.parametrize("case", CASES)
def test_the_network_is_that_of_the_file(
    case: str,
    components: dict[str, nn.Module],
    facts: Facts,
    model: ModelFacts,
    written: Callable[..., Path],
    tmp_path: Path,
) -> None:
    choice, spelled = CASES[case]
    network = made_of(components, choice)
    path = written(network, spelled)
    made = planned(path, facts)
    assert made.problems == ()

    # What run.toml says is read again as it was, and is the network of the file.
    stored = tmp_path / "run.toml"
    stored.write_text(write_recipe(made.filled.recipe))
    recipe = read_recipe(stored)
    assert start_problems(recipe) == ()
    built, held = both_shapes(recipe, read_content(path), model)
    assert built == held

    file = read_network(path)
    again = from_file(
        components, file.tensors, file.metadata, choice=network_choice(recipe.network)
    )
    changes = {(one.component, one.path): one.adapter for one in again.members}
    assert len(changes) == len(network.members)
    size = 0.0
    with torch.no_grad():
        for one in network.members:
            change = one.adapter.delta()
            found = changes[one.component, one.path].delta()
            assert torch.allclose(found, change, rtol=1e-4, atol=1e-6)
            size += float(change.norm())
    assert size > 0


TYPED: dict[str, tuple[Choice, dict[str, Any], str]] = {
    "factor": (CASES["lokr full"][0], {"algorithm": "lokr", "factor": 2}, "factor 4, the recipe 2"),
    "decompose_both": (
        CASES["lokr low"][0], {"algorithm": "lokr", "rank": 2, "decompose_both": True},
        "decompose_both false, the recipe true",
    ),
    "unbalanced": (
        CASES["lokr full"][0], {"algorithm": "lokr", "unbalanced": True},
        "unbalanced false, the recipe true",
    ),
    "dora": (CASES["lora"][0], {"algorithm": "lora", "dora": "input"}, "dora off, the recipe inp"),
    "dora axis": (
        CASES["lora dora output"][0], {"algorithm": "lora", "dora": "input"},
        "dora output, the recipe input",
    ),
    "conv_rank": (
        CASES["locon tucker"][0], {"algorithm": "locon", "conv_rank": 3},
        "conv_rank 2, the recipe 3",
    ),
    "conv_alpha": (
        CASES["loha"][0], {"algorithm": "loha", "conv_alpha": 7.0}, "conv_alpha 1, the recipe 7",
    ),
    "tucker": (
        CASES["locon tucker"][0], {"algorithm": "locon", "tucker": False},
        "tucker true, the recipe false",
    ),
    "rescaled": (
        CASES["diag-oft"][0], {"algorithm": "diag-oft", "rescaled": True},
        "rescaled false, the recipe true",
    ),
    "train_on_input": (
        CASES["ia3"][0], {"algorithm": "ia3", "train_on_input": True},
        "train_on_input false, the recipe true",
    ),
    "rs_lora": (CASES["lora"][0], {"algorithm": "lora", "rs_lora": True}, "scale comes from the f"),
    "train_norm": (
        CASES["lora"][0], {"algorithm": "lora", "train_norm": True}, "train_norm false",
    ),
    "rank": (CASES["boft"][0], {"algorithm": "boft", "rank": 8}, "rank 32, the recipe 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPED)
def test_a_typed_answer_that_the_file_contradicts_is_refused(
    case: str, components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    choice, typed, said = TYPED[case]
    made = planned(written(made_of(components, choice)), facts, **typed)
    (problem,) = made.problems
    assert said in problem.what
    assert problem.path == f"network.{case.split()[0]}"


def test_a_typed_answer_that_makes_the_same_network_is_none_to_refuse(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    path = written(made_of(components, Choice("boft", 8, 0.0)))
    assert planned(path, facts).filled.recipe.network.rank == 8
    # The next larger block would be one of 16 outputs.
    assert planned(path, facts, algorithm="boft", rank=15).problems == ()
    assert planned(path, facts, algorithm="boft", rank=16).problems != ()


def test_a_dylora_of_ours_goes_on_as_one(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    network = {"algorithm": "dylora", "rank": 4, "alpha": 2.0, "block_size": 2}
    carried = dumps(parse({"network": {**network, "detach_lower": False, "rs_lora": True}}))
    choice = Choice("dylora", 4, 2.0, block_size=2, rs_lora=True)
    path = written(made_of(components, choice), **{"lyctui.recipe": carried})
    found = planned(path, facts).filled.recipe.network
    assert isinstance(found, Dylora)
    assert (found.rank, found.alpha, found.block_size) == (4, 2.0, 2)
    assert (found.detach_lower, found.rs_lora) == (False, True)
    for algorithm in ("lora", "dylora"):
        assert planned(path, facts, algorithm=algorithm).problems == ()
    # As a plain LoRA the whole scale is in alpha.
    plain = planned(path, facts, algorithm="lora").filled.recipe.network
    assert (plain.alpha, plain.rs_lora) == (4.0, False)  # type: ignore[attr-defined]


def test_what_cannot_be_a_dylora_is_refused_as_one(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    path = written(made_of(components, CASES["lora dora input"][0]))
    (problem,) = planned(path, facts, algorithm="dylora").problems
    assert problem.path == "network.algorithm"


def test_a_t_lora_of_ours_keeps_its_mask(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    network = {"algorithm": "t-lora", "rank": 4, "min_rank": 2, "mask_alpha": 0.5}
    choice = Choice("t-lora", 4, 2.0, targets="te-only")
    carried = dumps(parse({"network": network}))
    path = written(made_of(components, choice), **{"lyctui.recipe": carried})
    found = planned(path, facts).filled.recipe.network
    assert isinstance(found, TLora)
    assert (found.min_rank, found.mask_alpha) == (2, 0.5)


def test_a_recipe_in_a_file_that_is_none_is_passed_over(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    network = made_of(components, Choice("lora", 4, 2.0, targets="te-only"))
    for text in ("network = 3", "[network", '[network]\nalgorithm = "dylora"\nblock_size = 0'):
        path = written(network, **{"lyctui.recipe": text})
        assert planned(path, facts).filled.recipe.network.algorithm == "lora"


def test_norms_that_outnumber_a_network_do_not_name_it(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    network = made_of(components, Choice("lora", 4, 2.0, train_norm=True))
    norms = [one for one in network.members if "norm" in one.path]
    few = [one for one in network.members if one.path.endswith("attn1.to_q")]
    network.members = tuple(norms + few)
    network.adapters = {one.adapter.name: one.adapter for one in network.members}
    assert len(norms) > len(few) > 0
    found = planned(written(network), facts).filled.recipe.network
    assert (found.algorithm, found.train_norm) == ("lora", True)


def test_norms_alone_are_refused_in_words(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    network = made_of(components, Choice("lora", 4, 2.0, train_norm=True))
    network.members = tuple(one for one in network.members if "norm" in one.path)
    network.adapters = {one.adapter.name: one.adapter for one in network.members}
    (problem,) = planned(written(network), facts).problems
    assert "norms alone" in problem.what
    assert problem.path == "network.weights"


def test_a_size_that_no_recipe_can_have_is_refused(facts: Facts, tmp_path: Path) -> None:
    path, name = tmp_path / "x.safetensors", "lora_te_text_model_encoder_layers_0_mlp_fc1"
    factors = {"lora_down.weight": (1100, 64), "lora_up.weight": (256, 1100)}
    tensors = {f"{name}.{suffix}": torch.zeros(shape) for suffix, shape in factors.items()}
    write_network(path, tensors, {})
    (problem,) = planned(path, facts).problems
    assert problem.what == "The file's rank 1100 is beyond what a run can have."


def test_a_presets_form_goes_with_its_network(
    components: dict[str, nn.Module], facts: Facts, written: Callable[..., Path]
) -> None:
    path = written(made_of(components, Choice("lora", 4, 2.0, targets="attn-only")))
    preset = {"algorithm": "lokr", "factor": 4, "tucker": True, "conv_rank": 8, "dropout": 0.1}
    recipe = parse({"network": {"weights": str(path), "targets": "full", **preset}})
    given = {f"network.{key}": Origin("preset", "style") for key in (*preset, "targets")}
    made = plan(recipe, facts, given)
    network = made.filled.recipe.network
    assert isinstance(network, Lora)
    assert (network.rank, network.tucker, network.conv_rank) == (4, False, 4)
    assert (network.targets, network.dropout) == ("attn-only", 0.1)
    assert made.problems == ()
    assert parse(loads(write_recipe(made.filled.recipe))) == made.filled.recipe


@pytest.mark.parametrize("case", ["diag-oft rescaled", "dylora"])
def test_a_run_takes_a_step_from_it(
    case: str, components: dict[str, nn.Module], written: Callable[..., Path], tmp_path: Path
) -> None:
    choice, spelled = CASES[case]
    network = {"algorithm": choice.algorithm, "rank": choice.rank}
    carried = dumps(parse({"network": network}))
    path = written(made_of(components, choice), spelled, **{"lyctui.recipe": carried})
    recipe = small_recipe(
        tmp_path, network={"algorithm": "lora", "weights": str(path)}, train={"max_steps": 1}
    )
    given = {"network.weights": Origin("you")}
    made = plan(recipe, gather(recipe), given)
    made.raise_errors()
    folder = create_run(made.filled.recipe)
    session = Session(stored_recipe(folder), folder)
    session.start()
    assert session.wait(120)
    assert session.error is None, session.error
    before, after = read_network(path).tensors, read_network(folder / "small.safetensors").tensors
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
