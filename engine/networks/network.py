"""A network: one adapter for each chosen layer of a model, and what is done to all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import NetworkFileError, Problem
from engine.networks.base import Adapter, Setup
from engine.networks.choice import Choice, Dropouts
from engine.networks.dropout import Moment
from engine.networks.maxnorm import NormReport, scale_weight_norms
from engine.networks.option_checks import check_options
from engine.networks.overrides import resolve
from engine.networks.shapes import KEPT_EXACT, names_of, with_shapes
from engine.networks.table import create
from engine.networks.targets import real_layers, why_skipped


@dataclass(frozen=True, slots=True)
class Member:
    """An adapter and where it sits."""

    component: str
    path: str
    adapter: Adapter


class Network:
    """All adapters of a model, in the order of its modules; components one after the other."""

    def __init__(self, members: Iterable[Member], moment: Moment, skipped: Iterable[str]) -> None:
        self.members = tuple(members)
        self.adapters: dict[str, Adapter] = {
            member.adapter.name: member.adapter for member in self.members
        }
        self.skipped = tuple(skipped)
        """What was left out, and why, in words."""
        self._moment = moment

    # Applying -----------------------------------------------------------------------------

    def inject(self) -> None:
        """Put every adapter in front of its layer."""
        for adapter in self.adapters.values():
            adapter.inject()

    def eject(self) -> None:
        """Leave the model exactly as it was found."""
        for adapter in self.adapters.values():
            adapter.eject()

    def begin(
        self,
        *,
        step: int,
        batch: int = 0,
        first_sample: int = 0,
        samples: int = 1,
        timesteps_B: Tensor | None = None,
    ) -> None:
        """Tell the place of the coming forward pass; every draw depends on it and on nothing else.

        `batch` is the planned micro-batch.
        """
        self._moment.step = step
        self._moment.batch = batch
        self._moment.timesteps_B = timesteps_B
        self._moment.first_sample = first_sample
        self._moment.samples = max(1, samples)

    def at_timesteps(self, timesteps_B: Tensor | None) -> None:
        """Tell at what timestep each sample of the coming pass stands; None where there is none."""
        self._moment.timesteps_B = timesteps_B

    def train(self, mode: bool = True) -> None:
        """Switch the dropouts on or off; on only where something is trained."""
        for adapter in self.adapters.values():
            adapter.train(mode and adapter.trained)

    def eval(self) -> None:
        """Switch the dropouts off."""
        self.train(False)

    def set_strength(self, strength: float) -> None:
        """Apply this multiple of the change; 0 is the base alone."""
        for adapter in self.adapters.values():
            adapter.strength = strength

    def apply_max_norm(self, limit: float, components: Collection[str] | None = None) -> NormReport:
        """Scale every change whose norm is above the limit, at strength 1.

        Of these components, or of all that is trained.
        """
        chosen = (
            member.adapter
            for member in self.members
            if (member.adapter.trained if components is None else member.component in components)
        )
        return scale_weight_norms(chosen, limit)

    # Parameters and tensors ---------------------------------------------------------------

    def parameters(self, component: str | None = None) -> Iterator[nn.Parameter]:
        """Trained tensors of one component or of all, always in the same order.

        Modules in the model's order; within one as in the shape table, a scalar last.
        """
        for member in self.members:
            if component in (None, member.component):
                yield from member.adapter.own_parameters()

    def count(self, component: str | None = None) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters(component))

    @torch.no_grad()
    def changes_nothing(self) -> bool:
        """Whether every change is zero still; looks no further than the first that is not."""
        return not any(
            bool(change.any())
            for adapter in self.adapters.values()
            for change in (adapter.delta(), adapter.bias_delta())
            if change is not None
        )

    def penalty(self) -> Tensor | None:
        """Sum of what the algorithms ask to be added to the loss, or None."""
        terms = [
            term for adapter in self.adapters.values() if (term := adapter.penalty()) is not None
        ]
        return torch.stack(terms).sum() if terms else None

    def to(self, device: torch.device | str) -> None:
        """Move the parameters."""
        for adapter in self.adapters.values():
            adapter.to(device)

    def tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The network as a file holds it, on the CPU; alpha stays fp32.

        Raises NetworkFileError where a weight is not finite, or too large for the precision.
        """
        found: dict[str, Tensor] = {}
        for name, adapter in self.adapters.items():
            for suffix, tensor in adapter.tensors().items():
                kept = tensor if suffix in KEPT_EXACT else tensor.to(dtype)
                found[f"{name}.{suffix}"] = kept.cpu().contiguous()
        bad = [name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise NetworkFileError(
                Problem(
                    f"{len(bad)} tensors do not fit {str(dtype).removeprefix('torch.')}.",
                    where=", ".join(bad[:3]),
                    remedy="Save in fp32 or bf16, or lower optim.lr.",
                )
            )
        return found

    def training_state(self) -> dict[str, Tensor]:
        """Everything a resume needs of the network, exact: unfolded fp32 parameters and alphas."""
        return {
            f"{name}.{suffix}": tensor.detach().cpu().clone()
            for name, adapter in self.adapters.items()
            for suffix, tensor in adapter.state().items()
        }

    @torch.no_grad()
    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Exact inverse of `training_state`; raises NetworkFileError where the network is another."""
        mine = self.training_state()
        wrong = sorted(set(mine) ^ set(state)) or [
            name for name, tensor in mine.items() if tensor.shape != state[name].shape
        ]
        if wrong:
            raise NetworkFileError(
                Problem(
                    f"The saved state is of another network: {len(wrong)} tensors differ.",
                    where=", ".join(wrong[:3]),
                    remedy="Rank, layers and algorithm of a run cannot change; start a new run.",
                )
            )
        for name, adapter in self.adapters.items():
            adapter.load_state({suffix: state[f"{name}.{suffix}"] for suffix in adapter.state()})


def build(
    components: Mapping[str, nn.Module],
    choice: Choice,
    *,
    seed: int,
    trained: Collection[str] | None = None,
) -> Network:
    """A fresh network that changes nothing yet; raises RecipeError with everything that is wrong.

    `components` are all parts of the model, which the names depend on; `trained` are those that get
    a network, all of them without it.
    """
    layers = real_layers(components)
    names = names_of(layers)
    chosen = resolve([one for one in layers if trained is None or one.component in trained], choice)
    reasons = {layer.path: why_skipped(layer) for layer, _ in chosen}
    skipped = [f"{path} is left out: {why}" for path, why in reasons.items() if why is not None]
    planned = with_shapes((layer, own) for layer, own in chosen if reasons[layer.path] is None)
    skipped += check_options(planned, choice)
    setup = Setup(Moment(seed), choice.dropouts)
    members = [
        Member(
            layer.component,
            layer.path,
            create(names[layer.component, layer.path], layer.module, shapes, own, setup),
        )
        for layer, own, shapes in planned
    ]
    return Network(members, setup.moment, skipped)


def from_file(
    components: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    seed: int = 0,
    choice: Choice | None = None,
) -> Network:
    """The network that a file holds, rebuilt from names and shapes alone.

    The scale comes from the file, `rs_lora` is never applied again; `choice` gives what training
    needs and no file holds (dropouts, scalar, constraint). Raises NetworkFileError.
    """
    from engine.networks.reading import members_of

    setup = Setup(Moment(seed), Dropouts() if choice is None else choice.dropouts)
    members, left_out = members_of(components, tensors, metadata, setup, choice)
    return Network(members, setup.moment, left_out)
