"""Checks that keep LIEF from counts that no file backs: with them it would run for minutes and fill the memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_FAT = {b"\xca\xfe\xba\xbe": (20, ">II"), b"\xca\xfe\xba\xbf": (32, ">QQ")}  # entry bytes; offset and size in it
_THIN = {  # byte order, header bytes
    b"\xfe\xed\xfa\xce": (">", 28),
    b"\xfe\xed\xfa\xcf": (">", 32),
    b"\xce\xfa\xed\xfe": ("<", 28),
    b"\xcf\xfa\xed\xfe": ("<", 32),
}
_SEGMENT, _SEGMENT_64 = 0x1, 0x19
_SEGMENT_SHAPE = {_SEGMENT: (56, 68), _SEGMENT_64: (72, 80)}  # bytes of the command and of a section in it


def macho_counts_fit(view: memoryview) -> bool:
    """Whether the slices, load commands and section tables of a Mach-O file lie where they must."""
    try:
        return all(_commands_fit(part) for part in _slices(view))
    except (struct.error, ValueError):
        return False


def _slices(view: memoryview) -> Iterator[memoryview]:
    magic = bytes(view[:4])
    if magic not in _FAT:
        yield view
        return
    width, layout = _FAT[magic]
    (count,) = struct.unpack_from(">I", view, 4)
    for entry in range(count):
        offset, size = struct.unpack_from(layout, view, 8 + width * entry + 8)
        if offset + size > len(view):
            raise ValueError("a slice ends behind the file")
        yield view[offset : offset + size]


def _commands_fit(view: memoryview) -> bool:
    shape = _THIN.get(bytes(view[:4]))
    if shape is None:  # a slice of another kind, such as an archive: LIEF leaves it out
        return True
    order, position = shape
    count, total = struct.unpack_from(f"{order}II", view, 16)
    end = position + total
    if end > len(view):
        return False
    for _ in range(count):
        command, size = struct.unpack_from(f"{order}II", view, position)
        if size < 8 or position + size > end:
            return False
        if command in _SEGMENT_SHAPE:
            header, section = _SEGMENT_SHAPE[command]
            (sections,) = struct.unpack_from(f"{order}I", view, position + header - 8)
            if header + section * sections > size:
                return False
        position += size
    return True
