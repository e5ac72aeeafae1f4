"""What is inside an executable: architecture, word size, ABI and section map, read by LIEF.

Use it to compare corpora and to look at one kind of section alone. Headers lie: every section is cut to the file
and to its neighbours, and whatever LIEF cannot read is named in `FileInfo.problem`; nothing here raises.
Cost: LIEF reads about 1 GB/s, without symbols, relocations and imports.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import Any

from byteloom.corpus.formats import recognise
from byteloom.corpus.guards import macho_counts_fit

LIEF_LIMIT = 2 << 30  # bytes; larger files are not handed to LIEF, which copies them


@dataclass(frozen=True, slots=True)
class Section:
    """One piece of an executable: `size` bytes of the file from `offset` on.

    kind: "code", "data", "read-only data", "symbols" (symbol, string, hash and relocation tables), "debug" or "other".
    """

    name: str
    offset: int
    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file is. `sections` do not overlap, are not empty, lie inside the file and are sorted by offset.

    A fat Mach-O file is one document: `architecture` joins those of its slices with "+", and a section's name begins
    with the architecture of its slice. `problem` says why the headers could not be read or trusted, else None.
    """

    format: str
    architecture: str | None = None
    bits: int | None = None
    os_abi: str | None = None
    sections: tuple[Section, ...] = ()
    problem: str | None = None


def describe(data: bytes | memoryview, path: str | os.PathLike[str] | None = None) -> FileInfo:
    """Recognise `data` and, when it is an executable, read its headers. Never raises.

    path: where the same bytes lie on disk; LIEF then reads that file instead of a copy of `data`, which saves memory
    for large files.
    """
    view = memoryview(data).cast("B")
    kind = recognise(view)
    if kind not in _READERS:
        return FileInfo(kind)
    if len(view) < _HEADER_BYTES[kind]:
        return FileInfo(kind, problem="truncated header")
    if len(view) > LIEF_LIMIT:
        return FileInfo(kind, problem="too large to parse")
    source = os.fspath(path) if path is not None else _as_bytes(view)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is not a valid ", RuntimeWarning)  # an unknown enum value
            info = _READERS[kind](source, view)
    except Exception:  # what LIEF's bindings and a cut-off table raise: RuntimeError, ValueError, struct.error, ...
        info = None
    if info is None:
        return FileInfo(kind, problem="the headers cannot be parsed")
    return _inside_file(info, len(view))


def _as_bytes(view: memoryview) -> bytes:
    """`view` as bytes, without a copy where it covers a whole bytes object."""
    whole = view.obj
    return whole if isinstance(whole, bytes) and len(whole) == len(view) else bytes(view)


def _inside_file(info: FileInfo, file_size: int) -> FileInfo:
    """Cut sections to the file and to the beginning of the next one; drop those that nothing is left of."""
    ordered = sorted(info.sections, key=lambda section: (section.offset, -section.size))
    problem = info.problem
    if any(section.offset + section.size > file_size for section in ordered):
        problem = "sections reach past the end of the file"
    sections = []
    for section, following in zip_longest(ordered, ordered[1:]):
        end = min(following.offset, file_size) if following else file_size
        if size := max(0, min(section.size, end - section.offset)):
            sections.append(replace(section, size=size))
    return replace(info, sections=tuple(sections), problem=problem)


# --- ELF --------------------------------------------------------------------------------------------------------

