"""Teaches the tests' tiny SDXL the demo's concept, with both text encoders, and says how well it learnt.

python benchmarks/demo_sdxl.py [--epochs 8] [--rate 2e-3] [--folder out/sdxl]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from engine.events import Scored
from engine.plan import gather, plan
from engine.session import Session, create_run
from lyctui.demo.run import examiner
from tests.trained_sdxl import sdxl_recipe


def main() -> None:
    """Train once and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--folder", type=Path, default=Path("out/sdxl"))
    given = parser.parse_args()
    recipe = sdxl_recipe(
        given.folder.absolute(),
        optim={"lr": given.rate, "te_lr": given.rate / 2, "te2_lr": given.rate / 2},
        train={"epochs": given.epochs},
    )
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    run = create_run(made.recipe, {})
    scores: list[Scored] = []
    session = Session(
        made.recipe.model_copy(
            update={"run": made.recipe.run.model_copy(update={"name": run.name})}
        ),
        run,
        examine=examiner(lambda: run),
        on_event=lambda event: scores.append(event) if isinstance(event, Scored) else None,
    )
    began = time.time()
    session.start()
    session.wait()
    if session.error is not None:
        raise session.error
    after = scores[-1]
    print(
        f"{made.steps} steps, {time.time() - began:.0f} s: concept {scores[0].concept:.2f} → "
        f"{after.concept:.2f}; kept: shape {after.base_shape:.2f}, background "
        f"{after.base_background:.2f}, colour {after.base_colour:.2f}; {run}"
    )


if __name__ == "__main__":
    main()
