"""Files and folders of all families: what they are told to be, and that loading changes no number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import ModelError
from engine.hardware import Hardware
from engine.models import source
from engine.models.architecture import family_config
from engine.models.detect import inspect_model, settle_choice
from engine.models.family import BaseModel
from engine.models.headers import Header
from engine.models.load import load_model
from engine.models.vae_facts import vae_problems
from engine.plan import Facts, plan
from engine.settings.check import parse
from tests.tiny_families import (
    FAMILIES,
    Family,
    FamilyModules,
    family_modules,
    model_config,
    write_tiny,
)

TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
Files = dict[Family, Path]


def restamped(
    path: Path,
    base: Path,
    *,
    extra: tuple[str, ...] = (),
    shapes: dict[str, list[int]] | None = None,
    without: str = "-",
    **metadata: str,
) -> Path:
    """A file with the header of another, changed a little, and a hole where its numbers would be."""
    with base.open("rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    told = entries.pop("__metadata__") | metadata
    kept = {name: entry["shape"] for name, entry in entries.items() if without not in name}
    place, header = 0, {"__metadata__": told}
    for name, shape in (kept | (shapes or {}) | {name: [0] for name in extra}).items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    body = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(body).to_bytes(8, "little") + body)
        file.truncate(8 + len(body) + place)
    return path


def same(found: nn.Module, wanted: nn.Module) -> bool:
    one, other = found.state_dict(), wanted.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


def assert_is(model: Any, modules: FamilyModules) -> None:
    for part in PARTS:
        wanted = getattr(modules, part)
        if wanted is not None:
            assert same(getattr(model, part), wanted), part


# what it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_file_and_folder_tell_the_same(
    family: Family, family_files: Files, family_folders: Files, family_originals: Any
) -> None:
    file, folder = inspect_model(family_files[family]), inspect_model(family_folders[family])
    modules = family_originals[family]
    encoders = [part for part in (modules.text_encoder, modules.text_encoder_2) if part is not None]
    numbers = [sum(p.numel() for p in part.parameters()) for part in (modules.unet, *encoders)]
    for facts in (file, folder):
        assert (facts.family, facts.title, facts.problems) == (family, TITLES[family], ())
        assert facts.unet_parameters == numbers[0]
        assert facts.te_parameters == sum(numbers[1:])
        assert facts.native_resolution == 128 and not facts.inpainting and facts.has_vae
    assert file.architecture is not None and folder.architecture is not None
    for name in ("block_out_channels", "cross_attention_dim", "in_channels", "attention_head_dim"):
        assert as_list(file.architecture.unet[name]) == as_list(folder.architecture.unet[name])
    if family == "sdxl":
        assert file.architecture.unet["transformer_layers_per_block"] == [1, 1, 2]
        assert file.architecture.unet["addition_time_embed_dim"] == 8
    assert (file.architecture.text_encoder_2 is None) == (family != "sdxl")
    assert file.architecture.text_encoder["num_hidden_layers"] == 3


def as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("family", FAMILIES)
def test_prediction_is_what_is_marked_else_assumed_and_said(
    family: Family, tmp_path: Path, family_files: Files, family_folders: Files
) -> None:
    base = family_files[family]
    plain = inspect_model(base)
    assert plain.prediction == "epsilon"
    assert plain.prediction_assumed == (family != "sd1"), "asked for where it is doubtful"
    assert ("does not tell" in plain.prediction_source) == (family != "sd1")
    by_tensor = inspect_model(restamped(tmp_path / "a.safetensors", base, extra=("v_pred",)))
    assert by_tensor.prediction == "v" and "v_pred" in by_tensor.prediction_source
    told = {"modelspec.prediction_type": "v"}
    by_metadata = inspect_model(restamped(tmp_path / "b.safetensors", base, **told))
    assert by_metadata.prediction == "v" and "metadata" in by_metadata.prediction_source
    by_folder = inspect_model(family_folders[family])
    assert by_folder.prediction == "epsilon" and "scheduler_config" in by_folder.prediction_source
    for facts in (by_tensor, by_metadata, by_folder):
        assert not facts.prediction_assumed
    # A choice wins over what is assumed, and is refused where the file says otherwise.
    assert settle_choice(plain, prediction="v") == ("v", "your choice")
    for facts, other in ((by_tensor, "epsilon"), (by_metadata, "epsilon"), (by_folder, "v")):
        with pytest.raises(ModelError, match="predicts") as error:
            settle_choice(facts, prediction=other)
        assert error.value.problems[0].path == "model.prediction"


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_folders_without_a_scheduler_or_with_v(
    family: Family, tmp_path: Path, family_folders: Files
) -> None:
    for part in family_folders[family].iterdir():
        if part.name != "scheduler":
            (tmp_path / part.name).symlink_to(part)
    silent = inspect_model(tmp_path)
    assert (silent.prediction, silent.prediction_assumed) == ("epsilon", True)
    (tmp_path / "scheduler").mkdir()
    told = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    velocity = inspect_model(tmp_path)
    assert (velocity.prediction, velocity.prediction_assumed) == ("v", False)
    assert velocity.zero_terminal_snr


def test_zero_terminal_snr_is_read_where_it_is_marked(tmp_path: Path, family_files: Files) -> None:
    base = family_files["sdxl"]
    assert not inspect_model(base).zero_terminal_snr
    both = restamped(tmp_path / "a.safetensors", base, extra=("v_pred", "ztsnr"))
    assert inspect_model(both).zero_terminal_snr


def test_the_512_model_of_sd2_is_known_by_its_header(tmp_path: Path, family_files: Files) -> None:
    told = {"lyctui.model_config": json.dumps(sizes_without_side("sd2"))}
    base = family_files["sd2"]
    assert (
        inspect_model(restamped(tmp_path / "a.safetensors", base, **told)).native_resolution == 768
    )
    told["modelspec.architecture"] = "stable-diffusion-v2-512"
    assert (
        inspect_model(restamped(tmp_path / "b.safetensors", base, **told)).native_resolution == 512
    )


def sizes_without_side(family: Family) -> dict[str, Any]:
    told = model_config(family)
    del told["unet"]["sample_size"]
    return told


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", FAMILIES)
def test_a_choice_that_contradicts_the_file_is_refused_before_anything_loads(
    family: Family, choice: Family, tmp_path: Path, family_files: Files
) -> None:
    path = restamped(tmp_path / "a.safetensors", family_files[family], extra=("v_pred",))
    if choice == family:
        assert settle_choice(inspect_model(path), family=choice)[0] == "v"
        return
    with pytest.raises(ModelError) as error:
        load_model(path, family=choice, prediction="epsilon")
    assert [problem.path for problem in error.value.problems] == [
        "model.family",
        "model.prediction",
    ]
    assert f"is {TITLES[family]}, not {TITLES[choice]}" in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_channels_tells_the_variant(
    family: Family, tmp_path: Path, family_files: Files
) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    found = {
        count: inspect_model(
            restamped(
                tmp_path / f"{count}.safetensors",
                family_files[family],
                shapes={name: [32, count, 3, 3]},
            )
        )
        for count in (5, 8, 9)
    }
    assert found[9].inpainting and not found[9].problems
    assert found[9].title == f"{TITLES[family]} inpainting"
    assert "InstructPix2Pix" in str(found[8].problems[0])
    assert "reads 5 channels" in str(found[5].problems[0])
    assert found[5].architecture is found[8].architecture is None


def test_the_refiner_is_refused_as_a_folder_too(tmp_path: Path, family_folders: Files) -> None:
    for part in ("unet", "vae", "text_encoder_2", "model_index.json"):
        (tmp_path / part).symlink_to(family_folders["sdxl"] / part)
    facts = inspect_model(tmp_path)
    assert facts.family is None and "refiner" in str(facts.problems[0])


def test_a_text_encoder_that_is_missing_is_said(
    tmp_path: Path, family_files: Files, family_folders: Files
) -> None:
    path = restamped(
        tmp_path / "a.safetensors", family_files["sdxl"], without="conditioner.embedders.1."
    )
    assert "text encoder 2" in str(inspect_model(path).problems[0])
    folder = tmp_path / "folder"
    folder.mkdir()
    for part in ("unet", "vae", "text_encoder", "model_index.json"):
        (folder / part).symlink_to(family_folders["sdxl"] / part)
    (folder / "text_encoder_2").mkdir()
    assert "text_encoder_2/config.json" in str(inspect_model(folder).problems[0])


# loading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_file_and_folder_give_the_exact_weights_and_the_same_answers(
    family: Family,
    family_folders: Files,
    family_models: dict[Family, BaseModel],
    family_originals: dict[Family, FamilyModules],
) -> None:
    file, folder = family_models[family], load_model(family_folders[family])
    for model in (file, folder):
        assert_is(model, family_originals[family])
        for part in model.components().values():
            assert not any(p.requires_grad or p.is_meta for p in part.parameters())
            assert not any(module.training for module in part.modules())
    assert (file.te_hash, file.vae_hash) == (folder.te_hash, folder.vae_hash)
    assert file.sha256 != folder.sha256
    noisy, timesteps = torch.randn(1, 4, 16, 16), torch.tensor([500])
    with torch.no_grad():
        answers = [
            model.predict(noisy, timesteps, model.encode_text(["a cat"], max_tokens=150))
            for model in (file, folder)
        ]
    # Tensors that are mapped from files lie at other addresses, which may change the last bit.
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-5)


def test_projections_of_sd2_may_be_convolutions(tmp_path: Path) -> None:
    model: Any = load_model(write_tiny(tmp_path / "a.safetensors", "sd2", seed=1, linear=False))
    assert isinstance(model.unet.mid_block.attentions[0].proj_in, nn.Linear)
    stored = family_modules("sd2", 1, linear=False).unet.state_dict()
    for name, weight in model.unet.state_dict().items():
        assert weight.equal(stored[name].reshape(weight.shape)), name


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_wanted_number_format_and_a_vae_in_fp32(family: Family, family_files: Files) -> None:
    model: Any = load_model(family_files[family], dtype=torch.bfloat16)
    for name, part in {**model.components(), "vae": model.vae}.items():
        wanted = torch.float32 if name == "vae" else torch.bfloat16
        assert {parameter.dtype for parameter in part.parameters()} == {wanted}
    with torch.no_grad():
        text = model.encode_text(["a cat"])
        found = model.predict(torch.randn(1, 4, 16, 16), torch.tensor([500]), text)
    assert found.dtype == torch.float32 and bool(torch.isfinite(found).all())


def edited(path: Path, base: Path, family: Family, **changes: Tensor | None) -> Path:
    """A copy with some tensors replaced, or taken out where None is given."""
    state = load_file(base)
    for name, tensor in changes.items():
        state.pop(name, None)
        if tensor is not None:
            state[name] = tensor
    save_file(state, path, metadata={"lyctui.model_config": json.dumps(model_config(family))})
    return path


def test_missing_and_wrong_tensors_of_both_encoders_are_named_at_once(
    tmp_path: Path, family_files: Files
) -> None:
    first, second = (
        "conditioner.embedders.0.transformer.text_model.",
        "conditioner.embedders.1.model.",
    )
    changes = {
        first + "encoder.layers.1.mlp.fc1.weight": None,
        second + "transformer.resblocks.2.attn.in_proj_bias": torch.zeros(5),
        second + "ln_final.bias": None,
        "model.diffusion_model.label_emb.0.2.bias": None,
    }
    path = edited(tmp_path / "a.safetensors", family_files["sdxl"], "sdxl", **changes)
    with pytest.raises(ModelError) as error:
        load_model(path)
    told = str(error.value)
    for words in ("encoder.layers.1.mlp.fc1.weight", "in_proj_bias is 5, not 96", "ln_final.bias"):
        assert words in told
    assert "second text encoder" in told and "label_emb.0.2.bias" in told


def test_names_that_merges_and_converters_write_are_read(
    tmp_path: Path, family_files: Files, family_originals: dict[Family, FamilyModules]
) -> None:
    """A projection as a linear layer's weight, position numbers, a causal mask beside the weights."""
    start = "conditioner.embedders.1.model."
    projection = load_file(family_files["sdxl"])[start + "text_projection"]
    changes = {
        start + "text_projection": None,
        start + "text_projection.weight": projection.T.contiguous(),
        start + "logit_scale": torch.tensor(4.6),
        start + "attn_mask": torch.zeros(77, 77),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77),
    }
    path = edited(tmp_path / "a.safetensors", family_files["sdxl"], "sdxl", **changes)
    assert_is(load_model(path), family_originals["sdxl"])


