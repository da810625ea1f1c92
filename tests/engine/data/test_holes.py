"""Holes for inpainting bases: what is hidden, and what the model is told of the rest."""

from __future__ import annotations

import torch

from engine.data.encoding import Encoder
from engine.data.holes import WHOLE, Holes, blanked, draw_hole
from engine.data.latents import LiveLatents, encode_latents
from engine.data.pictures import Draw, Pictures

torch.set_num_threads(1)


def hole(step: int, *, seed: int = 1, sample: int = 0, size: tuple[int, int] = (96, 64)):
    return draw_hole(*size, seed=seed, step=step, sample=sample)


def test_a_hole_is_drawn_by_seed_step_and_sample() -> None:
    assert torch.equal(hole(3), hole(3))
    assert hole(3).shape == (1, 64, 96)
    assert len({hole(step).numpy().tobytes() for step in range(30)}) > 15
    some = {hole(3, sample=sample).numpy().tobytes() for sample in range(8)}
    assert len(some) > 3 and not torch.equal(hole(7), hole(7, seed=2))


def test_some_draws_hide_everything_and_none_hides_nothing() -> None:
    shares = torch.stack([hole(step).mean() for step in range(800)])
    whole = float((shares == 1).float().mean())
    assert WHOLE - 0.05 < whole < WHOLE + 0.06
    assert float(shares.min()) > 0.01
    part = shares[shares < 1]
    assert 0.2 < float(part.mean()) < 0.6 and float(part.std()) > 0.1


def test_holes_are_black_or_white() -> None:
    assert set(torch.cat([hole(step).flatten() for step in range(20)]).tolist()) == {0.0, 1.0}


def test_the_hidden_part_is_middle_grey_and_the_rest_untouched() -> None:
    pixels_CHW = torch.rand(3, 64, 96) * 2 - 1
    mask_1HW = hole(3)
    made_CHW = blanked(pixels_CHW, mask_1HW)
    hidden = mask_1HW[0] == 1
    assert 0 < hidden.float().mean() < 1
    assert (made_CHW[:, hidden] == 0).all()
    assert torch.equal(made_CHW[:, ~hidden], pixels_CHW[:, ~hidden])


def test_latents_are_those_of_the_picture_with_the_hole(one_picture: Pictures) -> None:
    def vae(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean_BCHW = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
        return mean_BCHW, torch.zeros_like(mean_BCHW)

    encoder = Encoder(vae, "v", "p")
    for mode in ("ram", "off"):
        source = encode_latents(one_picture, encoder, mode=mode)  # type: ignore[arg-type]
        holes = Holes(one_picture, source, encoder)
        draw = Draw(0, True, (0, 0), step=3, sample=0)
        made = holes.finish(draw, holes.prepare(draw))
        pixels_CHW = one_picture.load(0, (0, 0), True, (255, 255, 255)).pixels_CHW
        mask_1HW = draw_hole(64, 64, seed=one_picture.seed, step=3, sample=0)
        wanted_CHW = torch.nn.functional.avg_pool2d(pixels_CHW * (1 - mask_1HW), 8)
        assert torch.allclose(made.latents_CHW, wanted_CHW, atol=1e-6)
        assert torch.equal(made.mask_1HW, mask_1HW[:, ::8, ::8])


def test_holes_see_the_shifted_colours_of_a_live_draw(one_picture: Pictures) -> None:
    from engine.data.shifts import Shift

    source = LiveLatents(one_picture, Encoder(lambda _: (_, _), "v", "p"))
    plain = source.pixels(Draw(0, False, (0, 0), 1, 0))
    other = source.pixels(Draw(0, False, (0, 0), 1, 0, Shift(gamma=1.05)))
    assert not torch.equal(plain, other)
