"""What each algorithm adds to a training step, beside lycoris-lora and peft, in one process.

The floor is one step (forward, and backward to the input of the first trained layer) of the frozen U-Net of
Stable Diffusion 1.5 with random weights and no adapter, one early bias trained. Contenders are measured
in turn, round after round, beside a floor of their own; a figure is a ratio of medians. On the CPU it is the
time of this process on one thread, so that neighbours count less. The peers' parameters have the type of
the base, which is their fastest way; ours are fp32.

    python benchmarks/adapters.py [--device cuda] [--algorithms lora,lokr-8] [--targets attn-mlp]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, Bars, Case, with_targets
from peers import lycoris, move_away, ours_on, peft

from engine.models.quiet import import_quietly
from engine.networks.flat import flatten
from engine.networks.network import Network, build
from engine.networks.table import ALGORITHMS

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIRST_TRAINED = {"attn-mlp": "down_blocks.0.attentions.0.norm.bias", "full": "conv_in.bias"}
"""The bias in front of the first trained layer; with it the floor's backward goes as far as ours."""
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}
"""Else glibc gives each large block back, and the zeroing of new pages is what is measured."""

Contender = Callable[[], AbstractContextManager[list[nn.Parameter]]]


@dataclass
class Row:
    """What was measured of one contender."""

    case: str
    targets: str
    contender: str
    step: float = 0.0
    """Time of a step / that of the floor."""
    saved: float = 0.0
    """Bytes saved for backward / those of the floor."""
    seconds: float = 0.0
    saved_bytes: int = 0
    failed: str = ""


