"""Token ids in files, written and read in pieces, so that no file has to fit in memory.

Three forms, told by the name: `.npy` (numpy, uint32), `.txt` (decimal numbers between blanks), and `.bin` or a
stream (uint32, little-endian, nothing else).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, atomic_write, open_bytes

FORMS = (".npy", ".bin", ".txt")
BLOCK_IDS = 1 << 18

_RAW = np.dtype("<u4")


def write_ids(path: StrPath, blocks: Iterable[npt.NDArray[np.uint32]]) -> int:
    """Write the ids that come in `blocks`, atomically; returns how many. Raises FileError, InvalidInputError."""
    form = _form(path)
    count = 0
    with atomic_write(path) as file:
        if form == ".npy":
            _write_header(file, 0)
        for ids in blocks:
            count += len(ids)
            file.write(_as_text(ids) if form == ".txt" else ids.astype(_RAW, copy=False).tobytes())
        if form == ".npy":  # numpy pads its header, so that the true length fits in the same place
            file.seek(0)
            _write_header(file, count)
    return count


def read_ids(path: StrPath) -> Iterator[npt.NDArray[np.int64]]:
    """The ids of a file in blocks of int64 [<= BLOCK_IDS]. Raises FileError, InvalidInputError."""
    form = _form(path)
    ids = {".npy": _from_npy, ".bin": _from_raw, ".txt": _from_text}[form](path)
    for start in range(0, len(ids), BLOCK_IDS):
        yield ids[start : start + BLOCK_IDS].astype(np.int64)


def read_id_stream(stream: IO[bytes]) -> Iterator[npt.NDArray[np.int64]]:
    """The ids of a stream of little-endian uint32, in blocks. Raises InvalidInputError when it ends inside one."""
    while block := stream.read(BLOCK_IDS * _RAW.itemsize):
        if len(block) % _RAW.itemsize:
            raise InvalidInputError("the stream of ids ends inside an id; it must be little-endian uint32")
        yield np.frombuffer(block, _RAW).astype(np.int64)


def _form(path: StrPath) -> str:
    form = Path(path).suffix
    if form not in FORMS:
        raise InvalidInputError(f"cannot tell the form of {path}; end its name in {', '.join(FORMS)}")
    return form


def _write_header(file: IO[bytes], count: int) -> None:
    header = {"descr": _RAW.str, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _from_npy(path: StrPath) -> npt.NDArray[np.generic]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise InvalidInputError(f"{path} is no numpy file: {error}") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidInputError(f"{path} holds no ids: it has {ids.ndim} dimensions of {ids.dtype}")
    return ids


def _from_raw(path: StrPath) -> npt.NDArray[np.generic]:
    data = open_bytes(path)
    if len(data) % _RAW.itemsize:
        raise InvalidInputError(f"{path} holds no ids: its {len(data)} bytes are no whole number of uint32")
    return np.frombuffer(data, _RAW)


def _as_text(ids: npt.NDArray[np.uint32]) -> bytes:
    return b"".join(b"%d\n" % token for token in ids.tolist())


def _from_text(path: StrPath) -> npt.NDArray[np.generic]:
    try:
        return np.array(bytes(open_bytes(path)).split(), dtype=np.bytes_).astype(np.int64)
    except (ValueError, OverflowError):
        raise InvalidInputError(f"{path} holds no ids: it has something that is no whole number") from None
