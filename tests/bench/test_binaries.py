import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from byteloom.bench import binaries
from byteloom.bench.binaries import arm64_part, download_wheels, extension_modules, system_binaries
from byteloom.errors import FileError

ELF = Path("/bin/sh").resolve()


def test_system_binaries_are_a_bounded_sample_of_one_format() -> None:
    documents = list(system_binaries(2_000_000, largest=1 << 20))
    assert 0 < sum(document.size for document in documents) <= 2_000_000
    assert len({document.format for document in documents}) == 1
    assert [d.name for d in documents] == [d.name for d in system_binaries(2_000_000, largest=1 << 20)]


def a_fat_file(*parts: tuple[int, bytes]) -> bytes:
    header = struct.pack(">2I", 0xCAFEBABE, len(parts))
    offset = 4096
    body = b""
    for kind, data in parts:
        header += struct.pack(">5I", kind, 0, offset + len(body), len(data), 12)
        body += data
    return header.ljust(offset, b"\0") + body


def test_the_arm64_part_of_a_universal_file() -> None:
    fat = memoryview(a_fat_file((0x01000007, b"x86-64 code"), (0x0100000C, b"arm64 code")))
    assert arm64_part(fat) == b"arm64 code"
    only_x86 = memoryview(a_fat_file((0x01000007, b"x86-64 code")))
    assert arm64_part(only_x86) == only_x86
    assert arm64_part(memoryview(b"\x7fELF")) == b"\x7fELF"


@pytest.mark.skipif(not ELF.exists() or ELF.read_bytes()[:4] != b"\x7fELF", reason="needs an ELF executable")
def test_modules_of_a_wheel_without_bundled_libraries(tmp_path: Path) -> None:
    wheel = tmp_path / "numpy-1-cp312-cp312-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, tail in (("a.so", b"a"), ("numpy.libs/b.so", b"b"), ("numpy/.dylibs/c.so", b"c")):
            archive.writestr(name, ELF.read_bytes() + tail)
        archive.writestr("numpy/__init__.py", "text")
    assert [module.name.split("!")[1] for module in extension_modules(wheel)] == ["a.so"]


def test_wheels_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / "numpy-1.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(binaries.subprocess, "run", pip)
    for _ in range(2):
        assert download_wheels("win32", tmp_path) == [tmp_path / "win32" / "numpy-1.whl"]
    assert len(calls) == 1
    assert {"--no-deps", "--only-binary=:all:", "win32", "lxml"} <= set(calls[0])


def test_a_failed_download_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no matching distribution\n")
    monkeypatch.setattr(binaries.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(FileError, match=r"win32 wheels .*no matching distribution.*check the network"):
        download_wheels("win32", tmp_path)
    assert list(tmp_path.iterdir()) == []
