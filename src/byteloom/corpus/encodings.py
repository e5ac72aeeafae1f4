"""Pictures and sounds as the bytes of files, and the byte transforms under which ByteFormer was studied.

Source: Bytes Are All You Need, Horton et al., TMLR 2024, arXiv 2306.00238.
"""

from __future__ import annotations

import io
import wave
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from byteloom.errors import InvalidInputError, MissingExtraError

PictureFormat = Literal["raw", "tiff", "png", "jpeg"]


def picture_bytes(pixels: npt.NDArray[np.uint8], form: PictureFormat, quality: int = 100) -> bytes:
    """A grey picture uint8 [height, width] as raw pixels, uncompressed TIFF, PNG without compression, or JPEG.

    quality: of JPEG, 1 to 100. Raises InvalidInputError for another form, MissingExtraError without Pillow.
    """
    if form not in get_args(PictureFormat):
        raise InvalidInputError(f"a picture becomes one of {', '.join(get_args(PictureFormat))}, not {form!r}")
    if form == "raw":
        return pixels.tobytes()
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("Pillow", "bench") from None
    options = {"tiff": {}, "png": {"compress_level": 0}, "jpeg": {"quality": quality}}[form]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form.upper(), **options)
    return stream.getvalue()


def sound_bytes(samples: npt.NDArray[np.int16], rate: int) -> bytes:
    """Mono sound int16 [samples] as a WAV file of `rate` samples a second."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return stream.getvalue()


def permuted_values(data: bytes, seed: int) -> bytes:
    """Every byte value replaced by another, the same for all files of a seed."""
    order = np.random.default_rng(seed).permutation(256).astype(np.uint8)
    return data.translate(order.tobytes())


def shuffled(data: bytes, seed: int) -> bytes:
    """The bytes in another order, which depends on the seed."""
    return np.random.default_rng(seed).permutation(np.frombuffer(data, np.uint8)).tobytes()


def kept_share(data: bytes, share: float, seed: int) -> bytes:
    """The bytes at floor(share x length) places, the same places for all files of a length and seed: the paper's
    privacy-preserving camera."""
    count = int(share * len(data))
    places = np.sort(np.random.default_rng(seed).permutation(len(data))[:count])
    return np.frombuffer(data, np.uint8)[places].tobytes()
