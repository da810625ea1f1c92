"""Small pictures that would keep a decoder busy for hours, told by counting before it starts.

Sizes are checked elsewhere: here it is the number of parts, each of which costs time whatever it
holds. Pillow has no limit for them.
"""

from __future__ import annotations

from io import BufferedReader

CHUNK = 1 << 20
MOST_SCANS = 100
"""Of a progressive JPEG, each of which passes over all pixels; honest ones have about ten."""
FEWEST_BYTES = 512
"""Of a part, on an average, once there are many."""
MOST_PARTS = 10_000


def too_many_parts(file: BufferedReader, size: int) -> str:
    """What a picture has too many of, "3000 scans"; empty where it can be decoded in good time."""
    file.seek(0)
    head = file.read(8)
    if head.startswith(b"\xff\xd8"):
        scans = _count(file, b"\xff\xda")
        return f"{scans} scans" if scans > MOST_SCANS else ""
    if head.startswith(b"\x89PNG"):
        parts = _png_parts(file, size)
    elif head.startswith(b"GIF8"):
        # Each extension but the first follows the zero that ends the one before it.
        parts = _count(file, b"\x00!")
    else:
        return ""
    return f"{parts} parts" if parts > _most(size) else ""


def _most(size: int) -> int:
    return MOST_PARTS + size // FEWEST_BYTES


def _count(file: BufferedReader, mark: bytes) -> int:
    """How often two bytes occur, across the borders of what is read at a time too."""
    file.seek(0)
    found, last = 0, b""
    while block := file.read(CHUNK):
        found += (last + block).count(mark)
        last = block[-1:]
    return found


def _png_parts(file: BufferedReader, size: int) -> int:
    place, parts = 8, 0
    while place + 12 <= size and parts <= _most(size):
        file.seek(place)
        place += 12 + int.from_bytes(file.read(4), "big")
        parts += 1
    file.seek(0)
    return parts
