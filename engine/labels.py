"""What a run writes into its network files: kohya's keys and ours, from the recipe and the data."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

from engine import program_version
from engine.label_keys import training_keys
from engine.networks.metadata import NetworkFacts, network_metadata
from engine.planning.family import how_told
from engine.runs import START_PREFIX
from engine.settings.toml import portable

if TYPE_CHECKING:
    from engine.assemble import Training
    from engine.checkpoint.state import Place
    from engine.outputs import Tally
    from engine.settings import Recipe


def file_metadata(recipe: Recipe, training: Training, place: Place, tally: Tally) -> dict[str, str]:
    """Metadata of the network file of one place of a run."""
    model, data, save = training.model, recipe.data, recipe.save
    words = " ".join(word for word in (data.trigger, data.class_word) if word)
    facts = NetworkFacts(
        training=training_keys(recipe, training, place, tally),
        title=save.title or recipe.run.name or "",
        architecture=model.modelspec,
        version=program_version() or "0",
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        resolution=training.resolution,
        prediction=model.prediction,
        clip_skip=training.clip_skip,
        timesteps=(recipe.objective.min_timestep, recipe.objective.max_timestep),
        modelspec={
            "author": save.author,
            "description": save.description,
            "license": save.license,
            "trigger_phrase": words,
            "tags": words,
        },
        recipe=portable(recipe),
        own=_own_keys(recipe, training, tally),
        mode=save.metadata,
    )
    return network_metadata(facts)


def _own_keys(recipe: Recipe, training: Training, tally: Tally) -> dict[str, Any]:
    """What no other program writes: where it came from, and how it was told what it is."""
    model, objective = training.model, recipe.objective
    return {
        "family": model.family,
        "family_source": how_told(model.facts),
        "prediction": model.prediction,
        "prediction_source": model.prediction_source,
        "inpainting": model.inpaints,
        "timestep_range": f"{objective.min_timestep},{objective.max_timestep}",
        "bucket_step": recipe.data.bucket_step,
        "seed": training.seed,
        "parent": _parent(recipe),
        "parent_sha256": training.parent_sha256,
        "lineage": json.dumps(tally.lineage),
        "peak_bytes": training.memory()[1],
    }


def _parent(recipe: Recipe) -> str | None:
    """Name of the file the run started from, as it was before the run took its copy."""
    weights, run = recipe.network.weights, recipe.run
    if weights is None:
        return None
    own = run.folder is not None and weights.parent == run.folder / (run.name or "")
    return weights.name.removeprefix(START_PREFIX) if own else weights.name
