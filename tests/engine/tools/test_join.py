"""Several networks as one change the model by their sum."""

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import NetworkFileError
from engine.networks.files import read_network
from engine.tools.convert import convert
from engine.tools.join import join
from engine.tools.requests import ConvertRequest, JoinRequest, RankRule, Weighted
from tests.engine.tools.tiny_files import CHOICES, distance


def request(tmp_path, *networks, **more):
    return JoinRequest(networks=networks, output=tmp_path / "out.safetensors", **more)


def summed(tiny, *networks):
    wanted = {}
    for one in networks:
        for name, change in tiny.changes(one.path).items():
            wanted[name] = wanted.get(name, 0) + change * one.strength
    return wanted


def test_ranks_of_loras_stand_side_by_side(tiny, tmp_path):
    other = tiny.write(tmp_path / "other.safetensors", CHOICES["lora"], seed=9)
    networks = (
        Weighted(tiny.network("locon"), 0.8),
        Weighted(other, -0.5),
        Weighted(tiny.network("tucker")),
    )
    report = join(request(tmp_path, *networks))

    assert distance(tiny.changes(report.output), summed(tiny, *networks)) < 1e-6
    assert max(report.ranks) == 12 and report.error < 1e-6
    algorithms = {module.algorithm for module in report.modules}
    assert algorithms == {"lora"}


def test_names_of_any_style_meet(tiny, tmp_path):
    path = tiny.network("lora")
    sgm = ConvertRequest(source=path, output=tmp_path / "sgm.safetensors", names="sgm")
    networks = (Weighted(path, 0.5), Weighted(convert(sgm).output, 0.5))
    output = join(request(tmp_path, *networks)).output
    assert distance(tiny.changes(output), tiny.changes(path)) < 1e-6


@pytest.mark.parametrize("kind", ["loha", "lokr full", "diag-oft", "dora input"])
def test_others_become_a_lora_or_a_difference(tiny, tmp_path, kind):
    networks = (Weighted(tiny.network("lora"), 0.5), Weighted(tiny.network(kind), 0.3))
    wanted = summed(tiny, *networks)
    diff = join(request(tmp_path, *networks, to="diff", base=tiny.base))
    assert distance(tiny.changes(diff.output), wanted) < 1e-6
    rule = RankRule("fixed", 6)
    lora = join(request(tmp_path, *networks, rule=rule, base=tiny.base, force=True))
    found = distance(tiny.changes(lora.output), wanted)
    assert found == pytest.approx(lora.error, rel=0.02, abs=1e-6)


def test_differences_and_norms_stay_exact(tiny, tmp_path):
    networks = (Weighted(tiny.network("full"), 0.5), Weighted(tiny.network("norms"), 2.0))
    output = join(request(tmp_path, *networks)).output
    assert distance(tiny.changes(output), summed(tiny, *networks)) < 1e-6
    suffixes = {name.partition(".")[2] for name in read_network(output).tensors}
    assert suffixes == {"diff", "diff_b", "w_norm", "b_norm"}


def test_a_rule_cuts_what_stands_side_by_side(tiny, tmp_path):
    networks = (Weighted(tiny.network("lora")), Weighted(tiny.network("dylora")))
    report = join(request(tmp_path, *networks, rule=RankRule("fixed", 3)))
    found = distance(tiny.changes(report.output), summed(tiny, *networks))
    assert set(report.ranks) == {3}
    assert found == pytest.approx(report.error, rel=1e-3)


def test_networks_of_two_families_are_refused(tiny, tmp_path):
    path = tmp_path / "xl.safetensors"
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    tensors = {
        f"{name}.lora_up.weight": torch.ones(4, 2),
        f"{name}.lora_down.weight": torch.ones(2, 8),
    }
    save_file(tensors, path)
    with pytest.raises(NetworkFileError, match="SDXL"):
        join(request(tmp_path, Weighted(tiny.network("lora")), Weighted(path)))


def test_the_base_is_asked_for(tiny, tmp_path):
    with pytest.raises(NetworkFileError, match="--base"):
        join(request(tmp_path, Weighted(tiny.network("lora")), Weighted(tiny.network("ia3"))))
    assert not (tmp_path / "out.safetensors").exists()
