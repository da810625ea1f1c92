"""Fewer ranks keep the largest singular values and the scale."""

import json

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import NetworkFileError
from engine.networks.files import read_network
from engine.tools.requests import RankRule, ResizeRequest
from engine.tools.resize import resize
from tests.engine.tools.tiny_files import METADATA, distance


def request(source, tmp_path, rule, **more):
    return ResizeRequest(source=source, output=tmp_path / "out.safetensors", rule=rule, **more)


@pytest.mark.parametrize("kind", ["lora", "locon", "tucker", "rs"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_smaller_lora_is_the_best_there_is(tiny, tmp_path, kind, rank):
    path = tiny.network(kind)
    report = resize(request(path, tmp_path, RankRule("fixed", rank)))

    before, after = tiny.changes(path), tiny.changes(report.output)
    assert distance(after, before) == pytest.approx(report.error, rel=1e-3, abs=1e-6)
    for name, change in before.items():
        values = torch.linalg.svdvals(change.flatten(1))
        assert float((after[name] - change).norm()) == pytest.approx(
            float(values[rank:].norm()), rel=1e-3, abs=1e-6
        )
    assert max(report.ranks) == rank


def test_alpha_keeps_the_scale(tiny, tmp_path):
    path = tiny.network("rs")
    output = resize(request(path, tmp_path, RankRule("fixed", 2))).output
    before, after = load_file(path), load_file(output)
    name = next(key.removesuffix(".alpha") for key in before if key.endswith(".alpha"))
    assert float(after[f"{name}.alpha"]) / 2 == pytest.approx(float(before[f"{name}.alpha"]) / 4)
    assert after[f"{name}.alpha"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["lokr full", "lokr low", "lokr both", "lokr tucker"])
def test_a_lokr_keeps_its_first_half(tiny, tmp_path, kind):
    path = tiny.network(kind)
    report = resize(request(path, tmp_path, RankRule("fixed", 1)))

    before, after = load_file(path), load_file(report.output)
    assert not any(name.endswith(("lokr_w2", "lokr_t2")) for name in after)
    first = [name for name in before if "lokr_w1" in name]
    assert first and all(torch.equal(before[name], after[name]) for name in first)
    found = distance(tiny.changes(report.output), tiny.changes(path))
    assert found == pytest.approx(report.error, rel=1e-3, abs=1e-6)
    if kind == "lokr full":
        # The scale of two whole halves is 1, so alpha is the rank.
        assert {float(after[name]) for name in after if name.endswith(".alpha")} == {1.0}


@pytest.mark.parametrize("kind", ["lora", "lokr full"])
def test_all_ranks_change_nothing(tiny, tmp_path, kind):
    path = tiny.network(kind)
    report = resize(request(path, tmp_path, RankRule("fixed", 4096)))
    assert distance(tiny.changes(report.output), tiny.changes(path)) < 1e-6
    assert report.error < 1e-6


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (RankRule("sv_ratio", 3.0), lambda s: (s > s[0] / 3).sum()),
        (
            RankRule("sv_fro", 0.9),
            lambda s: ((s.square().cumsum(0) / s.square().sum()).sqrt() < 0.9).sum() + 1,
        ),
        (RankRule("sv_cumulative", 0.8), lambda s: (s.cumsum(0) / s.sum() < 0.8).sum() + 1),
        (
            RankRule("error", 0.3),
            lambda s: (s.flip(0).square().cumsum(0).flip(0).sqrt() > 0.3 * s.norm()).sum(),
        ),
        (RankRule("sv_ratio", 1e6, limit=2), lambda s: torch.tensor(2)),
    ],
    ids=lambda value: value.kind if isinstance(value, RankRule) else "",
)
def test_the_rules_of_kohyas_tools(tiny, tmp_path, rule, kept):
    path = tiny.network("lora")
    report = resize(request(path, tmp_path, rule))
    found = {module.name: module.rank for module in report.modules}
    for member in tiny.read(path).members:
        values = torch.linalg.svdvals(member.adapter.double().delta().detach().flatten(1))[:4]
        assert found[member.adapter.name] == max(1, int(kept(values)))


def test_convolutions_have_a_rule_of_their_own(tiny, tmp_path):
    path = tiny.network("locon")
    report = resize(request(path, tmp_path, RankRule("fixed", 3), conv_rule=RankRule("fixed", 1)))
    after = load_file(report.output)
    ranks = {
        tensor.shape[0]
        for name, tensor in after.items()
        if name.endswith("lora_down.weight") and tensor.dim() == 4 and tensor.shape[-1] == 3
    }
    assert ranks == {1} and set(report.ranks) == {1, 3}


def test_magnitudes_of_a_dora_stay(tiny, tmp_path):
    path = tiny.network("dora input")
    output = resize(request(path, tmp_path, RankRule("fixed", 2))).output
    before, after = load_file(path), load_file(output)
    scales = [name for name in before if name.endswith("dora_scale")]
    assert scales and all(torch.equal(before[name], after[name]) for name in scales)


@pytest.mark.parametrize("kind", ["loha", "ia3", "full"])
def test_what_has_no_such_ranks_is_refused(tiny, tmp_path, kind):
    with pytest.raises(NetworkFileError, match="Only LoRA and LoKr"):
        resize(request(tiny.network(kind), tmp_path, RankRule("fixed", 2)))
    assert list(tmp_path.iterdir()) == []


def test_metadata_tell_the_new_rank(tiny, tmp_path):
    output = resize(request(tiny.network("lora"), tmp_path, RankRule("fixed", 2))).output
    told = read_network(output).metadata
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("2", "1")
    assert told["ss_tag_frequency"] == METADATA["ss_tag_frequency"]
    assert json.loads(told["lyctui.tool"])[0]["rank"] == "fixed 2"
