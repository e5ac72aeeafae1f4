"""Arithmetic coding of bytes by a `ByteModel`: files made small and exactly restored; the "AC" of the paper as tokens.

Use `compress` for what no general compressor knows, with a model fitted to it; `AdaptiveModel` needs no fitting. Use
`ac_ids` as the baseline that a language model cannot learn: its tokens look like noise.
Source: Training LLMs over Neurally Compressed Text, Lester et al., TMLR 2024, arXiv 2404.03626, section 3.
Cost: 0.8 MB/s for the models of `byte_model`; a model of your own is asked once a byte.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.tokenize.byte_model import ByteModel, NativeModel, checked_cumulative

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MAGIC = b"blac"
_HEADER = struct.Struct("<4s4sIQ")  # magic, model, CRC-32 of the data, bytes of the data
_PROBES = (b"", b"e", b"the", b"\x00" * 4, b"\x7fELF\x02")  # prefixes whose tables tell models apart
_ROW = np.zeros(1, np.uint32)


def compress(data: Buffer, model: ByteModel) -> bytes:
    """`data`, of any kind, as 20 bytes of header and its arithmetic code under `model`.

    The code is as long as the model is surprised: the sum of -log2 of the shares that it gives to the bytes.
    Raises InvalidInputError when the model's tables break the protocol.

    >>> from byteloom.tokenize.byte_model import AdaptiveModel
    >>> len(compress(b"banana" * 100, AdaptiveModel()))
    28
    """
    stream, _ = _encode(data, model)
    size = memoryview(data).nbytes
    return _HEADER.pack(_MAGIC, _fingerprint(model), zlib.crc32(data), size) + stream


def decompress(blob: Buffer, model: ByteModel) -> bytes:
    """The bytes that `compress` was given; `model` must give the same tables as then.

    Raises InvalidInputError when the blob is not one, is cut off or damaged, or was made with another model; it never
    gives out anything but the original bytes.
    """
    view = memoryview(blob).cast("B")
    if len(view) < _HEADER.size or view[:4] != _MAGIC:
        raise InvalidInputError("this is not what byteloom compressed: its header is missing; check the file")
    _, fingerprint, checksum, size = _HEADER.unpack(view[: _HEADER.size])
    if fingerprint != _fingerprint(model):
        raise InvalidInputError("the data was compressed with another model; give the one that compressed it")
    try:
        data = _decode(view[_HEADER.size :], size, model)
        if zlib.crc32(data) != checksum:
            raise ValueError("the checksum differs")
    except InvalidInputError:
        raise
    except ValueError as error:
        raise InvalidInputError(
            "the compressed data is cut off or damaged; get another copy, or give the model that compressed it"
        ) from error
    return data


def ac_ids(data: Buffer, model: ByteModel, token_bits: int = 8) -> npt.NDArray[np.uint32]:
    """The arithmetic code of `data` without a header as tokens of 8 or 16 bits, high bits first: uint32 [n].

    The last token is filled with zeros. Raises InvalidInputError for other widths.

    >>> from byteloom.tokenize.byte_model import StaticModel
    >>> bytes(ac_ids(b"the uniform model keeps bytes", StaticModel()).tolist())
    b'the uniform model keeps bytes'
    """
    stream, _ = _encode(data, model)
    return cut_tokens(stream, token_bits)


def cut_tokens(stream: bytes, token_bits: int) -> npt.NDArray[np.uint32]:
    """A bit stream as tokens of 8 or 16 bits, high bits first: uint32 [n]. The last one is filled with zeros."""
    if token_bits not in (8, 16):
        raise InvalidInputError(f"token_bits must be 8 or 16; got {token_bits}")
    whole = stream + bytes(-len(stream) % (token_bits // 8))
    return np.frombuffer(whole, ">u2" if token_bits == 16 else np.uint8).astype(np.uint32)


def _encode(data: Buffer, model: ByteModel) -> tuple[bytes, int]:
    """The stream, and how many bits of it count."""
    if isinstance(model, NativeModel):
        return model.encode_bits(data)
    view = memoryview(data).cast("B")
    encoder = _native.RangeEncoder()
    for at in range(len(view)):
        encoder.encode(view[at : at + 1], _table(model, view[:at]), _ROW)
    return encoder.finish()


def _decode(stream: memoryview, size: int, model: ByteModel) -> bytes:
    """The data of a stream. Raises ValueError when it is none of `size` bytes."""
    if isinstance(model, NativeModel):
        return model.decode_bits(stream, size)
    decoder = _native.RangeDecoder(stream)
    data = bytearray()
    while len(data) < size:
        data += decoder.decode(_table(model, data), _ROW)
    decoder.finish()
    return bytes(data)


def _table(model: ByteModel, prefix: Buffer) -> npt.NDArray[np.uint32]:
    """uint32 [1, 257]. One prefix at a time, both ways: a batch may change the last bit of a float."""
    view = memoryview(prefix)
    start = 0 if model.context is None else max(0, len(view) - model.context)
    return checked_cumulative(model, [bytes(view[start:])])


def _fingerprint(model: ByteModel) -> bytes:
    """Four bytes that tell models apart by the tables they give."""
    digest = hashlib.blake2b(digest_size=4)
    for prefix in _PROBES:
        digest.update(_table(model, prefix).astype("<u4").tobytes())
    return digest.digest()