class Bench:
    """A U-Net, an input, and the step that is timed."""

    def __init__(self, device: str, dtype: torch.dtype, latent: int, batch: int) -> None:
        self.device = device
        self._dtype = dtype
        self.noisy_BCHW = torch.randn(batch, 4, latent, latent, device=device, dtype=dtype)
        self.text_BTD = torch.randn(batch, 77, 768, device=device, dtype=dtype)
        self.timesteps_B = torch.full((batch,), 500, device=device)

    @cached_property
    def model(self) -> nn.Module:
        """SD1.5's U-Net with random weights, frozen."""
        import_quietly()
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        torch.set_default_dtype(self._dtype)
        with torch.device(self.device):
            model: nn.Module = UNet2DConditionModel(cross_attention_dim=768)
        torch.set_default_dtype(torch.float32)
        return model.requires_grad_(False).eval()

    @lru_cache  # noqa: B019 - there is one bench
    def layers(self, targets: str) -> dict[str, nn.Module]:
        """The layers that all contenders train."""
        network = build({"unet": self.model}, with_targets(CASES["lora"].choice, targets), seed=0)
        return {member.path: member.adapter.layer for member in network.members}

    def step(self) -> None:
        """Forward and backward."""
        prediction_BCHW = self.model(self.noisy_BCHW, self.timesteps_B, self.text_BTD).sample
        prediction_BCHW.float().square().mean().backward()

    def timed(self, run: Callable[[], object]) -> float:
        """Seconds of one call."""
        if self.device == "cpu":
            began = time.process_time()
            run()
            return time.process_time() - began
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    def saved_bytes(self, parameters: list[nn.Parameter]) -> int:
        """Bytes kept between forward and backward, each storage once, weights not counted."""
        weights = (*self.model.parameters(), *self.model.buffers(), *parameters)
        known = {storage(weight) for weight in weights}
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if storage(tensor) not in known:
                found[storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prediction_BCHW = self.model(self.noisy_BCHW, self.timesteps_B, self.text_BTD).sample
            loss = prediction_BCHW.float().square().mean()
        loss.backward()
        return sum(found.values())

    # contenders -------------------------------------------------------------------------------

    @contextmanager
    def floor(self, targets: str) -> Iterator[list[nn.Parameter]]:
        """The frozen model with one early bias trained."""
        bias = self.model.get_parameter(FIRST_TRAINED[targets])
        bias.requires_grad_(True)
        try:
            yield [bias]
        finally:
            bias.requires_grad_(False)
            bias.grad = None

    def network(self, case: Case, targets: str) -> Network:
        """A fresh network of ours, moved away from zero."""
        network = build({"unet": self.model}, with_targets(case.choice, targets), seed=0)
        move_away(list(network.parameters()))
        return network

    @contextmanager
    def ours(self, case: Case, targets: str) -> Iterator[list[nn.Parameter]]:
        """Our network, in flat buffers as a run has it."""
        network = self.network(case, targets)
        buffers = flatten(network.members, "unet")
        network.inject()
        network.train()
        network.begin(step=1, samples=len(self.noisy_BCHW), timesteps_B=self.timesteps_B)
        try:
            yield [buffer.whole for buffer in buffers.values()]
        finally:
            network.eject()

    def contenders(self, case: Case, targets: str, dtype: torch.dtype) -> dict[str, Contender]:
        """All who run this case, the floor first."""
        layers = self.layers(targets)

        def reference(*, bypass: bool) -> AbstractContextManager[list[nn.Parameter]]:
            return lycoris(layers, case.lycoris, case.options, dtype, rank=case.rank, bypass=bypass)

        def other(dtype: torch.dtype) -> AbstractContextManager[list[nn.Parameter]]:
            return peft(self.model, list(layers), case.peft, dtype, rank=min(case.rank, 16))

        found: dict[str, Contender] = {
            "floor": lambda: self.floor(targets),
            "ours": lambda: self.ours(case, targets),
        }
        if targets in case.peer_targets:
            found["lycoris"] = lambda: reference(bypass=False)
            if case.lycoris in ("lora", "lokr") and case.choice.dora == "off":
                found["lycoris bypass"] = lambda: reference(bypass=True)
        if case.peft:
            found["peft"] = lambda: other(dtype)
        if case.peft == "lora":
            found["peft fp32"] = lambda: other(torch.float32)
        return found


def storage(tensor: Tensor) -> int:
    """Where a tensor's numbers lie."""
    return tensor.untyped_storage().data_ptr()


# measuring ------------------------------------------------------------------------------------


def measure_steps(
    bench: Bench, name: str, targets: str, rounds: int, peer_dtype: torch.dtype
) -> list[Row]:
    """All contenders of a case, in turn, round after round."""
    contenders = bench.contenders(CASES[name], targets, peer_dtype)
    rows = {contender: Row(name, targets, contender) for contender in contenders}
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    for number in range(rounds):
        for contender, make in contenders.items():
            row = rows[contender]
            if row.failed:
                continue
            try:
                with make() as parameters:
                    if number == 0:
                        row.saved_bytes = bench.saved_bytes(parameters)
                    else:
                        bench.step()
                    seconds[contender].append(bench.timed(bench.step))
            except Exception as error:  # whoever cannot run a case is a row that says so
                row.failed = words(error)
            parameters = []
            gc.collect()
    floor = rows["floor"]
    floor.seconds = statistics.median(seconds["floor"])
    for contender, row in rows.items():
        if not row.failed:
            row.seconds = statistics.median(seconds[contender])
            row.step = row.seconds / floor.seconds
            row.saved = row.saved_bytes / floor.saved_bytes
        print(
            f"  {name} {targets} {contender}: {row.step:.2f} time, {row.saved:.2f} saved, "
            f"{row.seconds:.2f} s {row.failed}",
            file=sys.stderr,
            flush=True,
        )
    return list(rows.values())


Adapt = Callable[[dict[str, nn.Module]], AbstractContextManager[object]]


def python_cost(adapt: Adapt, layers: int = 64) -> float:
    """Microseconds of processor time for each adapted module where there is next to nothing to compute.

    In fp32, where no cast is needed; the least of many short runs, bare and adapted.
    """
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(layers))).requires_grad_(False)
    x_ND = torch.randn(4, 64, requires_grad=True)

    def least() -> float:
        samples = []
        for _ in range(30):
            began = time.process_time()
            for _ in range(4):
                model(x_ND).sum().backward()
            samples.append((time.process_time() - began) / 4)
        return min(samples)

    bare = least()
    with adapt({str(index): layer for index, layer in enumerate(model)}):
        adapted = least()
    return (adapted - bare) / layers * 1e6


