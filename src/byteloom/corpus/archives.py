"""Archives as streams of members: nothing is unpacked to disk, and one member at a time is in memory.

tar (plain, gzip, bzip2, xz, zstd), zip (so also whl, jar, apk), ar (so also deb and static libraries), and single
files compressed with gzip, bzip2, xz or zstd, each recognised by content. An archive inside an archive is opened
too, one level deep: the data.tar of a deb, a jar in a tar.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

import zstandard

try:  # inflates three times as fast as zlib, so that reading FASTQ.gz takes less time than gzip itself
    from isal.igzip import IGzipFile as GzipFile
    from isal.isal_zlib import IsalError

    _INFLATE_ERRORS: tuple[type[Exception], ...] = (zlib.error, IsalError)
except ImportError:  # not built for this processor
    from gzip import GzipFile

    _INFLATE_ERRORS = (zlib.error,)

HEAD_BYTES = 600  # what archive_kind wants to see
MEMBER_LIMIT = 1 << 30  # bytes; a larger member is not unpacked into memory

# What the readers of the standard library, zlib and zstandard raise on a damaged archive.
ARCHIVE_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,  # a compression method that zipfile does not know
    OverflowError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    *_INFLATE_ERRORS,
    lzma.LZMAError,
    zstandard.ZstdError,
)

_BZIP2_BLOCKS = (bytes.fromhex("314159265359"), bytes.fromhex("177245385090"))  # first block, or end of an empty file
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_ZSTD_STEP = 1 << 10  # compressed bytes unpacked at once; they become 32 MiB at most
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive. `open` is valid until the next member is asked for; size is None if unknown."""

    name: str
    size: int | None
    open: Callable[[], BinaryIO]


def archive_kind(head: bytes) -> str | None:
    """ "zip", "ar", "tar", "gzip", "bzip2", "xz" or "zstd" by the first HEAD_BYTES of a file, else None."""
    if head.startswith(_ZIP_MAGIC):
        return "zip"
    if head.startswith(_AR_MAGIC):
        return "ar"
    for kind, (magic, _) in _DECOMPRESSORS.items():
        if head.startswith(magic) and (kind != "bzip2" or head[4:10] in _BZIP2_BLOCKS):
            return kind
    return "tar" if _is_tar(head) else None


def _is_tar(head: bytes) -> bool:
    if len(head) < tarfile.BLOCKSIZE:
        return False
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:  # a damaged first header of a tar that names itself is still a tar
        return head[257:262] == b"ustar"
    return True


def members(stream: BinaryIO, kind: str, name: str) -> Iterator[Member]:
    """The regular files of the archive in `stream`, in archive order; links, folders and devices are left out.

    name: the archive's own name; a single compressed file is called after it. zip and ar need a stream that can seek.
    Raises one of ARCHIVE_ERRORS when the archive is damaged.
    """
    if kind == "zip":
        yield from _zip_members(stream)
    elif kind == "ar":
        yield from _ar_members(stream)
    elif kind == "tar":
        yield from _tar_members(stream)
    else:
        unpacked = io.BufferedReader(_DECOMPRESSORS[kind][1](stream), 1 << 18)
        if _is_tar(unpacked.peek(HEAD_BYTES)[:HEAD_BYTES]):
            yield from _tar_members(cast(BinaryIO, unpacked))
        else:
            yield Member(_without_suffix(name), None, lambda: cast(BinaryIO, unpacked))


def _zip_members(stream: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.filename.endswith("/"):  # is_dir() fails on an empty name
                yield Member(info.filename, info.file_size, partial(_open_zipped, archive, info))


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    return cast(BinaryIO, archive.open(info))


_BAD_HEADER = (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError)  # type: ignore[attr-defined]


class _CheckedHeader(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the archive; this makes it an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> _CheckedHeader:
        try:
            return super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        except _BAD_HEADER as error:
            raise tarfile.ReadError(str(error)) from error


def _tar_members(stream: BinaryIO) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_CheckedHeader) as archive:
        while (info := archive.next()) is not None:
            if info.isreg():
                yield Member(info.name, info.size, partial(_open_tarred, archive, info))
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise


def _open_tarred(archive: tarfile.TarFile, info: tarfile.TarInfo) -> BinaryIO:
    return cast(BinaryIO, archive.extractfile(info))


class _Window(io.RawIOBase):
    """`size` bytes of a stream from its present position on, as a stream of their own."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(min(len(buffer), self._left))
        if not data and self._left:
            raise EOFError("the file ends inside a member")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _ar_members(stream: BinaryIO) -> Iterator[Member]:
    stream.seek(len(_AR_MAGIC))
    long_names = b""
    while header := stream.read(_AR_HEADER):
        if len(header) < _AR_HEADER or header[58:] != b"`\n":
            raise ValueError("a damaged member header")
        name = header[:16].rstrip(b" ")
        size = int(header[48:58])
        start = stream.tell()
        if name.startswith(b"#1/"):  # BSD: the name lies in front of the content
            name = stream.read(int(name[3:])).rstrip(b"\0")
        elif name[:1] == b"/" and name[1:].isdigit():  # GNU: an offset into the table of long names
            name = long_names[int(name[1:]) :].partition(b"\n")[0]
        if name == b"//":
            long_names = stream.read(size)
        elif name not in (b"/", b"/SYM64/") and not name.startswith(b"__.SYMDEF"):  # symbol tables
            left = start + size - stream.tell()
            text = name.rstrip(b"/").decode("utf-8", "backslashreplace")
            yield Member(text, left, partial(_open_window, stream, left))
        stream.seek(start + size + size % 2)


def _open_window(stream: BinaryIO, size: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Window(stream, size), 1 << 16))


def _without_suffix(name: str) -> str:
    base = name.replace("\\", "/").rpartition("/")[2].rpartition("!")[2]
    stem, dot, _ = base.rpartition(".")
    return stem if dot and stem else base


class _ZstdStream(io.RawIOBase):
    """zstandard's own reader takes a file that is cut off for one that ends; this one raises EOFError."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._frame: Any = None  # None between frames
        self._compressed = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._unpacked:
            self._compressed = self._compressed or self._stream.read(_ZSTD_STEP)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the compressed data ends early")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._unpacked = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._unpacked))
        buffer[:size] = self._unpacked[:size]
        self._unpacked = self._unpacked[size:]
        return size


# kind: (magic, a function from the compressed to the unpacked stream)
_DECOMPRESSORS: dict[str, tuple[bytes, Callable[[BinaryIO], Any]]] = {
    "gzip": (b"\x1f\x8b\x08", lambda stream: GzipFile(fileobj=stream)),
    "bzip2": (b"BZh", bz2.BZ2File),
    "xz": (b"\xfd7zXZ\0", lzma.LZMAFile),
    "zstd": (b"\x28\xb5\x2f\xfd", _ZstdStream),
}
