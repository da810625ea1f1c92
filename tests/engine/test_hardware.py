"""Hardware is read through a stand-in for NVML: no card, several sizes, busy cards, hidden cards, MIG."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from engine import hardware
from engine.errors import EnvironmentFault
from engine.hardware import GIB, NO_GPU, choose_device, disk_free, read_hardware, usable_cores

STUB = Path(__file__).parents[1] / "stubs" / "nvml"


@pytest.fixture
def cards(monkeypatch):
    """Function that puts cards into this machine; none until it is called."""
    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.delenv("STUB_GPUS", raising=False)
    importlib.invalidate_caches()

    def put(*each):
        monkeypatch.setenv("STUB_GPUS", json.dumps(each))
        return read_hardware()

    yield put
    sys.modules.pop("pynvml", None)


def test_no_card_is_said_plainly_and_the_cpu_is_chosen(cards):
    machine = read_hardware()

    assert machine.gpus == ()
    assert machine.statement == NO_GPU
    assert choose_device("auto", machine).kind == "cpu"
    assert choose_device("auto", machine).reason == NO_GPU


def test_no_nvml_module_at_all_is_no_error(cards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert read_hardware().gpus == ()


@pytest.mark.parametrize("gib", [8, 12, 24])
def test_one_card_of_each_size(cards, gib):
    machine = cards({"gib": gib, "name": f"Card {gib}"})

    (gpu,) = machine.gpus
    assert (gpu.name, gpu.total, gpu.driver) == (f"Card {gib}", gib * GIB, "580.65")
    assert gpu.free == int((gib - 0.4) * GIB)
    assert gpu.bf16
    assert f"{gib - 0.4:.1f} free" in machine.statement
    assert choose_device("auto", machine).gpu == gpu
    assert machine.cuda_driver == (13, 0)


def test_a_card_before_ampere_has_no_bf16(cards):
    (gpu,) = cards({"gib": 8, "capability": [7, 5]}).gpus

    assert not gpu.bf16


def test_the_card_with_the_most_free_memory_is_chosen_and_the_busy_one_said(cards):
    machine = cards({"gib": 24, "free_gib": 2}, {"gib": 12})

    device = choose_device("auto", machine)
    assert device.gpu is not None and device.gpu.index == 1
    assert "most free memory" in device.reason
    assert machine.gpus[0].used_by_others == 22 * GIB
    assert "22.0 used by others" in machine.statement


def test_visible_devices_by_number(cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    machine = cards({"gib": 24, "name": "same"}, {"gib": 12, "name": "same"})

    assert [gpu.index for gpu in machine.usable] == [1]
    device = choose_device("auto", machine)
    assert device.gpu is not None and (device.gpu.index, device.gpu.cuda_index) == (1, 0)
    assert choose_device("cuda:0", machine).gpu == device.gpu
    assert not any("speed" in note for note in machine.notes)


def test_unlike_cards_counted_by_speed_are_told(cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    unlike = ({"gib": 24, "name": "fast"}, {"gib": 12, "name": "slow"})

    assert any("by speed" in note for note in cards(*unlike).notes)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert not any("by speed" in note for note in cards(*unlike).notes)


def test_visible_devices_by_uuid_and_its_beginning(cards, monkeypatch):
    two = ({"gib": 24, "uuid": "GPU-aaaa1111-x"}, {"gib": 12, "uuid": "GPU-bbbb2222-x"})
    for named in ("GPU-bbbb2222-x", "GPU-bbbb"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert [gpu.uuid for gpu in cards(*two).usable] == ["GPU-bbbb2222-x"]


def test_visible_devices_end_at_the_first_that_is_not_there(cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7,1")
    machine = cards({"gib": 24}, {"gib": 12})

    assert [gpu.index for gpu in machine.usable] == [0]
    assert any("'7'" in note for note in machine.notes)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_every_card_hidden_means_the_cpu(cards, monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    machine = cards({"gib": 24})

    assert machine.usable == ()
    assert machine.statement == NO_GPU
    assert any("hides every GPU" in note for note in machine.notes)
    assert choose_device("auto", machine).kind == "cpu"


def test_a_split_card_shows_its_parts(cards):
    machine = cards(
        {
            "gib": 80,
            "name": "Big",
            "capability": [9, 0],
            "mig": [{"uuid": "MIG-1", "gib": 20}, {"uuid": "MIG-2", "gib": 10}],
        }
    )

    assert [(gpu.uuid, gpu.total // GIB, gpu.mig_part) for gpu in machine.gpus] == [
        ("MIG-1", 20, True),
        ("MIG-2", 10, True),
    ]
    assert all(gpu.bf16 for gpu in machine.gpus)
    assert any("split by MIG into 2 parts" in note for note in machine.notes)


def test_a_card_is_named_by_number_uuid_or_cuda_number(cards):
    machine = cards({"gib": 24, "uuid": "GPU-aaaa1111-x"}, {"gib": 12, "uuid": "GPU-bbbb2222-x"})

    for name in ("1", "GPU-bbbb2222-x", "gpu-bbbb", "cuda:1"):
        gpu = choose_device(name, machine).gpu
        assert gpu is not None and gpu.index == 1
    assert choose_device("cpu", machine).kind == "cpu"


@pytest.mark.parametrize("name", ["3", "cuda:9", "GPU-none-here", "potato"])
def test_a_card_that_is_not_there_is_refused_with_those_that_are(cards, name):
    machine = cards({"gib": 24, "name": "Card"})

    with pytest.raises(EnvironmentFault) as caught:
        choose_device(name, machine)
    (problem,) = caught.value.problems
    assert problem.path == "train.device"
    assert "0 (Card)" in problem.remedy


def test_asking_for_a_card_without_any_is_refused(cards):
    with pytest.raises(EnvironmentFault, match="no NVIDIA GPU"):
        choose_device("cuda", read_hardware())


def test_a_torch_without_cuda_beside_a_card_is_told(cards, monkeypatch):
    build = hardware.TorchBuild("9.9+cpu", None)
    monkeypatch.setattr(hardware, "torch_build", lambda: build)

    assert any("without CUDA" in note for note in cards({"gib": 8}).notes)
    monkeypatch.setattr(hardware, "torch_build", lambda: hardware.TorchBuild("9.9", "12.8"))
    assert not any("without CUDA" in note for note in cards({"gib": 8}).notes)


def test_the_torch_build_is_read_without_importing_it():
    build = hardware.torch_build()

    assert build is not None
    import torch

    assert build.version.split("+")[0] == torch.__version__.split("+")[0]
    assert build.cuda == torch.version.cuda


def test_cores_memory_and_disk(tmp_path):
    machine = read_hardware()

    assert usable_cores() == machine.cores >= 1
    assert 0 < machine.ram_free <= machine.ram_total
    assert disk_free(tmp_path / "not" / "made" / "yet") == pytest.approx(
        disk_free(tmp_path), rel=0.1
    )
