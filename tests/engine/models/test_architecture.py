"""Published sizes of the families, and that knowing a size is not yet being able to train."""

from __future__ import annotations

import pytest

from engine.models.architecture import full_size
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


def test_knowing_the_sizes_makes_no_family_trainable() -> None:
    assert TRAINABLE == ("sd1",)


def test_an_unknown_family_has_no_size() -> None:
    with pytest.raises(FileNotFoundError):
        full_size("flux")
