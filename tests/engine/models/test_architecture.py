"""Published sizes of the families, and what of a structure is refused before anything is built."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.models.architecture import UnusualShape, checked, full_size
from engine.models.recognise import TRAINABLE


@pytest.mark.parametrize(
    ("family", "side", "channels"),
    [
        ("sd1", 512, (320, 640, 1280, 1280)),
        ("sd2", 768, (320, 640, 1280, 1280)),
        ("sdxl", 1024, (320, 640, 1280)),
    ],
)
def test_published_sizes(family: str, side: int, channels: tuple[int, ...]) -> None:
    architecture = full_size(family)
    assert architecture.family == family
    assert architecture.native_resolution == side
    assert architecture.channels == channels


def test_only_sdxl_has_a_second_text_encoder() -> None:
    second = full_size("sdxl").text_encoder_2
    assert second is not None and second["hidden_size"] == 1280
    assert full_size("sd1").text_encoder_2 is None
    assert full_size("sd2").text_encoder_2 is None


def test_heads_and_activations_are_the_published_ones() -> None:
    assert full_size("sd1").text_encoder["hidden_act"] == "quick_gelu"
    assert full_size("sd2").text_encoder["hidden_act"] == "gelu"
    assert full_size("sd2").unet["attention_head_dim"] == [5, 10, 20, 20]
    assert full_size("sdxl").unet["attention_head_dim"] == [5, 10, 20]


def test_a_size_that_is_changed_changes_no_other() -> None:
    full_size("sdxl").unet["block_out_channels"].clear()
    assert full_size("sdxl").channels == (320, 640, 1280)


def test_every_family_that_is_trained_can_be_loaded() -> None:
    from engine.models.load import FAMILIES

    assert set(TRAINABLE) == set(FAMILIES)
    assert {family: cls.family for family, cls in FAMILIES.items()} == {f: f for f in TRAINABLE}


@pytest.mark.parametrize("family", TRAINABLE)
def test_published_architectures_fit_together(family: str) -> None:
    assert checked(full_size(family)) == full_size(family)


def test_more_layers_than_anything_has_are_not_built() -> None:
    """A single name with a large number in it would be enough."""
    base = full_size("sd1")
    text = base.text_encoder | {"num_hidden_layers": 10**8}
    with pytest.raises(UnusualShape, match="more layers"):
        checked(replace(base, text_encoder=text))


@pytest.mark.parametrize(
    ("unet", "words"),
    [
        ({"attention_head_dim": [5, 10]}, "different make"),
        ({"attention_head_dim": [5, 10, 7]}, "do not split"),
        ({"attention_head_dim": [5, 10, 0]}, "different make"),
        ({"attention_head_dim": "5"}, "different make"),
        ({"transformer_layers_per_block": [1, 2]}, "different make"),
        ({"cross_attention_dim": 1024}, "reads text of width 1024"),
        ({"projection_class_embeddings_input_dim": 2817}, "vector of 2817 numbers, not of 2816"),
        ({"norm_num_groups": 7}, "7 groups"),
        ({"transformer_layers_per_block": [1, 2, 10**8]}, "transformer blocks in a row"),
        ({"layers_per_block": 10**8}, "layers in a block"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(unet: dict[str, object], words: str) -> None:
    base = full_size("sdxl")
    with pytest.raises(UnusualShape, match=words):
        checked(replace(base, unet=base.unet | unet))


def test_an_unknown_family_has_no_size() -> None:
    with pytest.raises(FileNotFoundError):
        full_size("flux")
