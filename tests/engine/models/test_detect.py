"""A base model is told by its headers alone: quickly, without torch, and by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from engine.errors import ModelError
from engine.models.architecture import full_size
from engine.models.detect import find_models, inspect_model, settle_choice
from tests.tiny import write_tiny_sd1, write_tiny_sd1_folder

UNET = "model.diffusion_model."


def write_names(path: Path, shapes: dict[str, list[int]], **metadata: str) -> Path:
    """A file of fp16 zeros with the given names."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        count = 2
        for side in shape:
            count *= side
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [place, place + count]}
        place += count
    body = json.dumps(entries).encode()
    path.write_bytes(len(body).to_bytes(8, "little") + body + bytes(place))
    return path


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cond_stage_model.model.ln_final.weight", UNET + "out.2.weight"], "Stable Diffusion 2"),
        (
            [
                "conditioner.embedders.0.transformer.x",
                "conditioner.embedders.1.model.ln_final.weight",
            ],
            "Stable Diffusion XL",
        ),
        (["conditioner.embedders.0.model.ln_final.weight"], "refiner"),
        ([UNET + "joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "FLUX"),
        (["lora_unet_down_blocks_0.lora_down.weight"], "LoRA"),
        (["lora_unet_mid_block.lokr_w1"], "LyCORIS"),
        (["unet.down_blocks.0.attn.to_q.lora_A.weight"], "LoRA"),
        (["control_model.input_blocks.0.0.weight"], "ControlNet"),
        (["emb_params"], "textual inversion"),
        (["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"], "model.vae"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "text encoder alone"),
        (["down_blocks.0.resnets.0.conv1.weight"], "model_index.json"),
        ([UNET + "input_blocks.0.0.weight"], "without its text encoder"),
        (["something.else"], "no base model"),
    ],
)
def test_other_things_are_refused_by_name(tmp_path: Path, names: list[str], words: str) -> None:
    path = write_names(tmp_path / "m.safetensors", {name: [2, 2] for name in names})
    facts = inspect_model(path)
    assert facts.problems and words in str(facts.problems[0])
    assert facts.architecture is None
    with pytest.raises(ModelError, match=words):
        settle_choice(facts)


def test_a_small_sd2_is_not_taken_for_sd1(tmp_path: Path) -> None:
    """Widths of SD1, names of SD2; too few of them to be built."""
    shapes = {
        UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 768],
        "cond_stage_model.model.ln_final.weight": [768],
    }
    facts = inspect_model(write_names(tmp_path / "m.safetensors", shapes))
    assert facts.family == "sd2" and "not built like Stable Diffusion 2" in str(facts.problems[0])


def test_a_tiny_sd1_file_tells_everything(tiny_file: Path) -> None:
    facts = inspect_model(tiny_file)
    assert (facts.family, facts.layout, facts.dtype) == ("sd1", "single", "fp32")
    assert facts.problems == () and facts.has_vae and not facts.inpainting
    assert facts.native_resolution == 128
    assert (facts.unet_parameters, facts.te_parameters) == (3_277_988, 3_317_120)
    assert facts.bytes == tiny_file.stat().st_size
    architecture = facts.architecture
    assert architecture is not None
    assert architecture.channels == (32, 64, 64, 64)
    assert architecture.unet["attention_head_dim"] == 4
    assert architecture.unet["norm_num_groups"] == 8
    assert architecture.text_encoder["num_hidden_layers"] == 3
    assert architecture.vae["layers_per_block"] == 1


def test_a_folder_tells_the_same_as_its_file(tiny_file: Path, tiny_folder: Path) -> None:
    file, folder = inspect_model(tiny_file), inspect_model(tiny_folder)
    assert folder.layout == "folder"
    assert folder.family == file.family
    assert folder.unet_parameters == file.unet_parameters
    assert folder.te_parameters == file.te_parameters
    assert file.architecture is not None and folder.architecture is not None
    for name in ("block_out_channels", "cross_attention_dim", "down_block_types", "sample_size"):
        assert list_or_value(file.architecture.unet[name]) == list_or_value(
            folder.architecture.unet[name]
        )


