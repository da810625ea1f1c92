"""How LoKr splits a dimension in two. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class KronShape:
    """Sizes of the two halves of a Kronecker product."""

    left: tuple[int, int]
    """(out_l, in_m)"""
    right: tuple[int, int]
    """(out_k, in_n)"""


@lru_cache(maxsize=4096)
def factorization(dimension: int, factor: int) -> tuple[int, int]:
    """A pair whose product is `dimension`, smaller first (LyCORIS, Yeh et al. 2023).

    A factor that divides is taken as it is; -1 gives the most balanced pair, any other the largest
    divisor that is not above it and not past the square root's pair.
    """
    if factor > 0 and dimension % factor == 0:
        pair = (factor, dimension // factor)
        return min(pair), max(pair)
    limit = dimension if factor < 0 else factor
    current = 1
    for divisor in range(2, dimension + 1):
        if current * current >= dimension or divisor > limit:
            break
        if dimension % divisor == 0:
            current = divisor
    pair = (current, dimension // current)
    return min(pair), max(pair)


def kron_shape(out: int, in_: int, factor: int, *, unbalanced: bool) -> KronShape:
    """Sizes of w1 and w2 of a layer; `unbalanced` gives w1 the larger part of the outputs."""
    in_m, in_n = factorization(in_, factor)
    out_l, out_k = factorization(out, factor)
    if unbalanced:
        out_l, out_k = out_k, out_l
    return KronShape((out_l, in_m), (out_k, in_n))


def butterfly_sizes(dimension: int) -> tuple[int, ...]:
    """Even block sizes b with dimension = b * 2^p, ascending (Liu et al. 2023, section 4)."""
    odd = dimension
    while odd % 2 == 0 and odd > 0:
        odd //= 2
    sizes = []
    size = odd * 2
    while size <= dimension:
        sizes.append(size)
        size *= 2
    return tuple(sizes)


def butterfly_size(dimension: int, limit: int) -> int | None:
    """The largest block size of at most `limit`, or None where there is none."""
    return max((size for size in butterfly_sizes(dimension) if size <= limit), default=None)


def smallest_butterfly(dimension: int) -> int | None:
    """The smallest limit that the dimension can be cut for; None where it is odd."""
    return min(butterfly_sizes(dimension), default=None)
