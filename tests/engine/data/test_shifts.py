"""Colour augmentation: how often, how much, and that hue and gamma are what they say."""

from __future__ import annotations

import colorsys

import pytest
import torch

from engine.data.shifts import GAMMAS, MOST_HUE, NO_SHIFT, Shift, draw_shift, shifted

torch.set_num_threads(1)


def test_a_third_of_the_draws_is_shifted_half_in_hue_half_in_gamma() -> None:
    drawn = [draw_shift(seed=1, step=step, sample=0) for step in range(4000)]
    some = [shift for shift in drawn if shift]
    hues = [shift.hue for shift in some if shift.hue]
    gammas = [shift.gamma for shift in some if shift.gamma != 1]
    assert 0.30 < len(some) / len(drawn) < 0.36
    assert 0.45 < len(hues) / len(some) < 0.55 and len(hues) + len(gammas) == len(some)
    assert -MOST_HUE <= min(hues) < -0.9 * MOST_HUE and 0.9 * MOST_HUE < max(hues) <= MOST_HUE
    assert GAMMAS[0] <= min(gammas) < 0.955 and 1.045 < max(gammas) <= GAMMAS[1]
    assert draw_shift(seed=1, step=5, sample=0) == drawn[5]
    assert any(draw_shift(seed=2, step=step, sample=0) != drawn[step] for step in range(20))


def test_the_hue_turns_as_in_hsv() -> None:
    generator = torch.Generator().manual_seed(0)
    values_CHW = torch.rand(3, 8, 8, generator=generator)
    values_CHW[:, 0, :4] = torch.tensor([0.0, 1.0, 0.5, 0.25])  # Greys have no hue.
    for turn in (0.04, -0.04, 0.4):
        turned_CHW = (shifted(values_CHW * 2 - 1, Shift(hue=turn)) + 1) / 2
        for before, after in zip(
            values_CHW.flatten(1).T.tolist(), turned_CHW.flatten(1).T.tolist(), strict=True
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(*before)
            wanted = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert after == pytest.approx(wanted, abs=1e-5)


def test_gamma_works_on_values_of_0_to_1() -> None:
    pixels_CHW = torch.tensor([-1.0, -0.5, 0.0, 1.0]).expand(3, 1, 4)
    made_CHW = shifted(pixels_CHW, Shift(gamma=1.05))
    wanted = torch.tensor([0.0, 0.25**1.05, 0.5**1.05, 1.0]) * 2 - 1
    assert torch.allclose(made_CHW[0, 0], wanted)
    # On values of 0 to 255 the middle grey would become 168 of 255, far brighter.
    assert abs(float(made_CHW[0, 0, 2])) < 0.04


def test_most_draws_leave_the_pixels_alone() -> None:
    pixels_CHW = torch.rand(3, 4, 4)
    assert shifted(pixels_CHW, NO_SHIFT) is pixels_CHW
