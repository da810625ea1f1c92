"""Networks go into a checkpoint as they run, within little memory, whole or not at all."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.errors import EnvironmentFault, ModelError, NetworkFileError, UsageError
from engine.tools.merge import merge
from engine.tools.requests import Cancelled, MergeRequest, Weighted
from tests.engine.tools.tiny_files import CHOICES, distance


def request(tiny, output, *networks, **more):
    weighted = tuple(one if isinstance(one, Weighted) else Weighted(one) for one in networks)
    return MergeRequest(base=tiny.base, networks=weighted, output=output, **more)


@pytest.mark.parametrize("kind", CHOICES)
def test_a_merged_weight_is_the_weight_plus_the_change(tiny, tmp_path, kind):
    path = tiny.network(kind)
    report = merge(request(tiny, tmp_path / "m.safetensors", Weighted(path, 0.7)))

    before = tiny.weights(load_file(tiny.base))
    after = tiny.weights(load_file(tmp_path / "m.safetensors"))
    changes = tiny.changes(path)
    found = {name: after[name].double() - before[name].double() for name in before}
    wanted = {}
    for name, change in changes.items():
        wanted[name if name.endswith(".bias") else f"{name}.weight"] = change * 0.7
    assert distance(found, wanted) < 2e-5
    # What no network changes is the same to the bit.
    assert all(torch.equal(before[name], after[name]) for name in before if name not in wanted)
    assert len(report.modules) == len(tiny.read(path).members)


def test_everything_else_of_the_file_stays_as_it_is(tiny, tmp_path):
    output = tmp_path / "m.safetensors"
    merge(request(tiny, output, tiny.network("lora")))

    before, after = load_file(tiny.base), load_file(output)
    assert list(before) == list(after)
    assert all(before[name].dtype == after[name].dtype for name in before)
    untouched = [name for name in before if name.startswith("first_stage_model.")]
    assert untouched and all(torch.equal(before[name], after[name]) for name in untouched)
    with safe_open(output, "pt") as file:
        told = json.loads(file.metadata()["lyctui.tool"])
        assert "lyctui.model_config" in file.metadata()
    assert told[-1]["tool"] == "merge" and told[-1]["networks"][0]["strength"] == 1.0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["locon", "boft", "full", "norms", "dora output"])
def test_the_merged_model_gives_what_the_network_gives(tiny, tmp_path, kind):
    from engine.models.load import load_model

    path, output = tiny.network(kind), tmp_path / "m.safetensors"
    merge(request(tiny, output, path))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    context = torch.randn(1, 77, 64, generator=generator)
    time = torch.tensor([500])
    ids = torch.arange(77)[None] + 320
    network = tiny.read(path)
    plain = tiny.unet(latents, time, context).sample
    network.inject()
    wanted = tiny.unet(latents, time, context).sample
    wanted_text = tiny.text(ids).last_hidden_state
    network.eject()

    merged = load_model(output)
    parts = merged.components()
    found = parts["unet"](latents, time, context).sample
    assert (wanted - plain).norm() > 1e-3 * plain.norm()
    assert (found - wanted).norm() < 1e-3 * (wanted - plain).norm()
    found_text = parts["te"](ids).last_hidden_state
    torch.testing.assert_close(found_text, wanted_text, rtol=1e-4, atol=1e-4)


def test_several_networks_add_up_whatever_their_order(tiny, tmp_path):
    one, two = tiny.network("lora"), tiny.network("loha")
    merge(request(tiny, tmp_path / "a.safetensors", Weighted(one, 0.5), Weighted(two, -1)))
    merge(request(tiny, tmp_path / "b.safetensors", Weighted(two, -1), Weighted(one, 0.5)))

    before = tiny.weights(load_file(tiny.base))
    a, b = (tiny.weights(load_file(tmp_path / f"{name}.safetensors")) for name in "ab")
    wanted = {}
    for path, strength in ((one, 0.5), (two, -1)):
        for name, change in tiny.changes(path).items():
            key = f"{name}.weight"
            wanted[key] = wanted.get(key, 0) + change * strength
    assert distance({name: a[name].double() - before[name].double() for name in a}, wanted) < 2e-5
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-6


def test_half_precision_is_rounded_once_and_the_loss_is_told(tiny, tmp_path):
    path = tiny.network("lora")
    report = merge(request(tiny, tmp_path / "m.safetensors", path, precision="fp16"))

    before = tiny.weights(load_file(tiny.base))
    state = load_file(tmp_path / "m.safetensors")
    after = tiny.weights(state)
    assert {tensor.dtype for tensor in state.values()} <= {torch.float16, torch.int64}
    for name, change in tiny.changes(path).items():
        exact = before[f"{name}.weight"] + change.float()
        worst = float((after[f"{name}.weight"].float() - exact).abs().max())
        assert worst <= float(exact.abs().max()) * 2**-11 * 1.01
    assert report.precision == "fp16" and 0 < report.error < 0.1
    assert report.worst is not None


def test_a_network_of_another_family_is_refused_by_name(tiny, tmp_path):
    path = tmp_path / "xl.safetensors"
    key = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
    save_file(
        {
            f"{key}.lora_up.weight": torch.ones(4, 2),
            f"{key}.lora_down.weight": torch.ones(2, 2048),
            f"{key}.alpha": torch.tensor(1.0),
        },
        path,
    )
    with pytest.raises(NetworkFileError, match="SDXL"):
        merge(request(tiny, tmp_path / "m.safetensors", path))
    assert not (tmp_path / "m.safetensors").exists()


def test_wrong_paths_are_told_at_once(tiny, tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    wrong = MergeRequest(
        base=tmp_path / "none.safetensors",
        networks=(Weighted(tmp_path / "no.ckpt"),),
        output=tmp_path / "there.safetensors",
    )
    with pytest.raises(EnvironmentFault) as raised:
        merge(wrong)
    assert len(raised.value.problems) == 3
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="strength"):
        merge(
            request(tiny, tmp_path / "m.safetensors", Weighted(tiny.network("lora"), float("nan")))
        )


def test_force_replaces_even_the_base_itself(tiny, tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(tiny.base.read_bytes())
    wanted = request(tiny, tmp_path / "other.safetensors", tiny.network("lora"))
    merge(wanted)
    merge(MergeRequest(base=own, networks=wanted.networks, output=own, force=True))

    a, b = load_file(own), load_file(wanted.output)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt])
def test_an_interruption_leaves_nothing(tiny, tmp_path, error):
    def stop(done, total, name):
        if done == 100:
            raise error

    output = tmp_path / "out" / "m.safetensors"
    output.parent.mkdir()
    with pytest.raises(error):
        merge(request(tiny, output, tiny.network("lora")), stop)
    assert list(output.parent.iterdir()) == []


def test_a_full_disk_is_told_in_words_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    import engine.tools.stream as stream

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream.os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        merge(request(tiny, tmp_path / "m.safetensors", tiny.network("lora")))
    assert list(tmp_path.iterdir()) == []


def test_progress_names_every_tensor(tiny, tmp_path):
    seen = []
    merge(
        request(tiny, tmp_path / "m.safetensors", tiny.network("lora")),
        lambda done, total, name: seen.append((done, total, name)),
    )
    total = len(load_file(tiny.base))
    assert [done for done, _, _ in seen] == list(range(total + 1))
    assert {total for _, total, _ in seen} == {total}


PEAK = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from engine.tools.merge import merge
from engine.tools.requests import MergeRequest, Weighted
import engine.networks.table
folder = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = merge(MergeRequest(base=folder / "base.safetensors",
    networks=(Weighted(folder / "net.safetensors"),), output=folder / "out.safetensors"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, report.bytes)
"""


def test_a_large_checkpoint_needs_little_memory(tiny, tmp_path):
    large = {"first_stage_model.decoder.filler." + str(n): torch.zeros(1 << 22) for n in range(24)}
    save_file(load_file(tiny.base) | large, tmp_path / "base.safetensors")
    (tmp_path / "net.safetensors").write_bytes(tiny.network("full").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    extra_kilobytes, size = map(int, done.stdout.split())
    assert size > 24 * (16 << 20)
    # The largest tensor has 16 MB; the file has 400.
    assert extra_kilobytes < 100_000


def test_a_base_that_is_overwritten_meanwhile_gives_no_file(tiny, tmp_path):
    base, output = tmp_path / "base.safetensors", tmp_path / "m.safetensors"
    base.write_bytes(tiny.base.read_bytes())
    merging = replace(request(tiny, output, tiny.network("lora")), base=base)

    def overwrite(done, total, what):
        if done == 3:
            with base.open("r+b") as file:
                file.write(bytes(64))
            os.utime(base, ns=(1, 1))

    with pytest.raises(ModelError, match="changed while it was read"):
        merge(merging, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]
