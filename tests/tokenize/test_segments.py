"""Spans cover a document without gaps, and the rows of the hex dump show each of its bytes once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.tokenize import BPE, byte_tokenizer, train_bpe
from byteloom.tokenize.segments import HUES, hex_rows, id_spans, printable, token_spans

TOKENIZER: BPE = train_bpe([b"\x00" * 600 + b"the cat sat on the mat " * 40], vocab_size=283, min_frequency=2)


@dataclass(frozen=True)
class Part:
    name: str
    offset: int
    size: int


documents = st.lists(st.sampled_from([b"\x00" * 9, b"the ", b"cat", b"\xff\x80", b"mat sat"]), max_size=30).map(
    b"".join
)


@settings(max_examples=60, deadline=None)
@given(documents, st.integers(1, 33))
def test_spans_and_rows_cover_every_byte_once(data: bytes, width: int) -> None:
    spans = token_spans(TOKENIZER, data)
    assert b"".join(TOKENIZER.token_bytes(s.id) for s in spans) == data
    assert [s.start for s in spans] == [0, *(s.end for s in spans)][: len(spans)]
    rows = list(hex_rows(spans, width=width))
    runs = [run for row in rows for run in row.runs]
    assert [position for run in runs for position in range(run.start, run.end)] == list(range(len(data)))
    for row in rows:
        assert row.offset % width == 0
        assert all(row.offset <= run.start < run.end <= row.offset + width for run in row.runs)
        assert all(a.hue != b.hue and b.hue < HUES for a, b in pairwise(row.runs))


@settings(max_examples=60, deadline=None)
@given(documents, st.integers(0, 200), st.integers(1, 100))
def test_a_window_holds_exactly_the_tokens_that_touch_it(data: bytes, start: int, size: int) -> None:
    touching = [s for s in token_spans(TOKENIZER, data) if s.end > start and s.start < start + size]
    assert token_spans(TOKENIZER, data, start, start + size) == touching


def test_special_tokens_take_no_bytes() -> None:
    ids = np.concatenate([[0], byte_tokenizer().encode(b"ab"), [1]]).astype(np.uint32)
    assert [(s.start, s.end) for s in id_spans(byte_tokenizer(), ids)] == [(0, 1), (1, 2)]


def test_sections_are_named_where_they_begin_and_in_the_first_row() -> None:
    data = bytes(range(64))
    sections = [Part(".text", 0, 40), Part(".data", 40, 20), Part(".bss", 50, 0)]
    spans = token_spans(byte_tokenizer(), data, 20, 64)
    rows = list(hex_rows(spans, sections=sections))
    assert [row.offset for row in rows] == [16, 32, 48]
    assert [row.sections for row in rows] == [(".text",), (".data",), ()]
    assert rows[0].runs[0].start == 20  # the row starts at a multiple of its width, the tokens later
    assert list(hex_rows([])) == []


def test_printable() -> None:
    assert printable(b"a~ \x00\x7f\xff") == "a~ ···"
