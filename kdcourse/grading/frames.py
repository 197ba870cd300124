"""Named values as bytes, the only language between the judge and the process that runs an answer.

A frame is: length of the name (u8), name (ASCII), kind (u8), axes (u8), sizes (u32 each), content (little-endian).
Sizes are compared with the bytes at hand before any array is made. No pickle, no JSON: reading a frame runs nothing.
"""

import math
import struct
from collections.abc import Iterable, Iterator

import numpy as np

Value = np.ndarray | int | float | str
KINDS = {1: "<f4", 2: "<f8", 3: "<i8", 4: "|b1", 5: "|u1"}
INT, FLOAT, TEXT = 20, 21, 22  # no axes
AXES, LONGEST_TEXT, MOST = 5, 400, 4096


def pack(items: Iterable[tuple[str, Value]]) -> bytes:
    return b"".join(_packed(name, value) for name, value in items)


def _packed(name: str, value: Value) -> bytes:
    head = struct.pack("<B", len(name)) + name.encode("ascii")
    if isinstance(value, str):
        text = value[:LONGEST_TEXT].encode("utf-8", "replace")
        return head + struct.pack("<BBI", TEXT, 1, len(text)) + text
    if isinstance(value, float):
        return head + struct.pack("<BBd", FLOAT, 0, value)
    if isinstance(value, int):
        return head + struct.pack("<BBq", INT, 0, value)
    if value.dtype.str not in KINDS.values():
        value = value.astype("<f8" if value.dtype.kind == "f" else "<i8")
    kind = next(kind for kind, dtype in KINDS.items() if dtype == value.dtype.str)
    return head + struct.pack(f"<BB{value.ndim}I", kind, value.ndim, *value.shape) + value.tobytes()


def unpack(data: bytes) -> Iterator[tuple[str, Value]]:
    """The frames of `data`, in order; ValueError where a byte is not as it should be."""
    at = count = 0

    def take(size: int) -> bytes:
        nonlocal at
        if at + size > len(data):
            raise ValueError(f"unpack: a frame must end within its message, got {len(data) - at} bytes for {size}")
        at += size
        return data[at - size : at]

    while at < len(data):
        count += 1
        if count > MOST:
            raise ValueError(f"unpack: a message must hold at most {MOST} frames")
        name = take(take(1)[0]).decode("ascii")
        kind, axes = take(2)
        if kind == INT and axes == 0:
            yield name, struct.unpack("<q", take(8))[0]
        elif kind == FLOAT and axes == 0:
            yield name, struct.unpack("<d", take(8))[0]
        elif (kind in KINDS or kind == TEXT) and axes <= AXES:
            sizes = struct.unpack(f"<{axes}I", take(4 * axes))
            if kind == TEXT:
                yield name, take(math.prod(sizes)).decode("utf-8", "replace")
            else:
                content = take(math.prod(sizes) * np.dtype(KINDS[kind]).itemsize)
                yield name, np.frombuffer(content, KINDS[kind]).reshape(sizes)
        else:
            raise ValueError(f"unpack: a frame must be of a known kind, got {kind} with {axes} axes")