_ELF_ARCHITECTURES = {
    "X86_64": "x86-64",
    "I386": "x86",
    "AARCH64": "aarch64",
    "IA_64": "ia64",
    "PPC": "powerpc",
    "PPC64": "powerpc64",
    "SPARCV9": "sparc64",
    "SH": "superh",
}
_ELF_BY_BITS = {
    "RISCV": {32: "riscv32", 64: "riscv64"},
    "MIPS": {32: "mips", 64: "mips64"},
    "S390": {32: "s390", 64: "s390x"},
    "LOONGARCH": {32: "loongarch32", 64: "loongarch64"},
}
_ELF_SYMBOL_TYPES = frozenset(
    (
        *("SYMTAB", "STRTAB", "DYNSYM", "HASH", "GNU_HASH", "GNU_VERDEF", "GNU_VERNEED", "GNU_VERSYM"),
        *("SYMTAB_SHNDX", "REL", "RELA", "RELR", "ANDROID_REL", "ANDROID_RELA", "ANDROID_RELR", "GROUP", "DYNAMIC"),
    )
)
_ELF_ABIS = {
    "SYSTEMV": "System V",
    "LINUX": "Linux",
    "FREEBSD": "FreeBSD",
    "NETBSD": "NetBSD",
    "OPENBSD": "OpenBSD",
    "SOLARIS": "Solaris",
}
_ELF_WRITE, _ELF_ALLOC, _ELF_EXECUTE = 1, 2, 4


def _read_elf(source: str | bytes, view: memoryview) -> FileInfo | None:
    lief, configs = _lief()
    binary = lief.ELF.parse(source, configs["elf"])
    if binary is None:
        return None
    bits = {1: 32, 2: 64}.get(view[4])
    machine = _name(binary.header.machine_type)
    abi = _name(binary.header.identity_os_abi)
    missing = len(binary.sections) < binary.header.numberof_sections
    return FileInfo(
        "elf",
        _ELF_BY_BITS.get(machine, {}).get(bits or 0) or _ELF_ARCHITECTURES.get(machine, machine.lower()),
        bits,
        _ELF_ABIS.get(abi, abi.lower()),
        tuple(_elf_sections(binary)),
        "the section table is damaged or cut off" if missing else None,
    )


def _elf_sections(binary: Any) -> Iterator[Section]:
    for section in binary.sections:
        kind = _name(section.type)
        if kind not in ("NOBITS", "SHT_NULL_"):
            yield Section(section.name, section.offset, section.size, _elf_kind(section.name, kind, int(section.flags)))


def _elf_kind(name: str, kind: str, flags: int) -> str:
    if name.startswith((".debug", ".zdebug", ".stab", ".gnu_debug")):
        return "debug"
    if kind in _ELF_SYMBOL_TYPES:
        return "symbols"
    if flags & _ELF_EXECUTE:
        return "code"
    if flags & _ELF_WRITE:
        return "data"
    return "read-only data" if flags & _ELF_ALLOC and kind != "NOTE" else "other"


# --- PE and COFF ------------------------------------------------------------------------------------------------

_PE_ARCHITECTURES = {
    "AMD64": ("x86-64", 64),
    "I386": ("x86", 32),
    "ARM64": ("aarch64", 64),
    "ARM64EC": ("arm64ec", 64),
    "ARM64X": ("arm64x", 64),
    "ARM": ("arm", 32),
    "ARMNT": ("arm", 32),
    "THUMB": ("arm", 32),
    "IA64": ("ia64", 64),
    "LOONGARCH64": ("loongarch64", 64),
}
_PE_CODE, _PE_REMOVED, _PE_EXECUTE, _PE_READ, _PE_WRITE = 0x20, 0x800, 0x20000000, 0x40000000, 0x80000000
_PE_UNINITIALISED = 0x80


def _read_pe(source: str | bytes, view: memoryview) -> FileInfo | None:
    lief, configs = _lief()
    binary = lief.PE.parse(source, configs["pe"])
    if binary is None:
        return None
    subsystem = _name(binary.optional_header.subsystem).lower()
    abi = "EFI" if subsystem.startswith("efi") else "Windows"
    return _pe_info("pe", binary, abi)


def _read_coff(source: str | bytes, view: memoryview) -> FileInfo | None:
    binary = _lief()[0].COFF.parse(source)
    return None if binary is None else _pe_info("coff", binary, "Windows")


