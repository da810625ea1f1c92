"""What two checkpoints differ in comes out as a network."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelError, NetworkFileError
from engine.networks.files import read_network
from engine.tools.extract import extract
from engine.tools.merge import merge
from engine.tools.requests import Cancelled, ExtractRequest, MergeRequest, RankRule, Weighted
from tests.engine.tools.tiny_files import distance


@pytest.fixture(scope="module")
def tuned(tiny):
    """The base with a network merged into it."""

    def made(kind):
        path = tiny.folder / f"tuned-{kind.replace(' ', '-')}.safetensors"
        if not path.exists():
            merge(
                MergeRequest(base=tiny.base, networks=(Weighted(tiny.network(kind)),), output=path)
            )
        return path

    return made


def request(tiny, tuned, tmp_path, **more):
    values = {"rule": RankRule("fixed", 4), "precision": "fp32"} | more
    return ExtractRequest(base=tiny.base, tuned=tuned, output=tmp_path / "x.safetensors", **values)


@pytest.mark.parametrize("kind", ["lora", "locon", "tucker"])
def test_a_merged_lora_comes_out_again(tiny, tuned, tmp_path, kind):
    report = extract(request(tiny, tuned(kind), tmp_path))

    assert distance(tiny.changes(report.output), tiny.changes(tiny.network(kind))) < 1e-3
    tensors = read_network(report.output).tensors
    alphas = {name: tensor for name, tensor in tensors.items() if name.endswith(".alpha")}
    assert all(
        float(alpha) == tensors[name.replace(".alpha", ".lora_down.weight")].shape[0]
        for name, alpha in alphas.items()
    )
    assert {module.rank for module in report.modules} <= {2, 4}


def test_unchanged_layers_are_left_out_by_name(tiny, tuned, tmp_path):
    report = extract(request(tiny, tuned("lora"), tmp_path))
    written = {name.partition(".")[0] for name in read_network(report.output).tensors}
    assert written == {member.adapter.name for member in tiny.read(tiny.network("lora")).members}
    assert "lora_unet_conv_in is left out: it is unchanged" in report.skipped
    assert any("unchanged" in note for note in report.notes)


@pytest.mark.parametrize(
    "rule",
    [
        RankRule("threshold", 0.05),
        RankRule("ratio", 0.5),
        RankRule("quantile", 0.7),
        RankRule("error", 0.3),
        RankRule("ratio", 0.01, limit=3),
    ],
    ids=lambda rule: f"{rule.kind}{rule.limit or ''}",
)
def test_rank_rules(tiny, tuned, tmp_path, rule):
    report = extract(request(tiny, tuned("full"), tmp_path, rule=rule, unet=False))
    wanted = tiny.changes(tiny.network("full"))
    found = {module.name: module.rank for module in report.modules}
    assert len(found) == 18
    for member in tiny.read(tiny.network("full")).members:
        if member.component != "te":
            continue
        s = torch.linalg.svdvals(wanted[f"te.{member.path}"])
        kept = {
            "threshold": (s > rule.value).sum(),
            "ratio": (s > rule.value * s[0]).sum(),
            "quantile": (s.cumsum(0) < rule.value * s.sum()).sum() + 1,
            "error": (s.flip(0).square().cumsum(0).flip(0).sqrt() > rule.value * s.norm()).sum(),
        }[rule.kind]
        assert found[member.adapter.name] == min(max(1, int(kept)), rule.limit or 999)


def test_convolutions_have_a_rule_of_their_own_and_zero_leaves_them_out(tiny, tuned, tmp_path):
    rule = RankRule("fixed", 1)
    report = extract(request(tiny, tuned("locon"), tmp_path, conv_rule=rule, text=False))
    tensors = read_network(report.output).tensors
    for name, tensor in tensors.items():
        if name.endswith("lora_down.weight"):
            spatial = tensor.dim() == 4 and tensor.shape[-1] == 3
            assert tensor.shape[0] == 1 if spatial else tensor.shape[0] <= 4
    none = ExtractRequest(
        base=tiny.base,
        tuned=tuned("locon"),
        output=tmp_path / "y.safetensors",
        rule=RankRule("fixed", 4),
        conv_rule=RankRule("fixed", 0),
        text=False,
    )
    left = read_network(extract(none).output).tensors
    assert not any(tensor.dim() == 4 and tensor.shape[-1] == 3 for tensor in left.values())


def test_whole_differences_and_norms_hold_everything(tiny, tuned, tmp_path):
    report = extract(request(tiny, tuned("full"), tmp_path, diff=True))
    assert distance(tiny.changes(report.output), tiny.changes(tiny.network("full"))) < 1e-5
    assert {module.algorithm for module in report.modules} == {"full"}

    norms = ExtractRequest(
        base=tiny.base,
        tuned=tuned("norms"),
        output=tmp_path / "n.safetensors",
        rule=RankRule("fixed", 4),
        norms=True,
        precision="fp32",
    )
    assert distance(tiny.changes(extract(norms).output), tiny.changes(tiny.network("norms"))) < 1e-3


def test_biases_and_norms_that_a_lora_cannot_hold_are_told(tiny, tuned, tmp_path):
    told = " ".join(extract(request(tiny, tuned("full"), tmp_path)).notes)
    assert "biases changed" in told
    other = ExtractRequest(base=tiny.base, tuned=tuned("norms"), output=tmp_path / "n.safetensors")
    assert "norm layers changed" in " ".join(extract(other).notes)


def test_rounding_to_half_precision_is_no_change(tiny, tmp_path):
    half = {name: tensor.half() for name, tensor in load_file(tiny.base).items()}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(NetworkFileError, match="do not differ"):
        extract(request(tiny, tmp_path / "half.safetensors", tmp_path))


def test_a_network_is_no_checkpoint(tiny, tmp_path):
    with pytest.raises(ModelError, match="LoRA"):
        extract(request(tiny, tiny.network("lora"), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_cancelling_leaves_nothing(tiny, tuned, tmp_path):
    def stop(done, total, name):
        if done == 50:
            raise Cancelled

    path = tuned("lora")
    with pytest.raises(Cancelled):
        extract(request(tiny, path, tmp_path), stop)
    assert list(tmp_path.iterdir()) == []