def test_the_published_projection_is_stored_transposed(
    family_files: Files, family_models: dict[Family, Any]
) -> None:
    stored = load_file(family_files["sdxl"])["conditioner.embedders.1.model.text_projection"]
    assert torch.equal(family_models["sdxl"].text_encoder_2.text_projection.weight, stored.T)


def test_the_last_layer_of_openclip_is_left_out_of_sd2(
    family_files: Files, family_models: dict[Family, Any]
) -> None:
    start = "cond_stage_model.model.transformer.resblocks.3."
    assert any(name.startswith(start) for name in load_file(family_files["sd2"]))
    assert len(family_models["sd2"].text_encoder.encoder.layers) == 3


def test_a_ckpt_of_another_family_is_read_and_checked(
    tmp_path: Path,
    family_files: Files,
    family_originals: dict[Family, FamilyModules],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A .ckpt has no header that could tell heads and groups of the tiny model."""
    told = {"lyctui.model_config": json.dumps(model_config("sdxl"))}
    plain = source.header_of
    monkeypatch.setattr(source, "header_of", lambda tensors: Header(plain(tensors).tensors, told))
    torch.save({"state_dict": load_file(family_files["sdxl"])}, tmp_path / "a.ckpt")
    model = load_model(tmp_path / "a.ckpt", prediction="v")
    assert (model.family, model.prediction) == ("sdxl", "v")
    assert_is(model, family_originals["sdxl"])
    with pytest.raises(ModelError, match="is Stable Diffusion XL, not Stable Diffusion 1"):
        load_model(tmp_path / "a.ckpt", family="sd1")


@pytest.mark.parametrize(("family", "place"), [("sd2", "vae.safetensors"), ("sdxl", "vae")])
def test_another_vae_takes_the_place_of_the_own(
    family: Family,
    place: str,
    tmp_path: Path,
    family_files: Files,
    family_models: dict[Family, BaseModel],
) -> None:
    from engine.models.original_layout import vae_to_original

    other = family_modules(family, 5).vae
    other.save_pretrained(tmp_path / "vae")
    state = {
        name: tensor.contiguous() for name, tensor in vae_to_original(other.state_dict()).items()
    }
    save_file(state, tmp_path / "vae.safetensors")
    model: Any = load_model(family_files[family], vae=tmp_path / place)
    assert same(model.vae, other)
    assert model.latent_scale == (0.13025 if family == "sdxl" else 0.18215)
    assert model.vae_hash != family_models[family].vae_hash
    assert model.te_hash == family_models[family].te_hash


def test_a_vae_folder_of_another_family_is_refused(tmp_path: Path) -> None:
    """Its tensors would fit; its latents are scaled otherwise."""
    family_modules("sd1", 5).vae.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"0\.18215, the base by 0\.13025") as error:
        source.open_vae(tmp_path, family_config("sdxl", "vae"))
    assert error.value.problems[0].path == "model.vae"


def test_a_vae_that_cannot_fit_is_told_before_anything_loads(
    tmp_path: Path, family_files: Files
) -> None:
    base = inspect_model(family_files["sdxl"])
    family_modules("sd1", 5).vae.save_pretrained(tmp_path / "other" / "vae")
    lone = {"first_stage_model.decoder.conv_in.weight": torch.zeros(1)}
    save_file(lone, tmp_path / "lone.safetensors")
    save_file({"text": torch.zeros(1)}, tmp_path / "text.safetensors")
    cases = {
        family_files["sd1"]: "This VAE is of Stable Diffusion 1, the base is Stable Diffusion XL.",
        tmp_path / "other": "of another family: it scales latents by 0.18215",
        tmp_path / "none.safetensors": "no such file",
        tmp_path / "text.safetensors": "The file holds no VAE.",
        tmp_path: "The folder holds no VAE.",
        family_files["sdxl"]: "",
        tmp_path / "lone.safetensors": "",
    }
    for path, words in cases.items():
        told = [problem.what for problem in vae_problems(path, base)]
        assert (len(told) == 1 and words in told[0]) if words else not told, path
    # Stable Diffusion 1 and 2 have one autoencoder.
    assert not vae_problems(family_files["sd1"], inspect_model(family_files["sd2"]))
    (missing,) = vae_problems(None, replace(base, has_vae=False))
    assert (missing.what, missing.path) == ("The file has no VAE.", "model.vae")

    recipe = parse({"model": {"vae": str(family_files["sd1"])}})
    hardware = Hardware(gpus=(), cores=2, ram_total=2**34, ram_free=2**33)
    made = plan(recipe, Facts(hardware=hardware, model=base, drawn_seed=1))
    assert [problem.path for problem in made.model_problems] == ["model.vae"]


def test_the_hash_of_the_text_encoders_knows_the_second(
    tmp_path: Path, family_files: Files, family_models: dict[Family, BaseModel]
) -> None:
    name = "conditioner.embedders.1.model.ln_final.bias"
    bias = load_file(family_files["sdxl"])[name] + 1
    path = edited(tmp_path / "a.safetensors", family_files["sdxl"], "sdxl", **{name: bias})
    changed = load_model(path)
    assert changed.te_hash != family_models["sdxl"].te_hash
    assert changed.vae_hash == family_models["sdxl"].vae_hash
