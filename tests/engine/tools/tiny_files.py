"""A tiny genuine base model as a file, networks of every algorithm on it as files, and their changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.networks.choice import Choice
from engine.networks.files import read_network, write_network
from engine.networks.network import Network, build, from_file
from engine.networks.reading import real_layers
from tests.engine.networks.layers import stir
from tests.tiny import tiny_modules, write_tiny_sd1

CHOICES: dict[str, Choice] = {
    "lora": Choice("lora", 4, 2.0),
    "locon": Choice("locon", 4, 2.0, "full", conv_rank=2, conv_alpha=3.0),
    "tucker": Choice("locon", 4, 2.0, "full", tucker=True),
    "rs": Choice("lora", 4, 2.0, rs_lora=True),
    "dylora": Choice("dylora", 4, 2.0, block_size=2),
    "loha": Choice("loha", 2, 1.0, "full"),
    "loha tucker": Choice("loha", 4, 2.0, "full", tucker=True),
    "lokr full": Choice("lokr", "full", 1.0, "full", factor=4),
    "lokr low": Choice("lokr", 2, 3.0, "full", factor=4),
    "lokr both": Choice("lokr", 1, 3.0, "full", factor=-1, decompose_both=True),
    "lokr tucker": Choice("lokr", 2, 3.0, "full", factor=4, tucker=True),
    "glora": Choice("glora", 4, 2.0, "attn-only"),
    "glora conv": Choice("glora", 4, 2.0, "full"),
    "ia3": Choice("ia3", "full", 0.0, "full"),
    "diag-oft": Choice("diag-oft", 8, 0.0, "full"),
    "oft rescaled": Choice("diag-oft", 8, 0.0, "attn-mlp", rescaled=True),
    "boft": Choice("boft", 8, 0.0, "attn-mlp"),
    "full": Choice("full", "full", 0.0, "full"),
    "norms": Choice("lora", 4, 2.0, train_norm=True),
    "t-lora": Choice("t-lora", 4, 2.0, "attn-mlp"),
    "dora input": Choice("lora", 4, 2.0, dora="input"),
    "dora output": Choice("lora", 4, 2.0, dora="output"),
    "doha": Choice("loha", 2, 1.0, dora="output"),
    "dokr input": Choice("lokr", 2, 3.0, factor=4, dora="input"),
}
METADATA = {"ss_base_model_version": "sd_v1", "ss_tag_frequency": '{"a": {"b": 1}}'}


class Tiny:
    """Files of one base; its networks are made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_tiny_sd1(folder / "base.safetensors")
        modules = tiny_modules()
        self.unet, self.text = modules.unet, modules.text_encoder
        self.parts: dict[str, nn.Module] = {"unet": self.unet, "te": self.text}

    def network(self, kind: str, *, dtype: torch.dtype = torch.float32) -> Path:
        """The file of a stirred network."""
        path = self.folder / f"{kind.replace(' ', '-')}-{str(dtype)[6:]}.safetensors"
        if not path.exists():
            self.write(path, CHOICES[kind], dtype=dtype)
        return path

    def write(
        self,
        path: Path,
        choice: Choice,
        *,
        seed: int = 5,
        dtype: torch.dtype = torch.float32,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        network = stir(build(self.parts, choice, seed=seed), 0.05, seed)
        write_network(path, network.tensors(dtype), METADATA if metadata is None else metadata)
        return path

    def read(self, path: Path) -> Network:
        """The file's network on this base."""
        file = read_network(path)
        return from_file(self.parts, file.tensors, file.metadata)

    def changes(self, path: Path) -> dict[str, Tensor]:
        """Change of each layer's weight in fp64, by component and path; biases as path + ".bias"."""
        found = {}
        for member in self.read(path).members:
            adapter = member.adapter.double()
            place = f"{member.component}.{member.path}"
            found[place] = adapter.delta().detach()
            bias = adapter.bias_delta()
            if bias is not None:
                found[f"{place}.bias"] = bias.detach()
        return found

    def weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file in the original layout, by component and path of the layer."""
        from engine.models.original_layout import to_original_layout

        names = {}
        layers = real_layers(self.parts)
        for layer in layers:
            own = {"unet": {}, "te": {}}
            own[layer.component] = {f"{layer.path}.weight": 0, f"{layer.path}.bias": 0}
            names[layer.component, layer.path] = own
        plain = {
            f"{part}.{name}": None for part in self.parts for name in self.parts[part].state_dict()
        }
        original = to_original_layout(
            {name: f"unet.{name}" for name in self.unet.state_dict()},
            {},
            {name: f"te.{name}" for name in self.text.state_dict()},
        )
        assert set(original.values()) == set(plain)
        return {place: state[key] for key, place in original.items() if key in state}


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """|found - wanted| / |wanted| over all layers; a layer that is missing changes nothing."""
    lost = kept = 0.0
    for name in found.keys() | wanted.keys():
        a, b = found.get(name), wanted.get(name)
        shape = (b if b is not None else a).shape
        a = torch.zeros(shape, dtype=torch.float64) if a is None else a.double().view(shape)
        b = torch.zeros(shape, dtype=torch.float64) if b is None else b.double()
        lost, kept = lost + float((a - b).square().sum()), kept + float(b.square().sum())
    return (lost / kept) ** 0.5


def read_state(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def smaller(choice: Choice, **changes: object) -> Choice:
    return replace(choice, **changes)
