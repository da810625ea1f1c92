"""The factor table of the LoKr documentation, literally."""

import pytest

from engine.networks.factors import factorization, kron_shape

FACTORS = (-1, 0, 1, 4, 8, 16, 64, 10000)
TABLE = """
4     2,2   1,4     1,4    2,2    2,2    2,2    2,2
320   16,20 1,320   4,80   8,40   16,20  5,64   16,20
640   20,32 1,640   4,160  8,80   16,40  10,64  20,32
768   24,32 1,768   4,192  8,96   16,48  12,64  24,32
960   30,32 1,960   4,240  8,120  16,60  15,64  30,32
1024  32,32 1,1024  4,256  8,128  16,64  16,64  32,32
1280  32,40 1,1280  4,320  8,160  16,80  20,64  32,40
1920  40,48 1,1920  4,480  8,240  16,120 30,64  40,48
2560  40,64 1,2560  4,640  8,320  16,160 40,64  40,64
5120  64,80 1,5120  4,1280 8,640  16,320 64,80  64,80
10240 80,128 1,10240 4,2560 8,1280 16,640 64,160 80,128
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_factorization_is_the_documented_table(line):
    dimension, even, one, *others = line.split()
    wanted = (even, one, one, *others)
    found = [",".join(map(str, factorization(int(dimension), factor))) for factor in FACTORS]

    assert found == list(wanted)


def test_parameters_at_1280_are_the_documented_ones():
    from engine.networks.choice import Choice
    from engine.networks.shapes import lokr_shapes, lora_shapes
    from tests.engine.networks.test_shapes import Plan

    layer = Plan("unet", "x", 1280, 1280)
    count = {}
    for factor in (-1, 4, 8, 16):
        shapes = lokr_shapes(layer, Choice("lokr", 8, 4.0, factor=factor))
        count[factor] = sum(a * b for a, b in shapes.values())

    assert count == {-1: 1664, 4: 5136, 8: 2624, 16: 1536}
    assert sum(a * b for a, b in lora_shapes(layer, Choice("lora", 8, 4.0)).values()) == 20480


def test_unbalanced_swaps_the_outputs_only():
    usual = kron_shape(320, 768, 8, unbalanced=False)
    swapped = kron_shape(320, 768, 8, unbalanced=True)

    assert (usual.left, usual.right) == ((8, 8), (40, 96))
    assert (swapped.left, swapped.right) == ((40, 8), (8, 96))
