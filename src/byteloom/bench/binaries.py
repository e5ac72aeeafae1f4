"""Uncompressed executables of several formats, collected on the spot and never stored in the project.

This machine's own come from its program and library folders. Those of other platforms are the extension
modules inside wheels, which `pip download --platform` fetches from the package index into a cache folder.
Source of the recipe: Binary BPE, arXiv 2511.17573. Cost: 95 MB of downloads, once.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from byteloom.corpus import Corpus, Document, machine_executables, machine_format, recognise
from byteloom.errors import FileError

SMALLEST = 4 << 10  # bytes; smaller files are stubs
PLATFORMS = {  # the tag that pip knows, and what its wheels hold
    "win_amd64": "PE x86-64",
    "win32": "PE x86",
    "macosx_11_0_arm64": "Mach-O arm64",
    "macosx_10_13_x86_64": "Mach-O x86-64",
    "manylinux2014_aarch64": "ELF AArch64",
}
PACKAGES = ("numpy", "lxml", "regex", "pydantic_core")


def system_binaries(total_bytes: int, *, largest: int = 8 << 20) -> Corpus:
    """About `total_bytes` of this machine's executables of at most `largest` bytes each; all if there are fewer.

    Raises InvalidInputError when there are none.
    """
    corpus = Corpus(
        machine_executables(), formats=[machine_format()], min_size=SMALLEST, max_size=largest, archives=False
    )
    return corpus.sample(total_bytes)


def default_cache() -> Path:
    """The folder that keeps downloads: $XDG_CACHE_HOME/byteloom/binaries, or ~/.cache/byteloom/binaries."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "byteloom" / "binaries"


def download_wheels(platform: str, cache: Path) -> list[Path]:
    """The wheels of PACKAGES for one of PLATFORMS, from `cache/platform` or else from the package index.

    Raises FileError with pip's last line when pip is missing or cannot reach the index.
    """
    folder = cache / platform
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{platform}.", dir=cache) as partial:
            _pip_download(platform, Path(partial) / platform)
            (Path(partial) / platform).rename(folder)
    return sorted(folder.glob("*.whl"))


def extension_modules(wheel: Path) -> list[Document]:
    """The extension modules inside a wheel, without the libraries of others that were bundled with them."""
    modules = Corpus([wheel], formats=["elf", "pe", "mach-o"])
    return [module for module in modules if ".libs/" not in module.name and ".dylibs/" not in module.name]


def arm64_part(data: memoryview) -> memoryview:
    """Of a Mach-O file for several architectures the part for arm64; any other file as it is.

    Source: the header of Apple's <mach-o/fat.h>, big-endian: magic and count, then five words an architecture.
    """
    if recognise(data) == "mach-o fat":
        for index in range(struct.unpack_from(">I", data, 4)[0]):
            kind, _, offset, size, _ = struct.unpack_from(">5I", data, 8 + 20 * index)
            if kind == 0x0100000C:  # CPU_TYPE_ARM64
                return data[offset : offset + size]
    return data


def _pip_download(platform: str, folder: Path) -> None:
    target = ["--platform", platform, "--python-version", "312", "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, *target, "--dest", str(folder), *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FileError(f"pip cannot download the {platform} wheels ({reason}); check the network, then run again")
