"""The doctor names what is wrong and what to do, for cards, builds and terminals it is told of."""

from pathlib import Path

import pytest

from engine.hardware import GIB, NO_GPU, Gpu, Hardware
from lyctui import doctor, terminal
from lyctui.doctor import (
    Check,
    check_adamw8bit,
    check_gpus,
    check_logout,
    check_terminal,
    check_torch,
    runs_on,
)

GOOD = {
    "version": "2.9.0",
    "cuda": "12.8",
    "available": True,
    "architectures": ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"],
    "adamw8bit": [True, ""],
}


def machine(*, capability=(8, 6), cuda_driver=(13, 0), others=0) -> Hardware:
    gpu = Gpu(
        index=0,
        uuid="GPU-0",
        name="Card",
        total=12 * GIB,
        free=12 * GIB - others,
        used_by_others=others,
        driver="580.65",
        capability=capability,
    )
    return Hardware((gpu,), cores=8, ram_total=32 * GIB, ram_free=20 * GIB, cuda_driver=cuda_driver)


NOTHING = Hardware((), cores=2, ram_total=8 * GIB, ram_free=4 * GIB)


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((6, 1), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_100", "sm_120"], True),
        ((8, 6), [], False),
    ],
)
def test_whether_a_build_has_code_for_a_card(capability, architectures, runs):
    assert runs_on(capability, architectures) is runs


def test_a_good_machine_has_no_fault():
    checks = check_torch(machine(), GOOD)

    assert states(checks) == {"torch": "ok", "driver": "ok", "architecture": "ok"}


def test_a_card_without_code_is_a_fault_that_says_in_which_direction():
    old = check_torch(machine(capability=(6, 1)), GOOD)[-1]
    new = check_torch(machine(capability=(12, 0)), {**GOOD, "architectures": ["sm_80", "sm_90"]})[
        -1
    ]

    assert (old.state, new.state) == ("fault", "fault")
    assert "too old" in old.remedy and "newer than this torch" in new.remedy
    assert "sm_61" in old.found


def test_an_old_driver_is_a_fault():
    (_, driver, *_) = check_torch(machine(cuda_driver=(11, 8)), GOOD)

    assert driver.state == "fault"
    assert "12.8" in driver.remedy


def test_a_cpu_build_beside_a_card_is_a_fault_and_without_one_is_none():
    build = {**GOOD, "cuda": None, "available": False}

    assert check_torch(machine(), build)[0].state == "fault"
    assert check_torch(NOTHING, build)[0].state == "ok"


def test_a_torch_that_does_not_import_is_a_fault():
    (check,) = check_torch(NOTHING, {"error": "ImportError: libcudart"})

    assert check.state == "fault" and "libcudart" in check.found and check.remedy


def test_torch_that_finds_no_card_is_a_fault():
    checks = check_torch(machine(), {**GOOD, "available": False})

    assert checks[-1].state == "fault" and "driver" in checks[-1].remedy


def test_no_card_is_said_plainly():
    (check,) = check_gpus(NOTHING)

    assert (check.state, check.found) == ("warning", NO_GPU)


def test_memory_held_by_others_is_a_warning():
    assert check_gpus(machine())[0].state == "ok"
    busy = check_gpus(machine(others=8 * GIB))[0]
    assert busy.state == "warning" and "8.0 used by others" in busy.found


def test_a_broken_8_bit_step_names_the_reason_and_what_happens_instead():
    check = check_adamw8bit(machine(), {**GOOD, "adamw8bit": [False, "no kernel image"]})

    assert check.state == "warning"
    assert "no kernel image" in check.found and "AdamW" in check.remedy
    assert check_adamw8bit(machine(), GOOD).state == "ok"


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ([], "ok"),
        (["[Login]\n#KillUserProcesses=yes\n"], "ok"),
        (["[Login]\nKillUserProcesses=yes\n"], "warning"),
        (["[Login]\nKillUserProcesses=yes\n", "[Login]\nKillUserProcesses=no\n"], "ok"),
        (["this is no file of that kind"], "ok"),
    ],
)
def test_killing_on_logout_is_read_from_logind(tmp_path, files, state):
    paths = []
    for number, content in enumerate(files):
        path = tmp_path / f"{number}.conf"
        path.write_text(content)
        paths.append(path)

    assert check_logout([*paths, Path("/not/there")]).state == state


def test_the_terminal_is_judged_by_size_colour_and_line(monkeypatch):
    monkeypatch.setattr(terminal, "is_terminal", lambda *streams: True)
    monkeypatch.setattr(doctor.shutil, "get_terminal_size", lambda: (50, 10))
    small = check_terminal({"TERM": "xterm-256color", "SSH_CONNECTION": "a 1 b 2"})

    assert states(small)["terminal"] == "warning"
    assert "256 colours" in small[0].found and "60x16" in small[0].remedy
    assert states(small)["SSH"] == "warning"
    inside = check_terminal({"TERM": "screen", "SSH_CONNECTION": "a 1 b 2", "TMUX": "x"})
    assert states(inside)["tmux"] == "ok"


def test_the_probe_runs_in_a_process_of_its_own(monkeypatch):
    import sys

    # A run of another test may have imported it.
    monkeypatch.delitem(sys.modules, "engine.optim.probe", raising=False)
    answer = doctor.probe_torch()

    assert answer["version"].startswith("2.")
    assert set(answer) >= {"cuda", "available", "architectures", "adamw8bit"}
    assert "engine.optim.probe" not in sys.modules


def test_a_process_that_dies_is_an_answer_too(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE", "import os; os._exit(77)")

    assert "77" in doctor.probe_torch()["error"]
