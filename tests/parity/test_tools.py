"""Files that were converted for a program make there what the network makes here."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.networks.network import Network
from engine.tools.convert import convert
from engine.tools.join import join
from engine.tools.requests import ConvertRequest, JoinRequest, Program, RankRule, Weighted
from tests.engine.tools.tiny_files import Tiny
from tests.tiny import TinyModules, tiny_modules

RULE = RankRule("error", 1e-4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def converted(tiny: Tiny, kind: str, folder: Path, program: Program, **more) -> Path:
    output = folder / "x.safetensors"
    values = {"rule": RULE, "base": tiny.base} | more
    convert(ConvertRequest(source=tiny.network(kind), output=output, program=program, **values))
    return output


@torch.no_grad()
def outputs(unet, text_encoder) -> dict[str, torch.Tensor]:
    ids = torch.arange(77)[None] + 320
    text = text_encoder(ids).last_hidden_state
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    context = torch.randn(1, 77, 64, generator=generator)
    noise = unet(latents, torch.tensor([500]), context).sample
    return {"text": text, "noise": noise}


def ours(tiny: Tiny, network: Network) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    plain = outputs(tiny.unet, tiny.text)
    network.inject()
    changed = outputs(tiny.unet, tiny.text)
    network.eject()
    return plain, changed


def same(found, wanted, plain, tolerance=2e-3) -> None:
    for name, output in wanted.items():
        change = float((output - plain[name]).norm())
        assert float((found[name] - output).norm()) <= tolerance * change + 1e-5
    assert float((wanted["noise"] - plain["noise"]).norm()) > 1e-3


# diffusers -------------------------------------------------------------------------------------


def in_diffusers(path: Path) -> dict[str, torch.Tensor]:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    modules: TinyModules = tiny_modules()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionPipeline(
            vae=modules.vae,
            text_encoder=modules.text_encoder,
            tokenizer=None,
            unet=modules.unet,
            scheduler=DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
        return outputs(pipeline.unet, pipeline.text_encoder)


@pytest.mark.parametrize(
    "kind",
    [
        "locon",
        "tucker",
        "loha",
        "lokr both",
        "glora conv",
        "ia3",
        "t-lora",
        "dora input",
        "dora output",
    ],
)
def test_diffusers_computes_the_same(tiny, tmp_path, kind):
    path = converted(tiny, kind, tmp_path, "diffusers")
    plain, wanted = ours(tiny, tiny.read(tiny.network(kind)))
    same(in_diffusers(path), wanted, plain)


@pytest.mark.parametrize("kind", ["lora", "locon", "rs", "dora output"])
def test_diffusers_reads_the_names_of_peft(tiny, tmp_path, kind):
    output = tmp_path / "x.safetensors"
    convert(ConvertRequest(source=tiny.network(kind), output=output, names="peft"))
    plain, wanted = ours(tiny, tiny.read(tiny.network(kind)))
    same(in_diffusers(output), wanted, plain)


def test_diffusers_reads_ranks_that_differ(tiny, tmp_path):
    networks = (Weighted(tiny.network("locon"), 0.5), Weighted(tiny.network("lora"), 0.5))
    joined = join(JoinRequest(networks=networks, output=tmp_path / "x.safetensors"))
    assert len(joined.ranks) > 1
    plain, wanted = ours(tiny, tiny.read(joined.output))
    same(in_diffusers(joined.output), wanted, plain)


# lycoris-lora ----------------------------------------------------------------------------------


@torch.no_grad()
def in_lycoris(lycoris, tiny: Tiny, path: Path) -> dict[str, torch.Tensor]:
    modules = tiny_modules()
    parts = {"unet": modules.unet, "te": modules.text_encoder}
    state = load_file(path)
    places = {member.adapter.name: member for member in tiny.read(path).members}
    assert {name.partition(".")[0] for name in state} == set(places)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = []
        for name, member in places.items():
            kind, parameters = lycoris.get_module(state, name)
            layer = parts[member.component].get_submodule(member.path)
            module = lycoris.make_module(kind, parameters, name, layer)
            assert module is not None, name
            module.apply_to()
            kept.append(module.eval())
        return outputs(modules.unet, modules.text_encoder)


@pytest.mark.parametrize(
    "kind",
    [
        "tucker",
        "loha tucker",
        "lokr full",
        "lokr low",
        "lokr both",
        "lokr tucker",
        "glora conv",
        "ia3",
        "oft rescaled",
        "boft",
        "full",
        "norms",
        "t-lora",
        "dora input",
        "dora output",
    ],
)
def test_lycoris_computes_the_same(lycoris, tiny, tmp_path, kind):
    path = converted(tiny, kind, tmp_path, "lycoris")
    plain, wanted = ours(tiny, tiny.read(tiny.network(kind)))
    same(in_lycoris(lycoris, tiny, path), wanted, plain)
