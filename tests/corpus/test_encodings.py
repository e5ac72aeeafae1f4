import io
import wave

import numpy as np
import pytest

from byteloom.corpus.encodings import kept_share, permuted_values, picture_bytes, shuffled, sound_bytes
from byteloom.errors import InvalidInputError

PIXELS = np.arange(28 * 28, dtype=np.uint32).reshape(28, 28).astype(np.uint8)


@pytest.mark.parametrize("form", ["raw", "tiff", "png", "jpeg"])
def test_pictures_decode_to_their_pixels(form):
    image = pytest.importorskip("PIL.Image")
    data = picture_bytes(PIXELS, form)
    if form == "raw":
        assert data == PIXELS.tobytes()
        return
    decoded = np.asarray(image.open(io.BytesIO(data))).astype(int)
    assert np.abs(decoded - PIXELS).max() <= (8 if form == "jpeg" else 0)
    if form == "png":
        assert len(data) > 28 * 28  # nothing is compressed
    with pytest.raises(InvalidInputError, match="raw, tiff, png, jpeg"):
        picture_bytes(PIXELS, "gif")


def test_sounds_decode_to_their_samples():
    samples = (np.sin(np.arange(1000) / 9) * 30_000).astype(np.int16)
    with wave.open(io.BytesIO(sound_bytes(samples, 8000))) as file:
        assert file.getframerate() == 8000
        assert np.array_equal(np.frombuffer(file.readframes(1000), "<i2"), samples)


def test_transforms_keep_what_they_say():
    data = PIXELS.tobytes()
    renamed = permuted_values(data, 1)
    assert len(set(zip(data, renamed, strict=True))) == len(set(data)) == len(set(renamed))
    assert sorted(shuffled(data, 1)) == sorted(data) and shuffled(data, 1) != shuffled(data, 2)
    kept = kept_share(data, 0.1, 3)
    assert len(kept) == 78
    places = np.frombuffer(kept_share(bytes(range(200)), 0.25, 3), np.uint8)
    assert len(places) == 50 and (np.diff(places.astype(int)) > 0).all()
    assert kept_share(bytes(range(200)), 0.25, 3) == kept_share(bytes(range(200)), 0.25, 3)