def _pe_info(kind: str, binary: Any, os_abi: str) -> FileInfo:
    machine = _name(binary.header.machine)
    architecture, bits = _PE_ARCHITECTURES.get(machine, (machine.lower(), None))
    return FileInfo(kind, architecture, bits, os_abi, tuple(_pe_sections(binary)))


def _pe_sections(binary: Any) -> Iterator[Section]:
    for section in binary.sections:
        flags = int(section.characteristics)
        if flags & _PE_UNINITIALISED and not section.offset:
            continue
        long_name = section.coff_string  # a name above 8 characters is "/4", an offset into the string table
        name = long_name.string if long_name is not None else section.name
        yield Section(name, section.offset, section.size, _pe_kind(name, flags))


def _pe_kind(name: str, flags: int) -> str:
    if name.startswith((".debug", ".zdebug", ".stab")):
        return "debug"
    if name == ".reloc":
        return "symbols"
    if flags & _PE_REMOVED:
        return "other"
    if flags & (_PE_CODE | _PE_EXECUTE):
        return "code"
    if flags & _PE_WRITE:
        return "data"
    return "read-only data" if flags & _PE_READ else "other"


# --- Mach-O -----------------------------------------------------------------------------------------------------

_MACHO_ARCHITECTURES = {
    "X86_64": "x86-64",
    "X86": "x86",
    "ARM64": "aarch64",
    "ARM": "arm",
    "POWERPC": "powerpc",
    "POWERPC64": "powerpc64",
}
_MACHO_ZEROFILL = (1, 12, 18)  # section types that take no room in the file
_MACHO_INSTRUCTIONS = 0x80000400  # pure or some instructions
_MACHO_PLATFORMS = {"MACOS": "macOS", "IOS": "iOS", "TVOS": "tvOS", "WATCHOS": "watchOS"}


def _read_macho(source: str | bytes, view: memoryview) -> FileInfo | None:
    if not macho_counts_fit(view):
        return None
    lief, configs = _lief()
    fat = lief.MachO.parse(source, configs["mach-o"])
    slices = [_macho_slice(binary) for binary in fat] if fat is not None else []
    if not slices:
        return None
    if recognise(view) == "mach-o":
        return slices[0]
    return FileInfo(
        "mach-o fat",
        "+".join(dict.fromkeys(one.architecture or "unknown" for one in slices)),
        slices[0].bits if len({one.bits for one in slices}) == 1 else None,
        slices[0].os_abi,
        tuple(
            replace(section, name=f"{one.architecture}:{section.name}") for one in slices for section in one.sections
        ),
    )


def _macho_slice(binary: Any) -> FileInfo:
    machine = _name(binary.header.cpu_type)
    platform = _name(binary.platform) if binary.has_build_version else "MACOS"
    return FileInfo(
        "mach-o",
        _MACHO_ARCHITECTURES.get(machine, machine.lower()),
        64 if binary.header.is_64bit else 32,
        _MACHO_PLATFORMS.get(platform, platform.lower()),
        tuple(_macho_sections(binary)),
    )


def _macho_sections(binary: Any) -> Iterator[Section]:
    for section in binary.sections:
        if int(section.type) in _MACHO_ZEROFILL:
            continue
        name = f"{section.segment_name},{section.name}"
        kind = _macho_kind(section)
        yield Section(name, section.offset + binary.fat_offset, section.size, kind)
    for segment in binary.segments:  # symbols, strings and fix-ups lie in a segment without sections
        if segment.name == "__LINKEDIT":
            yield Section(segment.name, segment.file_offset + binary.fat_offset, segment.file_size, "symbols")


def _macho_kind(section: Any) -> str:
    segment = section.segment_name
    if segment == "__DWARF":
        return "debug"
    try:
        flags = int(section.flags)
    except ValueError:  # LIEF refuses bits that it does not know
        return "other"
    if flags & _MACHO_INSTRUCTIONS:
        return "code"
    if segment in ("__TEXT", "__DATA_CONST"):
        return "read-only data"
    return "data" if segment.startswith("__DATA") else "other"


