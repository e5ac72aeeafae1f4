"""Recognise what bytes are by their content, never by a name: microseconds, no parsing."""

from __future__ import annotations

import codecs
import struct

FORMATS = ("elf", "pe", "mach-o", "mach-o fat", "coff", "dex", "apk", "wasm", "text", "empty", "other")
EXECUTABLES = FORMATS[:6]  # the formats whose headers are parsed

_BY_MAGIC = ("elf", "mach-o", "mach-o fat", "dex", "wasm")  # decided by the first bytes alone

_MACHO = (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")
_MACHO_FAT = (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf")
_JAVA_OLDEST = 45  # major version of the first Java class files, which share the magic of fat Mach-O
_COFF_MACHINES = frozenset((0x014C, 0x8664, 0xAA64, 0x01C4, 0x01C0, 0x0200, 0x5032, 0x5064, 0x6264))
_COFF_BIG = struct.pack("<HH", 0, 0xFFFF)
_COFF_BIG_ID = bytes.fromhex("c7a1bad1eebaa94baf20faf66aa4dcb8")  # identifier of /bigobj object files
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_TEXT_WINDOW = 16 << 10  # bytes looked at in the beginning, the middle and the end
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b")) + b"\x7f"
_CONTROL_SHARE = 0.01  # more control characters than this is not text

_ZIP_DIRECTORY_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 0xFFFF  # the end record and its longest comment
_ZIP_DIRECTORY_MAX = 8 << 20  # bytes of a central directory that are searched
_APK_MEMBER = b"AndroidManifest.xml"


def recognise(data: bytes | memoryview) -> str:
    """The format of `data`, one of FORMATS, judged by magic numbers and a few bytes around them.

    An MZ file without a PE header is "other", and so is a Java class. Text is valid UTF-8 (or UTF-16 with a
    byte order mark) without NUL and with under 1% control characters in windows of 16 KiB at the beginning,
    the middle and the end.

    >>> recognise(b"plain words")
    'text'
    """
    view = memoryview(data).cast("B")
    if not view:
        return "empty"
    head = bytes(view[:64])
    magic = head[:4]
    if magic == b"\x7fELF":
        return "elf"
    if head[:2] == b"MZ" and _has_pe_header(view):
        return "pe"
    if magic in _MACHO:
        return "mach-o"
    if magic in _MACHO_FAT and 0 < int.from_bytes(head[4:8], "big") < _JAVA_OLDEST:
        return "mach-o fat"
    if magic == b"dex\n" and head[7:8] == b"\0":
        return "dex"
    if magic == b"\0asm":
        return "wasm"
    if magic == b"PK\x03\x04":
        return "apk" if _is_apk(view) else "other"
    if _is_coff(view):
        return "coff"
    return "text" if _is_text(view) else "other"


def possible_formats(head: bytes) -> frozenset[str]:
    """The formats that a file which begins with `head` (some hundred bytes) can have."""
    if recognise(head) in _BY_MAGIC:
        return frozenset((recognise(head),))
    if not head:
        return frozenset(("empty",))
    return frozenset(("pe" if head[:2] == b"MZ" else "apk" if head[:2] == b"PK" else "coff", "text", "other"))


def _has_pe_header(view: memoryview) -> bool:
    if len(view) < 64:
        return False
    (offset,) = struct.unpack_from("<I", view, 60)
    return bytes(view[offset : offset + 4]) == b"PE\0\0"


def _is_coff(view: memoryview) -> bool:
    """COFF objects have no magic: the machine must be known and every table must lie inside the file."""
    if len(view) < 20:
        return False
    machine, sections, _, symbols_at, symbols, optional, _ = struct.unpack_from("<HHIIIHH", view, 0)
    if bytes(view[:4]) == _COFF_BIG:
        return bytes(view[12:28]) == _COFF_BIG_ID
    if machine not in _COFF_MACHINES or optional != 0 or not 0 < sections < 0xFF00:
        return False
    if 20 + 40 * sections > len(view) or symbols_at + 18 * symbols > len(view):
        return False
    for section in range(min(sections, 16)):
        size, offset = struct.unpack_from("<II", view, 20 + 40 * section + 16)
        if offset and offset + size > len(view):
            return False
    return True


def _is_apk(view: memoryview) -> bool:
    """A ZIP whose central directory names AndroidManifest.xml."""
    tail_at = max(0, len(view) - _ZIP_TAIL)
    tail = bytes(view[tail_at:])
    end = tail.rfind(_ZIP_DIRECTORY_END)
    if end < 0 or end + 22 > len(tail):
        return False
    size, offset = struct.unpack_from("<II", tail, end + 12)
    return _APK_MEMBER in bytes(view[offset : offset + min(size, _ZIP_DIRECTORY_MAX)])


def _is_text(view: memoryview) -> bool:
    if bytes(view[:2]) in _UTF16:
        return _is_utf16(view)
    starts = {0, max(0, len(view) // 2 - _TEXT_WINDOW // 2), max(0, len(view) - _TEXT_WINDOW)}
    return all(_is_utf8_window(view, start) for start in starts)


def _is_utf8_window(view: memoryview, start: int) -> bool:
    window = bytes(view[start : start + _TEXT_WINDOW])
    if start:  # the window may begin inside a character: drop up to three continuation bytes
        window = window[:3].lstrip(bytes(range(0x80, 0xC0))) + window[3:]
    if not _has_few_controls(window):
        return False
    return _decoded(window, "utf-8", start + _TEXT_WINDOW >= len(view)) is not None


def _is_utf16(view: memoryview) -> bool:
    text = _decoded(bytes(view[:_TEXT_WINDOW]), "utf-16", len(view) <= _TEXT_WINDOW)
    return text is not None and text != "" and _has_few_controls(text.encode("utf-8"))


def _has_few_controls(window: bytes) -> bool:
    controls = len(window) - len(window.translate(None, _CONTROLS))
    return b"\0" not in window and controls <= _CONTROL_SHARE * len(window)


def _decoded(window: bytes, encoding: str, final: bool) -> str | None:
    """`window` as text, or None; an incomplete last character is fine unless the file ends there (`final`)."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(window, final)
    except UnicodeDecodeError:
        return None
