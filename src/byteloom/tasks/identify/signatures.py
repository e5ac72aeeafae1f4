"""What the first bytes of a file say by convention: signatures, where formats have them."""

from __future__ import annotations

import re

from byteloom.corpus import FileInfo, describe

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (8, b"WAVE", "wav"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    (0, b"fLaC", "flac"),
    (0, b"%PDF-", "pdf"),
    (0, b"%!PS", "postscript"),
    (0, b"%!FontType1", "type1 font"),
    (0, b"%!PS-AdobeFont", "type1 font"),
    (6, b"%!PS-AdobeFont", "type1 font"),
    (6, b"%!FontType1", "type1 font"),
    (0, b"\0\x01\0\0\0", "truetype"),
    (0, b"true\0", "truetype"),
    (0, b"ttcf\0", "truetype"),
    (0, b"OTTO\0", "opentype"),
    (0, b"wOFF", "woff"),
    (0, b"wOF2", "woff"),
    (0, b"SQLite format 3\0", "sqlite"),
    (0, b"\xde\x12\x04\x95", "gettext catalogue"),
    (0, b"\x95\x04\x12\xde", "gettext catalogue"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"!<arch>\n", "ar"),
    (257, b"ustar", "tar"),
    (0, b"\0asm", "wasm"),
    (0, b"dex\n", "dex"),
    (0, b"\xff\xfe", "utf-16 text"),
    (0, b"\xfe\xff", "utf-16 text"),
)
HEAD = 512  # bytes that `signed` looks at
_INTERPRETERS = {
    **dict.fromkeys(("sh", "bash", "dash", "ksh", "zsh"), "shell"),
    **dict.fromkeys(("python", "pypy"), "python"),
    **dict.fromkeys(("tclsh", "wish"), "tcl"),
    **{name: name for name in ("perl", "php", "ruby", "lua")},
    "node": "javascript",
    "make": "makefile",
    "runhaskell": "haskell",
    "ocaml": "ocaml",
    "guile": "lisp",
}
_DECLARATIONS = {
    "svg": rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg\b",
    "html": rb"(?i)(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!doctype\s+html|<html\b)",
    "xml": rb"<\?xml\b",
    "php": rb"<\?php\b",
    "po": rb"(?:#[^\n]*\n)*msgid\b",
    "xpm": rb"/\* XPM \*/",
    "tex": rb"(?:%[^\n]*\n\s*)*\\(?:documentclass|documentstyle|NeedsTeXFormat|ProvidesPackage)\b",
    "cmake": rb"(?i)(?:#[^\n]*\n\s*)*cmake_minimum_required\s*\(",
}


def signed(head: bytes) -> str | None:
    """The label that the first HEAD bytes of a file promise, or None.

    >>> signed(b"%PDF-1.7 ...")
    'pdf'
    """
    found = [label for at, magic, label in _SIGNATURES if head[at : at + len(magic)] == magic]
    if "webp" in found or "wav" in found:
        found = [label for label in found if label not in ("webp", "wav") or head.startswith((b"RIFF", b"RIFX"))]
    if "type1 font" in found:
        return "type1 font"
    if (
        head.startswith(b"BM")
        and len(head) >= 26
        and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 108, 124)
    ):
        return "bitmap"
    if head.startswith(b"\0\0\x01\0") and 0 < int.from_bytes(head[4:6], "little") < 64 and head[9:10] == b"\0":
        return "ico"
    if head.startswith(b"\xca\xfe\xba\xbe") and 45 <= int.from_bytes(head[6:8], "big") < 100:
        return "java class"
    if len(head) > 16 and head[2:4] == b"\r\n" and head[1] in (12, 13, 14):  # the number of the version of Python
        return "python bytecode"
    if "bzip2" in found and head[4:10] not in (b"1AY&SY", b"\x17rE8P\x90"):
        found.remove("bzip2")
    return found[0] if found else None


def declared(head: bytes) -> str | None:
    """What a text says of itself at its beginning: an interpreter, a declaration, or None.

    >>> declared(b"#!/usr/bin/env python3\n")
    'python'
    """
    if match := re.match(rb"#!\s*(?:\S*/)?(?:env\s+(?:-\S+\s+)*)?([a-z]+)", head):
        return _INTERPRETERS.get(match[1].decode())
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for label, pattern in _DECLARATIONS.items():
        if re.match(pattern, start):
            return label
    return None


def executable(data: bytes | memoryview) -> FileInfo | None:
    """What the headers of an executable tell, or None for anything else."""
    info = describe(data)
    return info if info.format in ("elf", "pe", "mach-o", "mach-o fat", "dex", "wasm") else None
