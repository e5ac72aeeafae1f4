import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.corpus import FORMATS, recognise
from byteloom.corpus.formats import possible_formats
from tests.corpus import samples


@pytest.mark.parametrize("format", samples.EXECUTABLES)
def test_executables_are_told_by_content(format: str) -> None:
    assert recognise(samples.EXECUTABLES[format]) == format


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"", "empty"),
        (b"a", "text"),
        (b"\0", "other"),
        (b"#!/bin/sh\necho \x1b[1mbold\x1b[0m\n", "text"),
        ("Grüße, 世界\n".encode(), "text"),
        ("Grüße".encode("latin-1"), "other"),
        (b"\xff\xfe" + "wide".encode("utf-16-le"), "text"),
        (b"\xfe\xff" + "wide".encode("utf-16-be"), "text"),
        (b"\xff\xfe\x00\xd8\x00", "other"),  # a lone surrogate
        (b"MZ", "text"),
        (b"MZ" + bytes(100), "other"),  # a DOS program
        (b"PK\x03\x04" + bytes(40), "other"),
        (samples.apk(), "apk"),
        (samples.zipped({"a.txt": b"a"}), "other"),
        (samples.java_class(), "other"),
        (b"\xca\xfe\xba\xbf" + struct.pack(">I", 2), "mach-o fat"),
        (b"\x64\x86" + b"\xff" * 40, "other"),  # a COFF machine in front of nonsense
        (b"some words \x01\x02\x03\x04", "other"),
    ],
)
def test_corner_cases(data: bytes, format: str) -> None:
    assert recognise(data) == format


def test_a_character_cut_by_a_window_is_still_text() -> None:
    for shift in range(3):
        assert recognise(b"x" * shift + "世".encode() * 40_000) == "text"


def test_text_with_a_binary_tail_is_not_text() -> None:
    assert recognise(b"#!/bin/sh\n" * 10_000 + bytes(range(256)) * 100) == "other"


def test_text_cut_inside_its_last_character_is_not_text() -> None:
    assert recognise("é".encode()[:1] + b"") == "other"


@given(st.one_of(st.binary(max_size=300), st.sampled_from([*samples.EXECUTABLES.values(), samples.apk()])))
@settings(max_examples=200)
def test_the_head_never_rules_out_the_true_format(data: bytes) -> None:
    format = recognise(memoryview(data))
    assert format in FORMATS
    assert format in possible_formats(data[:600])
