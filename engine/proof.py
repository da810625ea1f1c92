"""The finished file in a clean base: is it what was trained, and does it paint as the run did?

The run's network is taken away from the base, which is then as it was found; the file is read the way
`lyctui sample FILE` reads one; afterwards everything is as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.errors import NetworkFileError, OutOfMemory, Problem, TrainingError
from engine.memory import in_words
from engine.networks.base import layer_weight
from engine.networks.dora_rules import SCALE
from engine.networks.files import read_network
from engine.networks.network import Network, from_file
from engine.networks.shapes import KEPT_EXACT
from engine.sampling import paint_one
from engine.tools.info import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from PIL import Image
    from torch import Tensor

    from engine.models.family import BaseModel
    from engine.networks.base import Adapter
    from engine.sampling import Shot

    Levels = npt.NDArray[np.int16]

FACTORS = 8.0
"""How many times the rounding of a module's tensors its change may be off: few are products of so many."""
EXACT = 1e-3
"""Relative difference of a change that is none: sums in another order, scalars folded into factors."""
COARSE = 0.05
"""Relative difference that is worth a word: numbers too small for fp16."""
LEVELS = {torch.float32: 0.1}
HALF_LEVELS = 1.0
"""Mean difference, of 255, of two pictures that are the same, by the number format of the base.

Measured with the demo's base on the CPU: 0.02 at most in fp32, 0.31 in bf16.
"""
MOST_NAMED = 3


@dataclass(slots=True)
class Proof:
    """What was looked at and what came out, one line each."""

    findings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is not as it has to be."""
    left_out: str = ""
    """Why pictures were not compared: memory was too short, or the base gives none in its precision."""

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the file."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Painter:
    """Paints one picture again and again; `look` is called on the way and may raise to break off."""

    model: BaseModel
    shot: Shot
    spare: Sequence[str] = ()
    """Parts of the base that rest on the host while no picture is painted."""
    look: Callable[[], None] = lambda: None

    def paint(self, network: Network | None) -> Image.Image:
        """The picture with what is in front of the base; `network` hears of its timesteps."""

        def at_timestep(timestep: Tensor) -> None:
            self.look()
            if network is not None:
                network.at_timesteps(timestep.reshape(1))

        try:
            return paint_one(self.model, self.shot, at_timestep, spare=self.spare)
        finally:
            if network is not None:
                network.at_timesteps(None)


def prove(path: Path, network: Network, painter: Painter, *, dtype: torch.dtype) -> Proof:
    """Compare a file with the network that it was written from, which is in front of the base.

    `dtype` is the file's number format. The network has to show the weights that the file has, and be
    in evaluation mode; it is left as it was.
    """
    proof = Proof()
    problem = Problem("There is not enough memory to paint with it.")
    try:
        in_words(lambda: _prove(proof, path, network, painter, dtype), problem)
    except OutOfMemory as error:
        proof.left_out = " ".join(str(error).split())
    finally:
        painter.model.park(*painter.spare)
    return proof


def _prove(
    proof: Proof, path: Path, network: Network, painter: Painter, dtype: torch.dtype
) -> None:
    remembered = _remembered(proof, painter, network)
    network.eject()
    try:
        read = _read(proof, path, painter.model)
        if read is None:
            return
        _tell_layers(proof, network, read)
        _tell_numbers(proof, network, read)
        rounding = _tell_changes(proof, network, read, dtype, painter.look)
        if remembered is not None:
            _compare(proof, painter, read, remembered, rounding)
    finally:
        network.inject()


def _remembered(proof: Proof, painter: Painter, network: Network) -> Image.Image | None:
    """The picture as it was in training; None where there is none to compare with."""
    try:
        return painter.paint(network)
    except TrainingError as error:
        # A base that overflows in its precision, say: the file is not to blame.
        proof.left_out = " ".join(str(error).split())
        return None


def _compare(
    proof: Proof, painter: Painter, read: Network, remembered: Image.Image, rounding: float
) -> None:
    plain = painter.paint(None)
    read.inject()
    try:
        again = painter.paint(read)
    except TrainingError:
        proof.faults.append("no picture, and one in training: its numbers are none any more")
        return
    finally:
        read.eject()
    allowed = LEVELS.get(painter.model.dtype, HALF_LEVELS)
    off, effect = _apart(remembered, again), _apart(remembered, plain)
    _tell_pictures(proof, off, effect, allowed, rounding)


def _read(proof: Proof, path: Path, model: BaseModel) -> Network | None:
    """The file's network on the base; None, with faults, where it is none or does not fit."""
    try:
        _tell_tensors(proof, path)
        file = read_network(path)
        read = from_file(model.components(), file.tensors, file.metadata)
    except NetworkFileError as error:
        proof.faults += [" ".join(str(problem).split()) for problem in error.problems[:MOST_NAMED]]
        return None
    read.to(model.device)
    read.eval()
    return read


# What is compared --------------------------------------------------------------------------------


def _tell_tensors(proof: Proof, path: Path) -> None:
    """Names and kinds, and who knows them. Raises NetworkFileError for what cannot be read."""
    told = describe(path)
    unknown = [problem.what for problem in told.problems] + list(told.left_out)
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        proof.faults.append(f"not all of it is known: {'; '.join(unknown[:MOST_NAMED])}{more}")
        return
    names = {
        level: [title for title, (own, _) in told.readers.items() if own == level]
        for level in ("yes", "partly", "no")
    }
    said = [f"{told.tensors} tensors"]
    said += [f"all known to {', '.join(names['yes'])}"] if names["yes"] else []
    said += [f"in part to {', '.join(names['partly'])}"] if names["partly"] else []
    said += [f"not to {', '.join(names['no'])}"] if names["no"] else []
    proof.findings.append(", ".join(said[:2]) + "".join(f"; {part}" for part in said[2:]))


