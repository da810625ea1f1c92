"""A preset's sizes hold for its own kind of network only."""

from lyctui.verbs.recipes import preset_values


def test_another_algorithm_takes_no_rank_from_the_preset() -> None:
    own = preset_values("character", {})["network"]
    assert "rank" in own
    other = preset_values("character", {"network": {"algorithm": "lokr"}})["network"]
    assert "rank" not in other
    same = preset_values("character", {"network": {"algorithm": "locon"}})["network"]
    assert same["rank"] == own["rank"]
