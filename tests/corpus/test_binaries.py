import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.corpus import FileInfo, Section, describe
from tests.corpus import samples
from tests.corpus.samples import CODE, DATA


def _kinds(info: FileInfo) -> dict[str, str]:
    return {section.name: section.kind for section in info.sections}


def _content(data: bytes, info: FileInfo, name: str) -> bytes:
    (section,) = (section for section in info.sections if section.name == name)
    return data[section.offset : section.offset + section.size]


@pytest.mark.parametrize(
    ("machine", "bits", "osabi", "expected"),
    [
        (62, 64, 0, ("x86-64", 64, "System V")),
        (3, 32, 3, ("x86", 32, "Linux")),
        (183, 64, 9, ("aarch64", 64, "FreeBSD")),
        (40, 32, 0, ("arm", 32, "System V")),
        (243, 64, 0, ("riscv64", 64, "System V")),
        (243, 32, 0, ("riscv32", 32, "System V")),
        (0x9999, 64, 0, ("unknown-0x9999", 64, "System V")),
    ],
)
def test_elf_header(machine: int, bits: int, osabi: int, expected: tuple[str, int, str]) -> None:
    info = describe(samples.elf(machine, bits, osabi))
    assert (info.format, info.architecture, info.bits, info.os_abi) == ("elf", *expected)
    assert info.problem is None


def test_elf_sections() -> None:
    data = samples.elf()
    info = describe(data)
    assert _kinds(info) == {
        ".text": "code",
        ".data": "data",
        ".debug_info": "debug",
        ".symtab": "symbols",
        ".shstrtab": "symbols",
    }  # .bss takes no room in the file
    assert _content(data, info, ".text") == CODE
    assert _content(data, info, ".data") == DATA


@pytest.mark.parametrize(
    ("machine", "expected"), [(0x8664, ("x86-64", 64)), (0x14C, ("x86", 32)), (0xAA64, ("aarch64", 64))]
)
def test_pe(machine: int, expected: tuple[str, int]) -> None:
    data = samples.pe(machine)
    info = describe(data)
    assert (info.format, info.architecture, info.bits, info.os_abi) == ("pe", *expected, "Windows")
    assert _kinds(info) == {".text": "code", ".data": "data"}
    assert _content(data, info, ".text").startswith(CODE)
    assert _content(data, info, ".data").startswith(DATA)


def test_macho() -> None:
    data = samples.macho()
    info = describe(data)
    assert (info.format, info.architecture, info.bits, info.os_abi) == ("mach-o", "aarch64", 64, "macOS")
    assert _kinds(info) == {"__TEXT,__text": "code", "__DATA,__data": "data", "__LINKEDIT": "symbols"}
    assert _content(data, info, "__TEXT,__text") == CODE


def test_fat_macho_is_one_document_with_the_sections_of_every_slice() -> None:
    data = samples.macho_fat()
    info = describe(data)
    assert (info.format, info.architecture, info.bits) == ("mach-o fat", "x86-64+aarch64", 64)
    for slice_ in ("x86-64", "aarch64"):
        assert _content(data, info, f"{slice_}:__TEXT,__text") == CODE
        assert _content(data, info, f"{slice_}:__DATA,__data") == DATA


def test_coff() -> None:
    data = samples.coff()
    info = describe(data)
    assert (info.format, info.architecture, info.bits, info.os_abi) == ("coff", "x86-64", 64, "Windows")
    assert _kinds(info) == {".text": "code", ".debug_line_of_code": "debug"}
    assert _content(data, info, ".text") == CODE


def test_wasm() -> None:
    info = describe(samples.wasm())
    assert (info.format, info.architecture, info.problem) == ("wasm", "wasm", None)
    assert _kinds(info) == {"type": "other", "function": "other", "code": "code", "name": "debug"}
    assert _content(samples.wasm(), info, "code") == b"\x01\x02\x00\x0b"


def test_dex() -> None:
    info = describe(samples.dex())
    assert (info.format, info.architecture, info.os_abi) == ("dex", "dalvik", "Android")
    assert _content(samples.dex(), info, "data") == bytes(range(32))


@pytest.mark.parametrize("data", [b"", b"plain text", bytes(100), samples.java_class(), samples.apk()])
def test_what_is_no_executable_has_no_sections(data: bytes) -> None:
    info = describe(data)
    assert info == FileInfo(info.format)


def test_a_header_alone_is_a_problem_not_an_error() -> None:
    assert describe(b"\x7fELF").problem == "truncated header"
    assert describe(samples.macho()[:20]).problem == "truncated header"


def test_a_cut_off_section_table_is_named() -> None:
    info = describe(samples.elf()[:300])
    assert info.problem == "the section table is damaged or cut off"
    assert info.architecture == "x86-64"


def test_lying_sections_are_cut_to_the_file_and_to_each_other() -> None:
    data = bytearray(samples.elf())
    table = struct.unpack_from("<Q", data, 40)[0]
    struct.pack_into("<Q", data, table + 64 + 32, 1 << 40)  # .text claims a terabyte
    info = describe(bytes(data))
    assert info.problem == "sections reach past the end of the file"
    assert info.sections[0] == Section(".text", 64, len(CODE), "code")
    assert _content(bytes(data), info, ".data") == DATA


def test_macho_counts_that_no_file_backs_are_not_handed_to_lief() -> None:
    data = bytearray(samples.macho())
    struct.pack_into("<I", data, 32 + 64, 0x10000000)  # sections of the first segment: LIEF would fill the memory
    assert describe(bytes(data)).problem == "the headers cannot be parsed"


def test_a_file_is_read_from_disk_when_its_path_is_known(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(samples.elf())
    assert describe(samples.elf(), path) == describe(samples.elf())


def test_a_real_program_has_code() -> None:
    info = describe(Path(sys.executable).read_bytes())
    assert info.format in ("elf", "mach-o", "mach-o fat", "pe")
    assert info.problem is None
    assert "code" in {section.kind for section in info.sections}


def _assert_sound(data: bytes) -> None:
    info = describe(data)
    end = 0
    for section in info.sections:
        assert section.offset >= end and section.size > 0
        end = section.offset + section.size
    assert end <= len(data)


_real_head = Path(sys.executable).read_bytes()[: 64 << 10]
_executables = st.sampled_from([*samples.EXECUTABLES.values(), samples.elf(3, 32), samples.pe(0x14C), _real_head])


@given(_executables, st.data())
@settings(max_examples=150, deadline=None)
def test_truncated_headers_never_raise(data: bytes, draw: st.DataObject) -> None:
    _assert_sound(data[: draw.draw(st.integers(0, min(len(data), 4096)))])


@given(_executables, st.lists(st.tuples(st.integers(0, 2047), st.binary(min_size=1, max_size=8)), max_size=8))
@settings(max_examples=400, deadline=None)
def test_overwritten_headers_never_raise(data: bytes, patches: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(data)
    for position, patch in patches:
        position %= len(damaged)
        damaged[position : position + len(patch)] = patch
    _assert_sound(bytes(damaged))


@given(st.sampled_from([data[:8] for data in samples.EXECUTABLES.values()]), st.binary(max_size=600))
@settings(max_examples=200, deadline=None)
def test_a_magic_number_before_noise_never_raises(magic: bytes, noise: bytes) -> None:
    _assert_sound(magic + noise)
