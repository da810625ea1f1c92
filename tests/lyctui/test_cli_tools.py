"""The file tools as a shell and a script see them: files, exit codes, objects."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from lyctui.cli.program import app
from lyctui.verbs.tools import report_lines, rule_of, weighted
from tests.engine.tools.tiny_files import Tiny, distance

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"))


def call(*arguments):
    return RUNNER.invoke(app, [str(one) for one in arguments])


def result(done):
    """The one object that a tool says."""
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["v"] == 1
    return found


def test_convert_says_what_it_wrote_and_what_that_costs(tiny, tmp_path):
    output = tmp_path / "out.safetensors"
    done = call(
        "convert",
        tiny.network("loha"),
        "-o",
        output,
        "--for",
        "diffusers",
        "--rank",
        2,
        "--json",
        "--base",
        tiny.base,
    )
    assert done.exit_code == 0
    found = result(done)
    wrong = distance(tiny.changes(output), tiny.changes(tiny.network("loha")))
    assert found["error"] == pytest.approx(wrong, rel=1e-3)
    assert (found["tool"], found["output"], found["precision"]) == ("convert", str(output), "fp32")
    assert found["bytes"] == output.stat().st_size
    assert found["worst"]["error"] >= found["error"] > 0

    plain = call(
        "convert",
        tiny.network("loha"),
        "-o",
        output,
        "--to",
        "lora",
        "--rank",
        2,
        "--force",
        "--base",
        tiny.base,
    )
    assert plain.exit_code == 0
    assert "of the change, rounding included" in plain.stdout
    assert "fp32" in plain.stdout and "ranks      2" in plain.stdout


def test_merge_extract_resize_and_join_go_round(tiny, tmp_path):
    one, two = tiny.network("lora"), tiny.network("rs")
    merged, back = tmp_path / "merged.safetensors", tmp_path / "back.safetensors"
    small, joined = tmp_path / "small.safetensors", tmp_path / "joined.safetensors"
    assert call("merge", f"{one}=0.5", two, "--into", tiny.base, "-o", merged).exit_code == 0
    assert call("merge", f"{one}=0.5", two, "-o", joined, "--json").exit_code == 0
    done = call("extract", tiny.base, merged, "-o", back, "--rank", 8, "--precision", "fp32")
    assert done.exit_code == 0 and "unchanged" in done.stdout
    assert distance(tiny.changes(back), tiny.changes(joined)) < 1e-3
    done = call("resize", back, "-o", small, "--sv-fro", 0.9, "--json")
    assert done.exit_code == 0
    assert result(done)["error"] < 0.45


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["resize", "NET", "-o", "OUT"], 2, "No rule of rank"),
        (["resize", "NET", "-o", "OUT", "--rank", "2", "--error", "0.1"], 2, "Several rules"),
        (["resize", "NET", "-o", "OUT", "--rank", "0"], 2, "cannot be 0"),
        (["resize", "NET", "-o", "NET", "--rank", "2"], 3, "--force"),
        (["resize", "NONE", "-o", "OUT", "--rank", "2"], 3, "no such file"),
        (["convert", "IA3", "-o", "OUT", "--to", "diff"], 3, "--base"),
        (["convert", "NET", "-o", "OUT.ckpt"], 3, "safetensors"),
        (["merge", "NET=much", "--into", "BASE", "-o", "OUT"], 2, "no number"),
        (["merge", "NET", "--into", "BASE", "-o", "OUT", "--to", "diff"], 2, "--into"),
        (["merge", "NET", "--into", "NET", "-o", "OUT"], 3, "base model"),
        (["extract", "BASE", "NET", "-o", "OUT"], 3, "LoRA"),
        (["convert", "BASE", "-o", "OUT"], 3, "base model"),
        (["convert", "NET", "-o", "OUT", "--for", "paint"], 2, "paint"),
        (["convert", "NET"], 2, "output"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else "",
)
def test_mistakes_have_words_and_codes(tiny, tmp_path, arguments, code, words):
    places = {
        "NET": tiny.network("lora"),
        "IA3": tiny.network("ia3"),
        "BASE": tiny.base,
        "OUT": tmp_path / "out.safetensors",
        "NONE": tmp_path / "none.safetensors",
    }

    def filled(argument):
        for name, path in places.items():
            if argument == name or argument.startswith((f"{name}=", f"{name}.")):
                return argument.replace(name, str(path), 1)
        return argument

    done = call(*map(filled, arguments))
    assert done.exit_code == code
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []
    if "paint" not in arguments and len(arguments) > 2:
        as_objects = call(*map(filled, arguments), "--json")
        assert as_objects.exit_code == code
        assert all("what" in json.loads(line) for line in as_objects.stdout.splitlines())


def test_a_sdxl_network_on_an_sd1_checkpoint_is_refused(tiny, tmp_path):
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    tensors = {
        f"{name}.lora_up.weight": torch.ones(4, 2),
        f"{name}.lora_down.weight": torch.ones(2, 8),
    }
    save_file(tensors, tmp_path / "xl.safetensors")
    out = tmp_path / "out.safetensors"
    done = call("merge", tmp_path / "xl.safetensors", "--into", tiny.base, "-o", out)
    assert done.exit_code == 3 and "SDXL" in done.stderr
    assert not out.exists()


INTERRUPTED_IN_THE_MIDDLE = """
import os, signal, sys
from lyctui.cli import main
from lyctui.verbs import tools

*arguments, folder = sys.argv[1:]

def progress(done, total, name):
    if done == total // 2:
        print("files:", len(os.listdir(folder)), flush=True)
        os.kill(os.getpid(), signal.SIGINT)

tools.silent = progress
# A background job of a shell may have been started with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["lyctui", *arguments]
main()
"""


def test_an_interrupted_tool_leaves_nothing(tiny, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    command = ["merge", tiny.network("full"), "--into", tiny.base, "-o", folder / "m.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IN_THE_MIDDLE, *map(str, command), str(folder)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.strip() == "files: 1", "it had begun to write"
    assert done.returncode == 130
    assert "Nothing was written" in done.stderr
    assert list(folder.iterdir()) == []


def test_strengths_are_typed_behind_the_name(tmp_path):
    odd = tmp_path / "a=2"
    odd.write_bytes(b"")
    one, two, three = weighted([str(odd), f"{odd}=0.5", "b.safetensors=-1"])
    assert (one.path, one.strength) == (odd, 1.0)
    assert (two.path, two.strength) == (odd, 0.5)
    assert three.strength == -1.0
    assert rule_of(8, error=0.1).limit == 8


def test_info_of_a_converted_file_tells_who_loads_it(tiny, tmp_path):
    output = tmp_path / "out.safetensors"
    assert (
        call("convert", tiny.network("lokr tucker"), "-o", output, "--for", "comfyui").exit_code
        == 0
    )
    before = result(call("info", tiny.network("lokr tucker"), "--json"))
    after = result(call("info", output, "--json"))
    assert "ComfyUI" not in before["loads_in"] and "ComfyUI" in after["loads_in"]
    words = call("info", output, "--norms").stdout
    assert "loads in" in words and "lokr" in words


def test_the_report_has_no_control_characters_of_the_file(tiny):
    from pathlib import Path

    from engine.tools.requests import ModuleReport, ToolReport

    report = ToolReport(
        "convert",
        Path("x"),
        1,
        "fp16",
        (ModuleReport("a", "lora", 2, 0.5),),
        0.5,
        tuple(f"{n} is left out" for n in range(30)),
        ("a note",),
    )
    lines = report_lines(report)
    assert any("--json names them all" in line for line in lines)
    assert "note       a note" in lines
