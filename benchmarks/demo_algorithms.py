"""Teaches the embedded base its concept with every algorithm, and says how well each learnt it.

Rates were chosen by trial on this base, which is tiny; they say nothing about a real one. The file
of each run is kept, for trying the file tools on.

    python benchmarks/demo_algorithms.py [--only loha,lokr] [--seeds 1] [--folder out/demo]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from engine.events import Scored
from engine.plan import gather, plan
from engine.session import Session, create_run
from engine.settings import Recipe
from engine.settings.check import parse
from lyctui.demo.run import demo_recipe, examiner

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {"network": {"algorithm": "lora", "rank": 16, "alpha": 16}},
    "lora+dora": {"network": {"algorithm": "lora", "rank": 16, "alpha": 16, "dora": "input"}},
    "locon": {"network": {"algorithm": "locon", "targets": "full", "rank": 8, "alpha": 8}},
    "loha": {
        "network": {"algorithm": "loha", "rank": 8, "alpha": 8},
        "optim": {"lr": 4e-3, "te_lr": 2e-3},
    },
    "lokr": {
        "network": {"algorithm": "lokr", "rank": "full", "factor": 4},
        "optim": {"lr": 8e-3, "te_lr": 4e-3},
    },
    "ia3": {
        "network": {"algorithm": "ia3", "targets": "full"},
        "optim": {"lr": 2e-2, "te_lr": 2e-2},
    },
    "dylora": {
        "network": {"algorithm": "dylora", "rank": 16, "alpha": 16, "block_size": 4},
        "optim": {"lr": 4e-3, "te_lr": 2e-3},
    },
    "glora": {"network": {"algorithm": "glora", "rank": 8, "alpha": 8}},
    "diag-oft": {
        "network": {"algorithm": "diag-oft", "rank": 16},
        "optim": {"lr": 8e-3, "te_lr": 4e-3},
    },
    "boft": {
        "network": {"algorithm": "boft", "rank": 16},
        "optim": {"lr": 1.5e-3, "te_lr": 7e-4},
    },
    "full": {"network": {"algorithm": "full"}, "optim": {"lr": 1.5e-3, "te_lr": 1e-3}},
    "t-lora": {"network": {"algorithm": "t-lora", "rank": 16, "alpha": 16, "min_rank": 4}},
}


def recipe_of(case: str, seed: int, folder: Path) -> Recipe:
    """The demo's recipe with another network."""
    base = demo_recipe(folder)
    values = base.model_dump(mode="python", exclude_unset=True)
    values["network"] = CASES[case]["network"]
    values["optim"] |= CASES[case].get("optim", {})
    values["train"]["seed"] = seed
    values["sample"]["prompts"] = []
    values["run"]["name"] = f"{case}-{seed}".replace("+", "-")
    return parse(values)


def score(case: str, seed: int, folder: Path) -> str:
    """Train once; a row of the table."""
    recipe = recipe_of(case, seed, folder)
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    scores: list[Scored] = []
    run = create_run(made.recipe, {})
    session = Session(
        made.recipe.model_copy(
            update={
                "run": made.recipe.run.model_copy(update={"name": run.name, "folder": run.parent})
            }
        ),
        run,
        examine=examiner(lambda: run),
        on_event=lambda event: scores.append(event) if isinstance(event, Scored) else None,
    )
    began = time.time()
    session.start()
    session.wait()
    if session.error is not None:
        return f"| {case} | {seed} | {session.error} |"
    after = scores[-1]
    size = (run / f"{run.name}.safetensors").stat().st_size
    return (
        f"| {case} | {seed} | {scores[0].concept:.2f} → {after.concept:.2f} | {after.base_shape:.2f} "
        f"| {after.base_background:.2f} | {after.base_colour:.2f} | {size / 1e3:.0f} kB "
        f"| {made.sizes.file_bytes / 1e3 if made.sizes.file_bytes else 0:.0f} kB "
        f"| {time.time() - began:.0f} s |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--folder", type=Path, default=Path("out/demo"))
    given = parser.parse_args()
    print("| network | seed | concept | shape | background | colour | file | planned | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in given.only.split(","):
        for seed in given.seeds.split(","):
            print(score(case, int(seed), given.folder.absolute()), flush=True)


if __name__ == "__main__":
    main()
