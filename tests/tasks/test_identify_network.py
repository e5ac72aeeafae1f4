from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom import _native
from byteloom.errors import FileError, InvalidInputError
from byteloom.tasks.identify.network import NgramNetwork, joined, parts_of
from tests.reference import identify as reference


def random_parts(rows=(1 << 16, 1 << 5, 1 << 4, 1 << 3), hidden=6, labels=("a", "b", "c")) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    names = ("pairs", "triples", "quadruples", "distant pairs")
    tables = {name: random.integers(-128, 128, (count, 16), np.int8) for name, count in zip(names, rows, strict=True)}
    return tables | {
        "hidden weights": random.normal(size=(256 + 4 * 16 + 1, hidden)).astype(np.float16),
        "hidden bias": random.normal(size=hidden).astype(np.float16),
        "output weights": random.normal(size=(hidden, len(labels))).astype(np.float16),
        "output bias": random.normal(size=len(labels)).astype(np.float16),
        "labels": np.array(labels),
        "facts": np.array(json.dumps({"seed": 0})),
    }


def pooled(data: bytes, starts: list[int], sizes: list[int], parts: dict[str, np.ndarray], threads: int = 1):
    tables = [parts[name] for name in ("pairs", "triples", "quadruples", "distant pairs")]
    found = np.full((len(starts), 256 + 4 * 16), np.nan, np.float32)
    _native.pool_windows(data, np.array(starts, np.int64), np.array(sizes, np.int64), tables, found, threads)
    return found, tables


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 3))
def test_pooling_is_the_mean_of_all_ngrams(window, skipped):
    data = b"x" * skipped + window + b"yy"
    found, tables = pooled(data, [skipped], [len(window)], random_parts())
    assert np.allclose(found[0], reference.pool(window, tables), atol=1e-4)


def test_long_windows_and_threads_change_nothing():
    data = np.random.default_rng(1).integers(0, 256, 20_000, np.uint8).tobytes()
    data += b"\xff" * 1000  # the same n-gram, so that sums grow
    starts, sizes = [0, 5, 19_990, 20_500, 21_000], [21_000, 700, 1010, 500, 0]
    found, tables = pooled(data, starts, sizes, random_parts())
    for row, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        assert np.allclose(found[row], reference.pool(data[start : start + size], tables), atol=1e-4)
    assert np.array_equal(found, pooled(data, starts, sizes, random_parts(), threads=3)[0])


def test_probabilities_are_those_of_the_dense_layers():
    parts = random_parts()
    network = NgramNetwork(parts)
    windows = [b"some text that is short", bytes(range(256)) * 3]
    found = network.probabilities(windows)
    for row, window in zip(found, windows, strict=True):
        x = np.append(reference.pool(window, [parts[n] for n in list(parts)[:4]]), np.log2(len(window)) / 16)
        hidden = np.maximum(x @ parts["hidden weights"].astype(float) + parts["hidden bias"], 0)
        scores = hidden @ parts["output weights"].astype(float) + parts["output bias"]
        expected = np.exp(scores - scores.max())
        assert np.allclose(row, expected / expected.sum(), atol=1e-3)
    assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_a_long_window_is_the_geometric_mean_of_its_parts():
    network = NgramNetwork(random_parts())
    data = np.random.default_rng(2).integers(0, 256, 3 * 4096 + 100, np.uint8).tobytes()
    pieces = network.probabilities([data[:4096], data[4096:8192], data[8192:]])
    assert np.allclose(network.probabilities([data])[0], joined(pieces), atol=1e-5)


@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 4097, 6143, 6144, 10_000])
def test_parts_cover_everything_once(size):
    starts, sizes = parts_of(size, 4096)
    assert starts[0] == 0 and (starts[1:] == (starts + sizes)[:-1]).all() and starts[-1] + sizes[-1] == size
    assert sizes.max() < 4096 * 1.5 and (len(sizes) == 1 or sizes.min() >= 2048)


def test_save_and_load(tmp_path):
    network = NgramNetwork(random_parts())
    network.save(tmp_path / "network.npz")
    again = NgramNetwork.load(tmp_path / "network.npz")
    assert again.labels == network.labels == ("a", "b", "c") and again.facts == {"seed": 0}
    assert np.array_equal(again.probabilities([b"bytes"]), network.probabilities([b"bytes"]))


def test_damaged_files_and_wrong_windows_are_refused(tmp_path):
    with pytest.raises(FileError, match="cannot read"):
        NgramNetwork.load(tmp_path / "missing.npz")
    (tmp_path / "text").write_bytes(b"not a network")
    with pytest.raises(InvalidInputError, match="not a network of n-grams"):
        NgramNetwork.load(tmp_path / "text")
    NgramNetwork(random_parts()).save(tmp_path / "whole.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:20_000])
    with pytest.raises(InvalidInputError, match="not a network of n-grams"):
        NgramNetwork.load(tmp_path / "half.npz")
    for wrong in ({"output bias": np.zeros(2)}, {"pairs": np.zeros((8, 4), np.int8)}, {"facts": np.array("{")}):
        with pytest.raises(InvalidInputError):
            NgramNetwork(random_parts() | wrong)
    with pytest.raises(InvalidInputError, match="network"):
        NgramNetwork({})
    network = NgramNetwork(random_parts())
    with pytest.raises(InvalidInputError, match="window 1 is empty"):
        network.probabilities([b"a", b""])
    for start, size in ((0, 6), (6, 0), (-1, 2), (2, -1), (1, 2**62)):
        with pytest.raises(ValueError, match="reaches out"):
            network.scan(b"bytes", np.array([start]), np.array([size]))
    with pytest.raises(ValueError, match="power of two"):
        NgramNetwork(random_parts(rows=(3, 4, 4, 4))).probabilities([b"bytes"])