def survival(case: Case, device: str, dtype: torch.dtype, ratio: float = 1e-3) -> float:
    """Share of an update of `ratio` times the weight's size that reaches the layer's output.

    The change of the output, projected on the change that fp64 computes; rounding noise averages out.
    """
    torch.manual_seed(0)
    layer = nn.Linear(640, 640, bias=False).requires_grad_(False).to(device, dtype)
    x_ND = torch.randn(8192, 640, device=device).to(dtype)
    with ours_on(case, {"layer": layer}) as network, torch.no_grad():
        network.eval()
        network.at_timesteps(None)  # all ranks of a T-LoRA, as delta() has them
        (member,) = network.members
        delta = member.adapter.delta().double()
        network.set_strength(float(ratio * layer.weight.double().std() / delta.std()))
        delta = delta * member.adapter.strength
        adapted = layer(x_ND).double()
        network.set_strength(0.0)
        base = layer(x_ND).double()
    exact = x_ND.double() @ delta.t()
    return float(((adapted - base) * exact).sum() / exact.square().sum())


def measure_small(name: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Python cost of ours and of lycoris-lora, and survival of a small update."""
    case = CASES[name]
    found: dict[str, Any] = {}
    try:
        found["python_us"] = python_cost(lambda layers: ours_on(case, layers))
        found["survival"] = survival(case, device, dtype)
    except Exception as error:  # told in the table
        found["failed"] = words(error)
    try:
        found["lycoris_us"] = python_cost(
            lambda layers: lycoris(
                layers, case.lycoris, case.options, torch.float32, rank=case.rank
            )
        )
    except Exception as error:
        found["lycoris_failed"] = words(error)
    return found


def measure_optimizer(bench: Bench, name: str, rounds: int) -> dict[str, float]:
    """Milliseconds of AdamW, clipping and zeroing over a network's parameters, three ways."""
    network = bench.network(CASES[name], "attn-mlp")
    shaped = list(network.parameters())
    for parameter in shaped:
        parameter.grad = torch.randn_like(parameter)
    found = {
        "foreach": updates(bench, shaped, rounds, foreach=True),
        "fused": updates(bench, shaped, rounds, fused=True),
    }
    flat = [buffer.whole for buffer in flatten(network.members, "unet").values()]
    for parameter in flat:
        parameter.grad = torch.randn_like(parameter)
    return found | {"flat": updates(bench, flat, rounds, fused=True)}


def updates(
    bench: Bench,
    parameters: list[nn.Parameter],
    rounds: int,
    *,
    foreach: bool | None = None,
    fused: bool | None = None,
) -> float:
    """Median milliseconds of one update."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-9, foreach=foreach, fused=fused)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    update()
    return statistics.median(bench.timed(update) for _ in range(max(9, 3 * rounds))) * 1e3


def words(error: Exception) -> str:
    """An error in one short line."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:60]}"


# telling --------------------------------------------------------------------------------------


def told(value: float, bars: Bars | None, *, more: bool = False) -> str:
    """A figure, and which of its two bars it meets."""
    if bars is None:
        return f"{value:.2f}"
    gate, stretch = (-bar if more else bar for bar in bars)
    found = -value if more else value
    word = "stretch" if found <= stretch else "gate" if found <= gate else f"MISSED {bars[0]:g}"
    return f"{value:.2f} {word}"


def step_table(rows: list[Row]) -> Iterator[str]:
    """A line for each case and choice of layers."""
    yield "| algorithm | layers | step | saved | lycoris step | we are faster | lycoris saved | others' step |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, targets in dict.fromkeys((row.case, row.targets) for row in rows):
        found = {row.contender: row for row in rows if (row.case, row.targets) == (name, targets)}
        case, ours, peer = CASES[name], found.pop("ours"), found.pop("lycoris", None)
        del found["floor"]
        cells = [name, targets]
        if ours.failed:
            cells += [ours.failed, ""]
        else:
            cells += [told(ours.step, case.time.get(targets)), told(ours.saved, case.saved)]
        if peer is None or peer.failed or ours.failed:
            cells += ["" if peer is None else peer.failed or f"{peer.step:.2f}", "", ""]
        else:
            faster = told(peer.step / ours.step, (1.4, 1.6), more=True)
            cells += [f"{peer.step:.2f}", faster, f"{peer.saved:.2f}"]
        others = [f"{key} {row.failed or f'{row.step:.2f}'}" for key, row in found.items()]
        best = min((row.step for row in found.values() if not row.failed), default=0.0)
        if name == "lora" and best and not ours.failed:
            others.append(f"we / best {told(best / ours.step, (1.0, 1.3), more=True)}")
        yield f"| {' | '.join([*cells, ', '.join(others)])} |"


def small_table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Python cost for each module, and survival."""
    yield "| algorithm | Python, us a module | lycoris-lora's | update of 1e-3 W that survives |"
    yield "|---|---|---|---|"
    for name, of in found.items():
        theirs = f"{of['lycoris_us']:.0f}" if "lycoris_us" in of else of["lycoris_failed"]
        if "failed" in of:
            yield f"| {name} | {of['failed']} | {theirs} | |"
            continue
        cost = told(of["python_us"], (120, 80))
        # To the second decimal, as the bar is: the projection itself has an error of some 1e-3.
        kept = told(round(of["survival"], 2), (0.99, 0.99), more=True)
        yield f"| {name} | {cost} | {theirs} | {kept} |"


def optimizer_table(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """Three ways to move the same numbers."""
    yield "| clip, AdamW, zero: ms | foreach | fused | flat | faster than foreach |"
    yield "|---|---|---|---|---|"
    for name, ms in found.items():
        speed = told(ms["foreach"] / ms["flat"], (3, 4), more=True)
        cells = [f"{ms[key]:.2f}" for key in ("foreach", "fused", "flat")]
        yield f"| {' | '.join([name, *cells, speed])} |"


def machine(device: str) -> str:
    """What it ran on."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"one thread of {os.cpu_count()} cores, {kind}, torch {torch.__version__}"


def show(title: str, lines: Iterator[str]) -> None:
    """Print a table."""
    print(f"{title}\n\n" + "\n".join(lines) + "\n", flush=True)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--peer-dtype", default="", help="of the peers' parameters")
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--algorithms", default=",".join(CASES))
    parser.add_argument("--targets", default="attn-mlp,full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", default="small,optimizer,steps")
    parser.add_argument("--json", type=Path, help="write every figure here")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = read_arguments()
    if arguments.device == "cpu":
        if any(os.environ.get(key) != value for key, value in MALLOC.items()):
            os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
        torch.set_num_threads(1)
    wanted = arguments.algorithms.split(",")
    names = [name for name in wanted if CASES[name].choice.algorithm in ALGORITHMS]
    left_out = [name for name in wanted if name not in names]
    dtype = DTYPES[arguments.dtype]
    bench = Bench(arguments.device, dtype, arguments.latent, arguments.batch)
    result: dict[str, Any] = {"arguments": {key: str(v) for key, v in vars(arguments).items()}}
    command = " ".join(["python", *sys.argv])
    print(f"`{command}`, {time.strftime('%Y-%m-%d')}, {machine(arguments.device)}.")
    print(f"Not there yet: {', '.join(left_out)}.\n" if left_out else "", flush=True)
    parts = arguments.parts.split(",")
    if "small" in parts:
        result["small"] = {name: measure_small(name, arguments.device, dtype) for name in names}
        show("For each module:", small_table(result["small"]))
    if "optimizer" in parts:
        result["optimizer"] = {
            name: measure_optimizer(bench, name, arguments.rounds)
            for name in names
            if name in ("lora", "ia3")
        }
        show("An update of all parameters, attn-mlp:", optimizer_table(result["optimizer"]))
    if "steps" in parts:
        rows: list[Row] = []
        peer_dtype = DTYPES[arguments.peer_dtype or arguments.dtype]
        for targets in arguments.targets.split(","):
            for name in names:
                # Without k x k convolutions LoCon is LoRA.
                if name != "locon" or targets == "full":
                    rows += measure_steps(bench, name, targets, arguments.rounds, peer_dtype)
        result["steps"] = [asdict(row) for row in rows]
        show("A step of the U-Net, the floor is 1:", step_table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
