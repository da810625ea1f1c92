"""A network in another form changes the model as before, or by as much as is told."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import EngineError, EnvironmentFault, NetworkFileError, UsageError
from engine.networks.files import network_hashes, read_network
from engine.tools.convert import convert
from engine.tools.opened import OpenNetwork
from engine.tools.peft_layout import magnitude_axis
from engine.tools.programs import Payload, Whole, action_for
from engine.tools.requests import PROGRAMS, Cancelled, ConvertRequest, RankRule
from tests.engine.tools.tiny_files import CHOICES, METADATA, distance

NEED_BASE = (
    "glora",
    "glora conv",
    "ia3",
    "diag-oft",
    "oft rescaled",
    "boft",
    "dora input",
    "dora output",
    "doha",
    "dokr input",
)


def request(tiny, source, tmp_path, *, base=True, **more):
    output = tmp_path / "out.safetensors"
    return ConvertRequest(source=source, output=output, base=tiny.base if base else None, **more)


def suffixes(path):
    return {name.partition(".")[2] for name in read_network(path).tensors}


@pytest.mark.parametrize("kind", CHOICES)
def test_a_difference_is_the_change(tiny, tmp_path, kind):
    path = tiny.network(kind)
    report = convert(request(tiny, path, tmp_path, to="diff", base=kind in NEED_BASE))

    assert suffixes(report.output) <= {"diff", "diff_b", "w_norm", "b_norm"}
    assert distance(tiny.changes(report.output), tiny.changes(path)) < 1e-6
    assert report.error < 1e-6 and report.precision == "fp32"


@pytest.mark.parametrize("kind", [kind for kind in CHOICES if kind not in ("full", "norms")])
def test_a_lora_of_enough_ranks_is_the_change(tiny, tmp_path, kind):
    path = tiny.network(kind)
    rule = RankRule("error", 1e-5)
    report = convert(request(tiny, path, tmp_path, to="lora", rule=rule, base=kind in NEED_BASE))

    assert suffixes(report.output) == {"lora_up.weight", "lora_down.weight", "alpha"}
    assert distance(tiny.changes(report.output), tiny.changes(path)) < 2e-5
    assert report.error < 2e-5


@pytest.mark.parametrize(
    "kind",
    [
        "loha",
        "loha tucker",
        "lokr full",
        "lokr low",
        "lokr both",
        "lokr tucker",
        "t-lora",
        "dora output",
    ],
)
def test_the_error_told_of_few_ranks_is_the_error_made(tiny, tmp_path, kind):
    path = tiny.network(kind)
    report = convert(request(tiny, path, tmp_path, to="lora", rule=RankRule("fixed", 2)))

    wanted, found = tiny.changes(path), tiny.changes(report.output)
    assert set(report.ranks) <= {1, 2}
    assert distance(found, wanted) == pytest.approx(report.error, rel=1e-3, abs=1e-7)
    # As good as any other matrix of this rank: the rest of the singular values.
    worst = report.worst
    for name, change in wanted.items():
        values = torch.linalg.svdvals(change.flatten(1))
        own = float((found[name] - change).norm())
        assert own == pytest.approx(float(values[2:].norm()), rel=1e-3, abs=1e-6)
    assert worst.error == max(module.error for module in report.modules) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_t_lora_keeps_its_change_in_half_precision(tiny, tmp_path, dtype):
    path = tiny.network("t-lora")
    precision = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    report = convert(request(tiny, path, tmp_path, base=False, to="lora", precision=precision))

    assert set(report.ranks) == {8}
    found = distance(tiny.changes(report.output), tiny.changes(path))
    assert found < {"fp16": 1e-3, "bf16": 8e-3}[precision]
    assert found == pytest.approx(report.error, rel=0.05)
    assert any("timestep" in note for note in report.notes)


def test_a_dylora_gives_its_first_ranks(tiny, tmp_path):
    path = tiny.write(
        tmp_path / "d.safetensors",
        CHOICES["dylora"],
        metadata={"ss_network_args": '{"algo": "dylora"}'},
    )
    report = convert(request(tiny, path, tmp_path, to="lora", rule=RankRule("fixed", 2)))

    before, after = load_file(path), load_file(report.output)
    for name, tensor in after.items():
        if name.endswith("lora_up.weight"):
            assert torch.equal(tensor, before[name][:, :2])
        if name.endswith("lora_down.weight"):
            assert torch.equal(tensor, before[name][:2])
        if name.endswith(".alpha"):
            assert torch.equal(tensor, before[name])


# Programs --------------------------------------------------------------------------------------


ACTIONS = {
    # comfyui, a1111, forge, diffusers, lycoris
    "lora": ("copy", "copy", "copy", "copy", "copy"),
    "tucker": ("copy", "copy", "copy", "two-factors", "copy"),
    "loha tucker": ("copy", "copy", "copy", "lora", "copy"),
    "lokr low": ("copy", "copy", "copy", "lora", "copy"),
    "lokr both": ("copy", "copy", "copy", "lora", "diff"),
    "lokr tucker": ("plain-lokr", "copy", "plain-lokr", "lora", "diff"),
    "glora": ("copy", "glora-old", "copy", "lora", "copy"),
    "glora conv": ("copy", "diff", "copy", "lora", "copy"),
    "ia3": ("diff", "diff", "diff", "lora", "diff"),
    "diag-oft": ("copy", "copy", "diff", "lora", "copy"),
    "oft rescaled": ("diff", "copy", "diff", "lora", "copy"),
    "boft": ("copy", "copy", "diff", "lora", "copy"),
    "full": ("copy", "copy", "copy", "lora", "copy"),
    "norms": ("copy", "copy", "copy", "drop", "copy"),
    "t-lora": ("lora", "lora", "lora", "lora", "lora"),
    "dora input": ("copy", "copy", "copy", "lora", "diff"),
    "dora output": ("over-base", "diff", "over-base", "vector", "copy"),
    "doha": ("over-base", "diff", "over-base", "lora", "copy"),
    "dokr input": ("copy", "copy", "copy", "lora", "diff"),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_what_each_program_gets(tiny, kind):
    """Of the module that asks most: a tucker convolution, a convolution of (IA)³, a norm."""
    with OpenNetwork(tiny.network(kind)) as network:
        modules = {module.name: module for module in network.modules}
    wanted = "conv1" if any("conv1" in name for name in modules) else "proj_in"
    wanted = "norm1" if kind == "norms" else wanted
    module = next((module for name, module in modules.items() if name.endswith(wanted)), None)
    module = module or next(iter(modules.values()))
    shapes = module.shapes
    axis = magnitude_axis(shapes.get("dora_scale"))
    convolution = any(len(shape) == 4 for shape in shapes.values()) and kind != "glora"
    payload = Payload(module.algorithm, shapes, "unet", axis, convolution)
    found = tuple(action_for(program, payload, Whole({"unet": True})) for program in PROGRAMS)
    assert found == ACTIONS[kind]


@pytest.mark.parametrize(
    ("kind", "program"),
    [
        ("ia3", "comfyui"),
        ("oft rescaled", "comfyui"),
        ("lokr tucker", "forge"),
        ("boft", "forge"),
        ("norms", "forge"),
        ("glora conv", "a1111"),
        ("doha", "a1111"),
        ("full", "diffusers"),
        ("norms", "diffusers"),
    ],
)
def test_what_a_program_gets_is_the_change(tiny, tmp_path, kind, program):
    path = tiny.network(kind)
    report = convert(request(tiny, path, tmp_path, program=program, rule=RankRule("error", 0.1)))

    wanted = tiny.changes(path)
    if program == "diffusers":
        assert suffixes(report.output) == {"lora_up.weight", "lora_down.weight", "alpha"}
        wanted = {name: change for name, change in wanted.items() if change.dim() > 1}
    assert not suffixes(report.output) & {"on_input", "rescale", "lokr_t2"}
    assert distance(tiny.changes(report.output), wanted) < max(1.01 * report.error, 2e-6) < 0.2


def test_an_output_axis_dora_is_exact_where_the_programs_divide_by_the_bases_norm(tiny, tmp_path):
    path = tiny.network("dora output")
    report = convert(request(tiny, path, tmp_path, program="comfyui"))

    state = load_file(report.output)
    inner = {name: tensor for name, tensor in state.items() if not name.endswith("dora_scale")}
    save_file(inner, tmp_path / "inner.safetensors", METADATA)
    weights = tiny.weights(load_file(tiny.base))
    wanted = tiny.changes(path)
    changes = tiny.changes(tmp_path / "inner.safetensors")
    names = {
        member.adapter.name: f"{member.component}.{member.path}"
        for member in tiny.read(path).members
    }
    found = {}
    for name, place in names.items():
        weight = weights[f"{place}.weight"].double()
        norm = weight.flatten(1).norm(dim=1).view(-1, *(1,) * (weight.dim() - 1))
        scale = state[f"{name}.dora_scale"].double().view(norm.shape)
        found[place] = (weight + changes[place]) * scale / norm - weight
    assert distance(found, wanted) < 1e-5
    assert report.notes


def test_a_tucker_lokr_for_comfyui_has_a_whole_second_half(tiny, tmp_path):
    path = tiny.network("lokr tucker")
    report = convert(request(tiny, path, tmp_path, base=False, program="comfyui"))

    assert "lokr_t2" not in suffixes(report.output)
    assert distance(tiny.changes(report.output), tiny.changes(path)) < 1e-6


def test_glora_in_the_old_layout_and_back(tiny, tmp_path):
    path = tiny.network("glora")
    old = convert(request(tiny, path, tmp_path, base=False, glora="old")).output
    assert distance(tiny.changes(old), tiny.changes(path)) < 1e-6
    before, after = load_file(path), load_file(old)
    name = next(
        key.removesuffix(".a1.weight") for key in before if key.endswith("attn2_to_k.a1.weight")
    )
    assert torch.equal(after[f"{name}.a1.weight"], before[f"{name}.a2.weight"])
    assert torch.equal(after[f"{name}.b2.weight"], before[f"{name}.b1.weight"])

    kept = ConvertRequest(source=old, output=tmp_path / "kept.safetensors")
    assert load_file(convert(kept).output).keys() == after.keys()
    assert distance(tiny.changes(kept.output), tiny.changes(path)) < 1e-6
    again = convert(
        ConvertRequest(source=old, output=tmp_path / "new.safetensors", glora="new")
    ).output
    found = load_file(again)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[key], before[key]) for key in before)


def test_a1111_ignores_the_alpha_of_a_glora_so_the_factors_hold_it(tiny, tmp_path):
    path = tiny.network("glora")
    output = convert(request(tiny, path, tmp_path, base=False, program="a1111")).output
    state = load_file(output)
    for name in (key.removesuffix(".alpha") for key in state if key.endswith(".alpha")):
        rank = state[f"{name}.a1.weight"].shape[0]
        assert float(state[f"{name}.alpha"]) == rank
    assert distance(tiny.changes(output), tiny.changes(path)) < 1e-6


def test_the_base_is_asked_for_before_anything_is_written(tiny, tmp_path):
    for kind in NEED_BASE:
        with pytest.raises(NetworkFileError, match="--base"):
            convert(request(tiny, tiny.network(kind), tmp_path, base=False, to="diff"))
    assert list(tmp_path.iterdir()) == []


# Names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["sgm", "diffusers", "kohya", "peft"])
@pytest.mark.parametrize("kind", ["locon", "rs", "lokr low", "dora output"])
def test_names_there_and_back(tiny, tmp_path, names, kind):
    path = tiny.network(kind)
    if names == "peft" and kind == "lokr low":
        with pytest.raises(NetworkFileError, match="PEFT"):
            convert(request(tiny, path, tmp_path, names=names))
        return
    output = convert(request(tiny, path, tmp_path, base=False, names=names)).output
    renamed = load_file(output)
    if names == "sgm":
        assert any("_input_blocks_" in name for name in renamed)
        assert not any("_down_blocks_" in name for name in renamed)
    if names == "peft":
        assert all(name.startswith(("unet.", "text_encoder.text_model.")) for name in renamed)
        assert not any(name.endswith("alpha") for name in renamed)
    assert distance(tiny.changes(output), tiny.changes(path)) < 1e-6
    back = tmp_path / "back.safetensors"
    convert(ConvertRequest(source=output, output=back, names="kohya"))
    before, after = load_file(path), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_names_that_no_program_knows_are_mended(tiny, tmp_path):
    state = load_file(tiny.network("lora"))
    bare = {name.replace("lora_te_text_model_", "lora_te_"): value for name, value in state.items()}
    save_file(bare, tmp_path / "bare.safetensors", METADATA)
    output = convert(request(tiny, tmp_path / "bare.safetensors", tmp_path)).output
    assert load_file(output).keys() == state.keys()


# Files -----------------------------------------------------------------------------------------


def test_metadata_are_kept_and_hashes_are_of_the_new_tensors(tiny, tmp_path):
    output = convert(request(tiny, tiny.network("loha"), tmp_path, to="lora")).output
    file = read_network(output)

    assert file.metadata["ss_tag_frequency"] == METADATA["ss_tag_frequency"]
    assert file.metadata["ss_network_module"] == "networks.lora"
    assert json.loads(file.metadata["lyctui.tool"])[0]["tool"] == "convert"
    plain = {key: text for key, text in file.metadata.items() if key.startswith("ss_")}
    assert network_hashes(file.tensors, plain).items() <= file.metadata.items()


def test_a_file_converted_twice_tells_both(tiny, tmp_path):
    first = convert(request(tiny, tiny.network("loha"), tmp_path, to="diff")).output
    second = tmp_path / "second.safetensors"
    convert(ConvertRequest(source=first, output=second, precision="fp16"))
    told = json.loads(read_network(second).metadata["lyctui.tool"])
    assert [entry.get("to") for entry in told] == ["diff", "keep"]


def test_a_file_that_is_there_stays_without_force(tiny, tmp_path):
    wanted = request(tiny, tiny.network("lora"), tmp_path)
    wanted.output.write_bytes(b"mine")
    with pytest.raises(EnvironmentFault, match="--force"):
        convert(wanted)
    assert wanted.output.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == [wanted.output]


def test_a_file_that_appears_meanwhile_stays_too(tiny, tmp_path):
    wanted = request(tiny, tiny.network("lora"), tmp_path)

    def appears(done, total, name):
        if done == total:
            wanted.output.write_bytes(b"mine")

    with pytest.raises(EnvironmentFault, match="--force"):
        convert(wanted, appears)
    assert wanted.output.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == [wanted.output]


def test_cancelling_leaves_nothing(tiny, tmp_path):
    def stop(done, total, name):
        if done == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        convert(request(tiny, tiny.network("loha"), tmp_path, to="lora"), stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "state",
    [
        {"model.diffusion_model.out.2.weight": torch.zeros(2)},
        {"x": torch.zeros(2)},
        {"lora_unet_conv_in.lora_up.weight": torch.zeros(2, 2)},
        {
            "lora_unet_conv_in.lora_up.weight": torch.zeros(0, 2),
            "lora_unet_conv_in.lora_down.weight": torch.zeros(2, 4),
        },
        {
            "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.full(
                (4, 2), float("nan")
            ),
            "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 4),
        },
        {
            "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(4, 3),
            "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 4),
        },
        {"lora_unet_conv_in.diff": torch.zeros(3, 3, dtype=torch.int64)},
    ],
    ids=["base", "nothing", "half", "empty", "nan", "misfit", "integers"],
)
def test_hostile_files_are_refused_in_words(tiny, tmp_path, state):
    folder = tmp_path / "in"
    folder.mkdir()
    save_file(state, folder / "x.safetensors")
    with pytest.raises(EngineError) as raised:
        convert(
            request(tiny, folder / "x.safetensors", tmp_path, to="lora", rule=RankRule("fixed", 2))
        )
    assert all(problem.what.endswith(".") for problem in raised.value.problems)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_cut_file_is_refused(tiny, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(tiny.network("lora").read_bytes()[:-10])
    with pytest.raises(NetworkFileError, match="cut off"):
        convert(request(tiny, cut, tmp_path))


def test_numbers_that_make_no_sense_are_a_wrong_call(tiny, tmp_path):
    for rule in (RankRule("fixed", 0), RankRule("error", 2.0), RankRule("fixed", 1.5)):
        with pytest.raises(UsageError):
            convert(request(tiny, tiny.network("lora"), tmp_path, to="lora", rule=rule))


def test_a_lora_that_loses_a_bias_says_so(tiny, tmp_path):
    request = ConvertRequest(
        source=tiny.network("full"), output=tmp_path / "x.safetensors", to="lora"
    )
    report = convert(request)
    lost = [line for line in report.skipped if "bias" in line]
    assert lost and all("a LoRA has none" in line for line in lost)
    kept = convert(ConvertRequest(source=tiny.network("full"), output=tmp_path / "y.safetensors"))
    assert not any("bias" in line for line in kept.skipped)