# --- WebAssembly and DEX: LIEF has no WebAssembly reader, and a DEX header is a plain table ----------------------

_WASM_SECTIONS = (  # by section id
    *("custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element"),
    *("code", "data", "data-count", "tag"),
)
_WASM_KINDS = {"code": "code", "data": "data", "import": "symbols", "export": "symbols"}
_WASM_VERSION_1 = b"\1\0\0\0"  # other versions are components, whose layout differs


def _read_wasm(source: str | bytes, view: memoryview) -> FileInfo:
    info = FileInfo("wasm", "wasm", 32, "WebAssembly")
    if bytes(view[4:8]) != _WASM_VERSION_1:
        return info
    sections = []
    position = 8
    while position < len(view):
        identifier = view[position]
        try:
            size, body = _leb128(view, position + 1)
        except ValueError:
            break
        name = _WASM_SECTIONS[identifier] if identifier < len(_WASM_SECTIONS) else f"section {identifier}"
        kind = _WASM_KINDS.get(name, "other")
        if name == "custom":
            name = _wasm_name(view[body : body + size])
            kind = "debug" if name.startswith(".debug") or name == "name" else "other"
        sections.append(Section(name, body, size, kind))
        position = body + size
    cut = "the section table is damaged or cut off" if position < len(view) else None
    return replace(info, sections=tuple(sections), problem=cut)


def _leb128(view: memoryview, position: int) -> tuple[int, int]:
    """The unsigned number of at most 32 bits at `position`, and the position behind it."""
    number = 0
    for shift, byte in zip(range(0, 35, 7), view[position : position + 5], strict=False):
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position + shift // 7 + 1
    raise ValueError("not a 32-bit number")


def _wasm_name(body: memoryview) -> str:
    try:
        size, start = _leb128(body, 0)
    except ValueError:
        return "custom"
    return bytes(body[start : start + size]).decode("utf-8", "replace")


_DEX_TABLES = (  # name, bytes of one entry, kind; in the order of the header
    ("string_ids", 4, "symbols"),
    ("type_ids", 4, "symbols"),
    ("proto_ids", 12, "symbols"),
    ("field_ids", 8, "symbols"),
    ("method_ids", 8, "symbols"),
    ("class_defs", 32, "symbols"),
    ("data", 1, "code"),
)


def _read_dex(source: str | bytes, view: memoryview) -> FileInfo:
    numbers = struct.unpack_from("<14I", view, 56)
    sections = tuple(
        Section(name, offset, count * width, kind)
        for (name, width, kind), count, offset in zip(_DEX_TABLES, numbers[::2], numbers[1::2], strict=True)
    )
    return FileInfo("dex", "dalvik", 32, "Android", sections)


# --- LIEF -------------------------------------------------------------------------------------------------------

_READERS: dict[str, Callable[[str | bytes, memoryview], FileInfo | None]] = {
    "elf": _read_elf,
    "pe": _read_pe,
    "coff": _read_coff,
    "mach-o": _read_macho,
    "mach-o fat": _read_macho,
    "wasm": _read_wasm,
    "dex": _read_dex,
}
_HEADER_BYTES = {"elf": 52, "pe": 64, "coff": 20, "mach-o": 28, "mach-o fat": 28, "wasm": 8, "dex": 112}


@cache
def _lief() -> tuple[Any, dict[str, Any]]:
    """LIEF, imported on first use and made silent, and configurations that read little more than the headers."""
    import lief

    lief.logging.disable()
    configs = {"elf": lief.ELF.ParserConfig(), "pe": lief.PE.ParserConfig(), "mach-o": lief.MachO.ParserConfig.quick}
    for config in (configs["elf"], configs["pe"]):
        for option in dir(config):
            if option.startswith("parse_"):
                setattr(config, option, False)
    return lief, configs


def _name(value: Any) -> str:
    """The name of a LIEF enumeration value; LIEF gives a plain number for one that it does not know."""
    return value.name if hasattr(value, "name") else f"unknown-{value:#x}"
