"""Byte models: tables against their definitions, files, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.equal_info import reference_count_table, reference_quantise

from byteloom.errors import FileError, InvalidInputError
from byteloom.tokenize.byte_model import (
    AdaptiveModel,
    CountModel,
    StaticModel,
    checked_cumulative,
    quantise,
)

texts = st.lists(st.sampled_from(b"aab\x00\xff"), max_size=30).map(bytes)


class TestQuantise:
    @pytest.mark.parametrize("sharpness", [0, 1, 3, 40, 1000])
    def test_is_the_rule(self, sharpness: int) -> None:
        weights = np.random.default_rng(sharpness).random(256) ** sharpness
        p = np.floor(weights / weights.sum() * 2**32) / 2**32  # so that products are exact in floats too
        assert quantise([p])[0].tolist() == reference_quantise([Fraction(float(share)) for share in p])

    @pytest.mark.parametrize("bad", [np.ones(256) / 256, *np.reshape([1, -1, np.nan], (3, 1, 1)) * np.ones((1, 256))])
    def test_what_is_no_distribution_is_refused(self, bad: np.ndarray) -> None:
        with pytest.raises(InvalidInputError, match="rows of 256 numbers"):
            quantise(bad)


class TestCountModel:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(texts, min_size=1, max_size=4), st.integers(0, 6), texts)
    def test_tables_are_those_of_the_definition(self, documents: list[bytes], order: int, prefix: bytes) -> None:
        if not any(documents):
            return
        model = CountModel.fit(documents, order)
        prefixes = [b"", prefix, prefix[:2], documents[0][:3]]
        expected = [reference_count_table(documents, order, one) for one in prefixes]
        assert model.cumulative(prefixes).tolist() == expected

    def test_a_corpus_in_batches_counts_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        documents = [rng.integers(0, 4, size, np.uint8).tobytes() for size in (3000, 1, 500, 0, 77)]
        whole = CountModel.fit(documents, 3)
        monkeypatch.setattr("byteloom.tokenize.byte_model._BATCH", 100)
        parts = CountModel.fit(iter(documents), 3)
        assert np.array_equal(whole._grams, parts._grams)
        assert np.array_equal(whole._counts, parts._counts)

    def test_file(self, tmp_path: Path) -> None:
        model = CountModel.fit([b"to be or not to be"], 3)
        model.save(tmp_path / "model")
        again = CountModel.load(tmp_path / "model")
        prefixes = [b"", b"to ", b"x"]
        assert again.order == again.context == 3
        assert np.array_equal(again.cumulative(prefixes), model.cumulative(prefixes))

        data = (tmp_path / "model").read_bytes()
        for name, bad in {"cut": data[:-30], "empty": b"", "foreign": b"PK\x03\x04" + bytes(99)}.items():
            (tmp_path / name).write_bytes(bad)
            with pytest.raises(FileError, match=f"{name}: it is cut off or was not written"):
                CountModel.load(tmp_path / name)
        grams, counts = np.array([5, 3], np.uint64), np.array([1, 1], np.uint32)  # not sorted
        np.savez(tmp_path / "lies.npz", format="byteloom-count-model-1", order=3, grams=grams, counts=counts)
        with pytest.raises(FileError):
            CountModel.load(tmp_path / "lies.npz")
        with pytest.raises(FileError, match="does not exist"):
            CountModel.load(tmp_path / "missing")

    def test_bad_input(self) -> None:
        with pytest.raises(InvalidInputError, match="order must be from 0 to 6"):
            CountModel.fit([b"a"], 7)
        with pytest.raises(InvalidInputError, match="at least one non-empty document"):
            CountModel.fit([b"", b""])


class TestAdaptiveModel:
    @settings(max_examples=40, deadline=None)
    @given(texts, st.integers(0, 4))
    def test_a_prefix_is_its_own_corpus(self, prefix: bytes, order: int) -> None:
        table = AdaptiveModel(order).cumulative([prefix])[0]
        assert table.tolist() == reference_count_table([prefix], order, prefix)


class TestStaticModel:
    def test_fit_is_in_proportion_to_the_bytes(self) -> None:
        table = np.diff(StaticModel.fit([b"aab", b"", b"a"]).cumulative([b"whatever"])[0].astype(int))
        assert table[ord("b")] == 1 + (1 << 14) // 4 - 64
        assert table.argmax() == ord("a")

    @pytest.mark.parametrize("weights", [np.zeros(256), np.ones(255), -np.ones(256), np.full(256, np.inf)])
    def test_bad_weights(self, weights: np.ndarray) -> None:
        with pytest.raises(InvalidInputError, match="weights must be 256"):
            StaticModel(weights)

    def test_no_bytes(self) -> None:
        with pytest.raises(InvalidInputError, match="non-empty document"):
            StaticModel.fit([])


class Foreign:
    """A model that gives what it is told."""

    context = None

    def __init__(self, tables: np.ndarray) -> None:
        self.tables = tables

    def cumulative(self, prefixes: list[bytes]) -> np.ndarray:
        return self.tables


class TestProtocol:
    uniform = np.arange(257)[None] * 64

    @pytest.mark.parametrize(
        ("tables", "message"),
        [
            (uniform[:, :-1], "a table of 257 numbers"),
            (np.minimum(uniform, 16383), "begin with 0 and end with 16384"),
            (uniform / 1.0, "must be integers"),
            (np.where(uniform == 64, 0, uniform), "every byte at least 1"),
        ],
    )
    def test_a_model_that_breaks_it_is_refused(self, tables: np.ndarray, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            checked_cumulative(Foreign(tables), [b""])