def list_or_value(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


def test_v_prediction_is_found_where_it_is_marked(tmp_path: Path, tiny_file: Path) -> None:
    by_tensor = inspect_model(write_tiny_sd1(tmp_path / "a.safetensors", prediction="v"))
    assert by_tensor.prediction == "v" and "marker" in by_tensor.prediction_source
    by_metadata = inspect_model(
        write_tiny_sd1(tmp_path / "b.safetensors", prediction="v", marker="metadata")
    )
    assert by_metadata.prediction == "v" and "metadata" in by_metadata.prediction_source
    folder = inspect_model(write_tiny_sd1_folder(tmp_path / "c", prediction="v"))
    assert folder.prediction == "v" and "scheduler" in folder.prediction_source
    plain = inspect_model(tiny_file)
    assert plain.prediction == "epsilon" and "usual" in plain.prediction_source


def test_your_choice_wins_over_a_guess_but_not_over_a_mark(tmp_path: Path, tiny_file: Path) -> None:
    plain = inspect_model(tiny_file)
    assert settle_choice(plain) == ("epsilon", plain.prediction_source)
    assert settle_choice(plain, prediction="v") == ("v", "your choice")
    marked = inspect_model(write_tiny_sd1(tmp_path / "a.safetensors", prediction="v"))
    assert settle_choice(marked, prediction="v")[0] == "v"
    with pytest.raises(ModelError, match="predicts v") as error:
        settle_choice(marked, prediction="epsilon")
    assert error.value.problems[0].path == "model.prediction"


def test_a_family_that_contradicts_the_file_is_refused(tmp_path: Path, tiny_file: Path) -> None:
    with pytest.raises(ModelError, match="is Stable Diffusion 1, not Stable Diffusion XL"):
        settle_choice(inspect_model(tiny_file), family="sdxl")
    other = write_names(tmp_path / "m.safetensors", {"cond_stage_model.model.x": [2]})
    with pytest.raises(ModelError) as error:
        settle_choice(inspect_model(other), family="sd1")
    assert len(error.value.problems) == 2, "both mistakes at once"


def test_models_that_read_other_channels_are_refused_by_name(tmp_path: Path) -> None:
    edits = inspect_model(write_tiny_sd1(tmp_path / "b.safetensors", in_channels=8))
    assert "InstructPix2Pix" in str(edits.problems[0])
    upscaler = {
        "cond_stage_model.model.ln_final.weight": [2],
        UNET + "label_emb.weight": [2, 2],
        UNET + "input_blocks.0.0.weight": [2, 7, 3, 3],
    }
    facts = inspect_model(write_names(tmp_path / "c.safetensors", upscaler))
    assert facts.family == "sd2" and "reads 7 channels" in str(facts.problems[0])


@pytest.mark.parametrize("unet", [{"norm_num_groups": 10**9}, {"norm_num_groups": "8"}, [1], None])
def test_a_header_that_tells_nonsense_is_not_believed(tmp_path: Path, unet: object) -> None:
    told = {"unet": unet, "vae": {"norm_num_groups": 4}, "text_encoder": {"num_attention_heads": 4}}
    path = write_tiny_sd1(
        tmp_path / "a.safetensors", metadata={"lyctui.model_config": json.dumps(told)}
    )
    architecture = inspect_model(path).architecture
    assert architecture is not None
    assert architecture.unet["norm_num_groups"] == 32, "the family's own"


def test_groups_that_do_not_divide_are_a_problem(tmp_path: Path) -> None:
    told = json.dumps({"unet": {"norm_num_groups": 7}})
    path = write_tiny_sd1(tmp_path / "a.safetensors", metadata={"lyctui.model_config": told})
    assert "7 groups" in str(inspect_model(path).problems[0])


def test_a_damaged_structure_is_a_problem_not_a_traceback(tmp_path: Path) -> None:
    shapes = {
        UNET + "input_blocks.0.0.weight": [32, 4, 3, 3],
        "cond_stage_model.transformer.x": [2],
    }
    facts = inspect_model(write_names(tmp_path / "m.safetensors", shapes))
    assert "U-Net" in str(facts.problems[0]) or "unet" in str(facts.problems[0])


def test_a_ckpt_says_after_loading(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(b"anything: nothing in it is read")
    facts = inspect_model(path)
    assert facts.layout == "ckpt" and facts.family is None
    assert facts.prediction_source == "after loading" and facts.title == "known after loading"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        inspect_model(tmp_path / "missing.safetensors")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ModelError, match=r"not \.txt"):
        inspect_model(tmp_path / "a.txt")
    with pytest.raises(ModelError, match="diffusers' layout"):
        inspect_model(tmp_path)


def test_an_incomplete_folder_names_what_it_lacks(tmp_path: Path) -> None:
    folder = write_tiny_sd1_folder(tmp_path / "m")
    (folder / "text_encoder" / "config.json").unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    told = " ".join(str(problem) for problem in inspect_model(folder).problems)
    assert "text_encoder/config.json" in told and "weights in unet" in told


def test_models_are_found_and_other_files_left_out(tmp_path: Path, tiny_file: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.safetensors").symlink_to(tiny_file)
    write_tiny_sd1_folder(tmp_path / "folder")
    write_names(tmp_path / "lora.safetensors", {"x.lora_up.weight": [2]})
    write_names(tmp_path / "xl.safetensors", {"conditioner.embedders.1.model.x": [2]})
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "b.safetensors").symlink_to(tiny_file)
    (tmp_path / "old.ckpt").write_bytes(b"x")
    found = find_models([tmp_path, tmp_path / "nowhere"])
    assert [facts.path.name for facts in found] == [
        "base.safetensors",
        "folder",
        "old.ckpt",
        "xl.safetensors",
    ]


def test_facts_need_no_torch(tiny_file: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from engine.models.detect import inspect_model, find_models\n"
        "from engine.models.shapes import layer_shapes\n"
        "import engine.prompts\n"
        f"facts = inspect_model(Path({str(tiny_file)!r}))\n"
        "layer_shapes(facts.architecture)\n"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'numpy') if n in sys.modules])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_facts_are_read_from_the_header_alone(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    real = Path.open

    def counting(path: Path, mode: str = "r") -> Any:
        file = real(path, mode)
        seen = MagicMock(wraps=file)
        seen.__enter__.return_value = seen
        seen.__exit__.side_effect = lambda *_: file.close()
        seen.read.side_effect = lambda size=-1: taken.append(size) or file.read(size)
        return seen

    monkeypatch.setattr(Path, "open", counting)
    inspect_model(tiny_file)
    monkeypatch.undo()

    header = 8 + int.from_bytes(tiny_file.read_bytes()[:8], "little")
    assert 0 < sum(taken) <= header and min(taken) > 0


def test_the_published_size_is_that_of_sd15() -> None:
    architecture = full_size("sd1")
    assert architecture.native_resolution == 512
    assert architecture.channels == (320, 640, 1280, 1280)