def _tell_layers(proof: Proof, network: Network, read: Network) -> None:
    """Whether the file has the layers that were trained; reading it has refused other shapes."""
    trained, found = (
        {(member.component, member.path) for member in one.members} for one in (network, read)
    )
    missing, strange = sorted(trained - found), sorted(found - trained)
    if missing:
        proof.faults.append(f"{_layers(len(missing))} missing: {_named(missing)}")
    if strange:
        proof.faults.append(
            f"{_layers(len(strange))} there that were not trained: {_named(strange)}"
        )
    if not missing and not strange:
        proof.findings.append(f"shapes fit {_count(len(found))}, each there once")


def _layers(count: int) -> str:
    return f"{_count(count)} {'are' if count > 1 else 'is'}"


def _count(count: int) -> str:
    return f"{count} layer{'s' * (count > 1)}"


def _named(places: Sequence[tuple[str, str]]) -> str:
    names = [f"{component} {path}" for component, path in places[:MOST_NAMED]]
    more = len(places) - MOST_NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _tell_numbers(proof: Proof, network: Network, read: Network) -> None:
    """Not all zero; reading the file has refused numbers that are not finite."""
    if not read.changes_nothing():
        proof.findings.append("finite, not zero")
    elif network.changes_nothing():
        proof.findings.append("finite; it changes nothing, and neither does what was trained")
    else:
        proof.faults.append("every change is zero in the file, and was not in training")


@torch.no_grad()
def _tell_changes(
    proof: Proof, network: Network, read: Network, dtype: torch.dtype, look: Callable[[], None]
) -> float:
    """Compare the change of every layer; gives how much the numbers were rounded at most."""
    found = {(member.component, member.path): member.adapter for member in read.members}
    worst = rounded = 0.0
    wrong: dict[tuple[str, str], float] = {}
    for member in network.members:
        place = member.component, member.path
        if place not in found:
            continue
        look()
        rounding = _rounding(member.adapter, dtype)
        off = _off(member.adapter, found[place])
        # The other way round a change that is no number would pass.
        if off <= EXACT + FACTORS * rounding:
            worst = max(worst, off)
        else:
            wrong[place] = off
        rounded = max(rounded, rounding)
    if wrong:
        places = sorted(wrong, key=lambda place: -wrong[place])
        most = f"by {_percent(wrong[places[0]])} at most"
        proof.faults.append(
            f"{_count(len(places))} changed otherwise than in training, {most}: {_named(places)}"
        )
    elif found:
        coarse = f"; {_name(dtype)} rounds so much away, save.precision bf16 does not"
        told = f"every layer is changed as in training, to {_percent(worst)}"
        proof.findings.append(told + (coarse if worst > COARSE else ""))
    return rounded


def _name(dtype: torch.dtype) -> str:
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")


def _rounding(adapter: Adapter, dtype: torch.dtype) -> float:
    """Largest relative difference that number formats make: the file's, and the network's own.

    A network held in half precision multiplies its factors in it; what is read from the file is fp32.
    """
    most = 0.0
    for suffix, tensor in adapter.tensors().items():
        if tensor.dtype in (torch.float16, torch.bfloat16):
            most = max(most, torch.finfo(tensor.dtype).eps / 2)
        if suffix not in KEPT_EXACT and dtype != tensor.dtype:
            most = max(most, _relative(tensor.to(dtype).float() - tensor, tensor))
    return most


def _off(trained: Adapter, read: Adapter) -> float:
    """Relative difference of the changes of weight and bias; 1 and more where one has none."""
    most = 0.0
    # A DoRA's change is the difference of numbers as large as the weights, and no finer than those are.
    weights = (
        float(layer_weight(trained.layer).float().norm()) if SCALE in trained.tensors() else 0.0
    )
    unseen = torch.finfo(torch.float32).eps * weights
    pairs = ((trained.delta(), read.delta()), (trained.bias_delta(), read.bias_delta()))
    for wanted, found in pairs:
        if wanted is None and found is None:
            continue
        if wanted is None or found is None:
            only = wanted if found is None else found
            most = max(most, float(bool(only.any())) if only is not None else 0.0)
        else:
            most = max(most, _relative(found - wanted, wanted, unseen))
    return most


def _relative(difference: Tensor, of: Tensor, unseen: float = 0.0) -> float:
    """Norm of a difference by that of what it is from; one up to `unseen` is none."""
    lost, norm = float(difference.float().norm()), float(of.float().norm())
    if lost <= unseen:
        return 0.0
    if norm == 0:
        return float(lost > 0)
    return lost / norm


def _percent(share: float) -> str:
    return "the last bits" if share < 1e-6 else f"{share * 100:.2g} %"


def _tell_pictures(
    proof: Proof, off: Levels, effect: Levels, allowed: float, rounding: float
) -> None:
    """The same picture as in training; and what it is without the file."""
    largest, mean = int(off.max()), float(off.mean())
    if mean > allowed + (EXACT + FACTORS * rounding) * float(effect.mean()):
        proof.faults.append(
            f"another picture than in training: {mean:.1f} of 255 apart in the mean, {largest} at most"
        )
        return
    proof.findings.append(f"same picture as in training: largest difference {largest} of 255")
    changes = int(effect.max())
    told = f"the file changes it by up to {changes} of 255" if changes else "as without the file"
    proof.findings[-1] += f"; {told}"


def _apart(left: Image.Image, right: Image.Image) -> Levels:
    """Difference of each value."""
    one, other = (np.asarray(picture, dtype=np.int16) for picture in (left, right))
    apart: Levels = np.abs(one - other)
    return apart
