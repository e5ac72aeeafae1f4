"""Small executables of every format, made by hand, so that the tests need no compiler and no particular machine."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

import zstandard

CODE = bytes.fromhex("554889e5b8000000005dc3") * 4  # 44 bytes
DATA = b"initialised data"  # 16 bytes


def elf(machine: int = 62, bits: int = 64, osabi: int = 0) -> bytes:
    """ELF with .text, .data, .bss (8 bytes that are not in the file), .debug_info, .symtab and .shstrtab."""
    names = b"\0.text\0.data\0.bss\0.debug_info\0.symtab\0.shstrtab\0"
    header_bytes = 64 if bits == 64 else 52
    bodies = [CODE, DATA, b"debug", bytes(24), names]
    offsets, position = [], header_bytes
    for body in bodies:
        offsets.append(position)
        position += len(body)
    text, data, debug, symbols, strings = offsets
    # name, type, flags, offset, size
    rows = [
        (0, 0, 0, 0, 0),
        (names.index(b".text"), 1, 6, text, len(CODE)),
        (names.index(b".data"), 1, 3, data, len(DATA)),
        (names.index(b".bss"), 8, 3, debug, 8),
        (names.index(b".debug_info"), 1, 0, debug, 5),
        (names.index(b".symtab"), 2, 0, symbols, 24),
        (names.index(b".shstrtab"), 3, 0, strings, len(names)),
    ]
    word = "Q" if bits == 64 else "I"
    table = b"".join(
        struct.pack(f"<II4{word}II2{word}", name, kind, flags, 0, offset, size, 0, 0, 1, 0)
        for name, kind, flags, offset, size in rows
    )
    identity = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1, osabi]) + bytes(8)
    shape = (64, 56, 64) if bits == 64 else (52, 32, 40)
    header = identity + struct.pack(
        f"<HHI3{word}IHHHHHH", 2, machine, 1, 0, 0, position, 0, shape[0], shape[1], 0, shape[2], len(rows), 6
    )
    assert len(header) == header_bytes
    return header + b"".join(bodies) + table


def pe(machine: int = 0x8664) -> bytes:
    """PE32+ (or PE32 for machine 0x14c) with .text at 512, .data at 1024 and an empty .bss."""
    wide = machine != 0x14C
    dos = b"MZ" + bytes(58) + struct.pack("<I", 64)
    optional = struct.pack("<HBBIIIII", 0x20B if wide else 0x10B, 14, 0, 512, 512, 0, 0x1000, 0x1000)
    optional += struct.pack("<QII", 0x140000000, 4096, 512) if wide else struct.pack("<IIII", 0, 0x400000, 4096, 512)
    optional += struct.pack("<HHHHHHIIIIHH", 6, 0, 0, 0, 6, 0, 0, 0x4000, 512, 0, 3, 0)
    optional += struct.pack("<QQQQ" if wide else "<IIII", 0, 0, 0, 0) + struct.pack("<II", 0, 16) + bytes(128)
    coff = struct.pack("<HHIIIHH", machine, 3, 0, 0, 0, len(optional), 0x22)

    def section(name: bytes, size: int, offset: int, flags: int) -> bytes:
        return struct.pack("<8sIIIIIIHHI", name, size or 64, 0x1000, size, offset, 0, 0, 0, 0, flags)

    table = section(b".text", 512, 512, 0x60000020) + section(b".data", 512, 1024, 0xC0000040)
    table += section(b".bss", 0, 0, 0xC0000080)
    head = dos + b"PE\0\0" + coff + optional + table
    return head.ljust(512, b"\0") + CODE.ljust(512, b"\xcc") + DATA.ljust(512, b"\0")


def macho(cputype: int = 0x0100000C) -> bytes:
    """64-bit Mach-O (arm64 by default) with __TEXT,__text, __DATA,__data, a zero-fill __bss and __LINKEDIT."""

    def segment(name: bytes, offset: int, size: int, sections: list[bytes]) -> bytes:
        head = struct.pack(
            "<II16sQQQQIIII", 0x19, 72 + 80 * len(sections), name, 0, size, offset, size, 7, 7, len(sections), 0
        )
        return head + b"".join(sections)

    def section(name: bytes, segment_name: bytes, size: int, offset: int, flags: int) -> bytes:
        return struct.pack("<16s16sQQIIIIIIII", name, segment_name, 0, size, offset, 0, 0, 0, flags, 0, 0, 0)

    text = [section(b"__text", b"__TEXT", len(CODE), 1024, 0x80000400)]
    data = [section(b"__data", b"__DATA", len(DATA), 1536, 0), section(b"__bss", b"__DATA", 64, 0, 1)]
    commands = [
        segment(b"__TEXT", 0, 1536, text),
        segment(b"__DATA", 1536, 512, data),
        segment(b"__LINKEDIT", 2048, 64, []),
        struct.pack("<IIIIII", 0x32, 24, 1, 0x000B0000, 0x000B0000, 0),  # built for macOS 11
    ]
    body = b"".join(commands)
    head = struct.pack("<IIIIIIII", 0xFEEDFACF, cputype, 0, 6, len(commands), len(body), 0, 0) + body
    return head.ljust(1024, b"\0") + CODE.ljust(512, b"\0") + DATA.ljust(512, b"\0") + bytes(64)


def macho_fat() -> bytes:
    """A fat file with an x86-64 slice at 4096 and an arm64 slice at 8192."""
    parts = [(0x01000007, macho(0x01000007), 4096), (0x0100000C, macho(), 8192)]
    head = struct.pack(">II", 0xCAFEBABE, len(parts))
    for cputype, part, offset in parts:
        head += struct.pack(">IIIII", cputype, 0, offset, len(part), 12)
    for _, part, offset in parts:
        head = head.ljust(offset, b"\0") + part
    return head


def java_class() -> bytes:
    """The beginning of a Java class file: the magic of a fat Mach-O file, then version 61."""
    return struct.pack(">IHH", 0xCAFEBABE, 0, 61) + bytes(range(256))


def coff(machine: int = 0x8664) -> bytes:
    """A COFF object with .text, .bss and a section whose long name lies in the string table."""
    long_name = b".debug_line_of_code"
    sections = [
        (b".text", len(CODE), 140, 0x60500020),
        (b".bss", 32, 0, 0xC0300080),
        (b"/4", len(DATA), 140 + len(CODE), 0x42100040),
    ]
    symbols_at = 140 + len(CODE) + len(DATA)
    strings = struct.pack("<I", 4 + len(long_name) + 1) + long_name + b"\0"
    head = struct.pack("<HHIIIHH", machine, len(sections), 0, symbols_at, 0, 0, 0)
    for name, size, offset, flags in sections:
        head += struct.pack("<8sIIIIIIHHI", name, 0, 0, size, offset, 0, 0, 0, 0, flags)
    return head + CODE + DATA + strings


def wasm() -> bytes:
    """A WebAssembly module with a type, a function, a code and a custom name section."""
    sections = [(1, b"\x01\x60\x00\x00"), (3, b"\x01\x00"), (10, b"\x01\x02\x00\x0b"), (0, b"\x04name\x00\x02\x01m")]
    return b"\0asm\1\0\0\0" + b"".join(bytes([number, len(body)]) + body for number, body in sections)


def dex() -> bytes:
    """A DEX file with two string ids and 32 bytes of data."""
    tables = [(2, 112), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (32, 120)]
    numbers = [number for table in tables for number in table]
    head = b"dex\n035\0" + bytes(24) + struct.pack("<6I", 152, 112, 0x12345678, 0, 0, 0) + struct.pack("<14I", *numbers)
    return head.ljust(112, b"\0") + bytes(8) + bytes(range(32))


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    """An ar archive with GNU names: short ones inline, long ones in a table; a symbol table in front."""
    table = b"".join(name.encode() + b"/\n" for name in members if len(name) > 15)
    entries = [(b"/", bytes(5)), (b"//", table)]
    for name, data in members.items():
        short = name.encode() + b"/" if len(name) <= 15 else b"/%d" % table.index(name.encode() + b"/\n")
        entries.append((short, data))
    parts = [b"!<arch>\n"]
    for short, data in entries:
        parts.append(short.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + b"%-10d`\n" % len(data))
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


def deb(members: dict[str, bytes]) -> bytes:
    """A Debian package whose data.tar is compressed with xz."""
    data = lzma.compress(tarred(members))
    return ar({"debian-binary": b"2.0\n", "control.tar.gz": gzip.compress(tarred({})), "data.tar.xz": data})


COMPRESSORS = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def apk() -> bytes:
    """An APK with a manifest, code and a native library."""
    return zipped({"AndroidManifest.xml": b"\x03\0\x08\0", "classes.dex": dex(), "lib/arm64-v8a/libx.so": elf(183)})


EXECUTABLES = {
    "elf": elf(),
    "pe": pe(),
    "mach-o": macho(),
    "mach-o fat": macho_fat(),
    "coff": coff(),
    "dex": dex(),
    "wasm": wasm(),
}
