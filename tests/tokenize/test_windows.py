"""Equal-info windows against exact fractions; why greedy windows are not decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.equal_info import fitting_strings, interval, lowest_cell, reference_bits, reference_windows

from byteloom.errors import InvalidInputError
from byteloom.tokenize.byte_model import AdaptiveModel, ByteModel, CountModel, StaticModel
from byteloom.tokenize.windows import WindowCoder

SOURCE = Path(__file__).read_bytes()
COUNTS = CountModel.fit([SOURCE], 3)

documents = st.one_of(st.binary(max_size=60), st.integers(0, len(SOURCE)).map(lambda at: SOURCE[at : at + 200]))


def tables(model: ByteModel) -> Callable[[bytes], list[int]]:
    return cache(lambda prefix: model.cumulative([prefix])[0].tolist())


class TestDefinition:
    @settings(max_examples=50, deadline=None)
    @given(documents, st.sampled_from([16, 17, 24, 64]), st.sampled_from(["minimal", "greedy"]))
    def test_windows_are_those_of_exact_fractions(self, data: bytes, bits: int, rule: str) -> None:
        coder = WindowCoder(COUNTS, bits, 8, rule)  # type: ignore[arg-type]
        assert coder.windows(data) == reference_windows(data, tables(COUNTS), bits, rule)

    def test_a_hundred_thousand_windows(self) -> None:
        rng = np.random.default_rng(0)
        table, coder = tables(COUNTS), WindowCoder(COUNTS)
        cell = cache(lambda text: lowest_cell(interval(text, table), 16))
        text = b"".join(SOURCE[at : at + 300] for at in rng.integers(0, len(SOURCE) - 300, 2600).tolist())
        windows = coder.windows(text)
        assert len(windows) > 100_000
        at = 0
        for window, code in windows[:-1]:
            # Of the strings that fit, the longest has this code; of those with this code, the window is the shortest.
            end = at + len(window)
            while end < len(text) and (fitting := cell(text[at : end + 1])) is not None:
                assert fitting == code
                end += 1
            assert cell(window) == code
            assert len(window) == 1 or cell(window[:-1]) != code
            at += len(window)
        assert coder.decode(coder.encode(text)) == text

    def test_the_uniform_model(self) -> None:
        text = b"ab" + bytes(3) + b"xyz"
        greedy = WindowCoder(StaticModel(), rule="greedy")
        assert greedy.encode(text).tolist() == [256 * a + b for a, b in zip(text[::2], text[1::2], strict=True)]
        assert greedy.encode(b"abc").tolist()[-1] == ord("c") * 256
        # A second byte 0 changed no bit.
        windows = [window for window, _ in WindowCoder(StaticModel()).windows(text)]
        assert windows == [b"ab", b"\x00", b"\x00", b"\x00x", b"yz"]


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(documents, st.sampled_from([(16, 16), (16, 8), (24, 16), (32, 8), (64, 16), (128, 16), (19, 8)]))
    def test_any_bytes(self, data: bytes, widths: tuple[int, int]) -> None:
        for model in (COUNTS, AdaptiveModel(2), StaticModel()):
            coder = WindowCoder(model, *widths)
            ids = coder.encode(data)
            assert ids.dtype == np.uint32
            assert len(ids) == -(-len(coder.windows(data)) * widths[0] // widths[1])
            assert coder.decode(ids) == data

    def test_every_byte(self) -> None:
        coder = WindowCoder(COUNTS)
        for byte in range(256):
            assert coder.decode(coder.encode(bytes([byte]))) == bytes([byte])


@pytest.fixture(scope="module")
def model() -> CountModel:
    return CountModel.fit([SOURCE + b"abaababbabaa" * 200], 1)


@pytest.fixture(scope="module")
def strings(model: CountModel) -> list[bytes]:
    """All strings of two bytes that fit into a window."""
    return fitting_strings(tables(model), 16, b"ab")


class TestCodes:
    def test_what_fits_is_closed_under_prefixes(self, strings: list[bytes]) -> None:
        assert {s[:-1] for s in strings if len(s) > 1} <= set(strings)

    def test_a_minimal_code_has_one_string(self, model: CountModel, strings: list[bytes]) -> None:
        coder = WindowCoder(model)
        windows = dict(coder.windows(s)[0] for s in strings)
        assert len(set(windows.values())) == len(windows)
        for window, code in windows.items():
            assert coder.decode([code]) == window

    def test_a_greedy_code_may_have_several(self, model: CountModel, strings: list[bytes]) -> None:
        texts = defaultdict(set)
        for s in strings:
            texts[reference_bits(s, tables(model)).ljust(16, "0")].add(s)
        shared = [group for group in texts.values() if len(group) > 1]
        assert shared
        # Greedy windows may end before any byte that does not fit, so each of these can be one.
        coder = WindowCoder(model, rule="greedy")
        one, other, *_ = sorted(shared[0])
        assert coder.encode(one).tolist() == coder.encode(other).tolist()


class TestBadInput:
    def test_windows_and_tokens(self) -> None:
        with pytest.raises(InvalidInputError, match="windows under 16 bits cannot hold every byte"):
            WindowCoder(COUNTS, 12)
        with pytest.raises(InvalidInputError, match="token_bits must be 8 or 16"):
            WindowCoder(COUNTS, 16, 12)
        with pytest.raises(InvalidInputError, match="rule must be one of"):
            WindowCoder(COUNTS, rule="dictionary")  # type: ignore[arg-type]

    def test_greedy_does_not_decode(self) -> None:
        with pytest.raises(InvalidInputError, match="do not determine their text"):
            WindowCoder(COUNTS, rule="greedy").decode([1])

    def test_ids(self) -> None:
        coder = WindowCoder(COUNTS, 32, 16)
        with pytest.raises(InvalidInputError, match="id 65536 at position 1"):
            coder.decode([0, 65536])
        with pytest.raises(InvalidInputError, match="not a whole number of windows"):
            coder.decode([1, 2, 3])
        with pytest.raises(InvalidInputError, match="decode whole windows"):
            coder.token_bytes(5)
        assert WindowCoder(StaticModel()).token_bytes(0x4142) == b"AB"

    def test_a_code_of_no_text_is_told(self) -> None:
        coder = WindowCoder(COUNTS)
        used = {code for _, code in coder.windows(SOURCE)}
        refused = 0
        for code in set(range(0, 65536, 97)) - used:
            try:
                assert coder.encode(coder.decode([code])).tolist() == [code]
            except InvalidInputError as error:
                assert "stands for no text" in str(error)
                refused += 1
        assert refused > 10
