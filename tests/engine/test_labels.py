"""What a run says of itself inside its files: true, readable by others, and without local paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.networks.headers import read_header
from engine.session import Session, create_run
from tests.small_run import small_recipe

NETWORKS: dict[str, dict[str, Any]] = {
    "lora": {"algorithm": "lora", "rank": 4, "alpha": 2.0},
    "lora dora": {"algorithm": "lora", "rank": 4, "alpha": 2.0, "dora": "output"},
    "lokr": {"algorithm": "lokr", "rank": "full", "factor": 4},
    "ia3": {"algorithm": "ia3", "targets": "ia3"},
    "locon": {"algorithm": "locon", "rank": 2, "conv_rank": 0, "dropout": 0.1},
}
SAID: dict[str, dict[str, Any]] = {
    "lora": {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
    },
    "lora dora": {"ss_network_module": "lycoris.kohya", "args": {"wd_on_output": "True"}},
    "lokr": {"ss_network_dim": "100000", "args": {"algo": "lokr", "factor": "4"}},
    "ia3": {"ss_network_module": "lycoris.kohya", "args": {"algo": "ia3", "preset": "ia3"}},
    "locon": {"args": {"algo": "locon", "conv_dim": "0", "dropout": "0.1"}},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_tells_its_network_data_and_no_paths(tmp_path: Path, name: str) -> None:
    recipe = small_recipe(tmp_path, network=NETWORKS[name], train={"max_steps": 1, "epochs": 1})
    folder = create_run(recipe)
    session = Session(recipe, folder)
    session.start()
    assert session.wait(240) and session.error is None

    told = read_header(folder / f"{folder.name}.safetensors").metadata

    wanted = dict(SAID[name])
    args = json.loads(told["ss_network_args"])
    assert {key: args.get(key) for key in wanted.pop("args", {})} == SAID[name].get("args", {})
    assert {key: told.get(key) for key in wanted} == wanted
    assert json.loads(told["ss_tag_frequency"])["2_vexilo emblem"]["vexilo emblem"] == 6
    assert json.loads(told["ss_dataset_dirs"]) == {
        "2_vexilo emblem": {"n_repeats": 2, "img_count": 6}
    }
    assert told["ss_steps"] == "1" and told["ss_seed"] == "7"
    assert told["lyctui.family"] == "sd1"
    assert not any(str(tmp_path) in text for text in told.values())
