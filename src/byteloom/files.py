"""Files that are never half written, and bytes that are mapped when they are too many to load."""

from __future__ import annotations

import errno
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from byteloom.errors import FileError

StrPath = str | os.PathLike[str]

HEAD = 4096  # bytes that a header has at most
MAP_THRESHOLD = 64 << 20  # bytes; larger files are mapped instead of read


def _sentence(error: OSError, path: StrPath, verb: str) -> FileError:
    hint = {
        errno.ENOSPC: "the disk is full; free some space and run again",
        errno.EACCES: "permission denied; check the owner and mode",
        errno.EROFS: "the file system is read-only; choose another place",
        errno.ENOENT: "it does not exist; check the path",
        errno.EISDIR: "it is a folder, not a file",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
    }.get(error.errno or 0, error.strerror or str(error))
    return FileError(f"cannot {verb} {os.fspath(path)}: {hint}")


@contextmanager
def atomic_write(path: StrPath, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it over `path` when the block ends without error.

    A kill at any moment leaves the old file or the new one, never a part. Parent folders are made.
    `mode` is "wb" or "w" (UTF-8). Raises FileError when the disk is full or permission is missing.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; the result gets the mode that open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
        temporary = None
    except FileError:
        raise
    except OSError as error:
        raise _sentence(error, path, "write") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: StrPath, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: StrPath) -> Any:
    """Read a JSON file. Raises FileError when it cannot be read or is not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise _sentence(error, path, "read") from error
    except ValueError as error:
        raise FileError(f"cannot read {os.fspath(path)}: it is not valid JSON ({error})") from error


def open_bytes(path: StrPath) -> memoryview:
    """The bytes of a file as a read-only memoryview; an empty file gives an empty view.

    A file above MAP_THRESHOLD is memory-mapped, so one larger than memory is fine. A smaller one is read:
    touching a mapped page that another process has cut off kills the process, a short read is only an error.
    Raises FileError.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAP_THRESHOLD:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return memoryview(file.read())
    except OSError as error:
        raise _sentence(error, path, "read") from error
    except ValueError as error:  # mmap: the file shrank to nothing between fstat and mmap
        raise FileError(f"cannot read {os.fspath(path)}: it shrank while it was opened; try again") from error


def read_blocks(path: StrPath, size: int = 1 << 20) -> Iterator[bytes]:
    """The bytes of a file or pipe in blocks of at most `size` bytes; nothing is mapped or kept. Raises FileError."""
    try:
        with Path(path).open("rb") as file:
            while block := file.read(size):
                yield block
    except OSError as error:
        raise _sentence(error, path, "read") from error


def write_sealed(path: StrPath, header: Mapping[str, Any], parts: Iterable[Any]) -> None:
    """Write `header` as a line of JSON, the bytes of `parts`, and a checksum of all, atomically.

    The first part begins at a multiple of 64 bytes. Raises FileError.
    """
    head = json.dumps(header).encode()
    head += b" " * (-(len(head) + 1) % 64) + b"\n"
    assert len(head) <= HEAD, "a header is short"
    with atomic_write(path) as file:
        seal = 0
        for part in (head, *parts):
            file.write(part)
            seal = zlib.crc32(part, seal)
        file.write(seal.to_bytes(4, "little"))


def read_sealed(path: StrPath, form: str, what: str, remedy: str) -> tuple[dict[str, Any], memoryview]:
    """The header and the other bytes of a file that `write_sealed` wrote; large files are mapped.

    form: what the header says under "format". what, remedy: for the sentence of the FileError when it says something
    else, or the file is damaged.
    """
    data = open_bytes(path)
    head, found, _ = bytes(data[:HEAD]).partition(b"\n")
    try:
        header = json.loads(head) if found else {}
        known = isinstance(header, dict) and header.get("format") == form
    except ValueError:
        known = False
    if not known:
        raise FileError(f"{os.fspath(path)} holds no {what} of this version; {remedy}")
    start = len(head) + 1
    if len(data) < start + 4 or zlib.crc32(data[:-4]).to_bytes(4, "little") != bytes(data[-4:]):
        raise FileError(f"{os.fspath(path)} is damaged or cut off; {remedy}")
    return header, data[start:-4]
