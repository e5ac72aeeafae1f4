from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import sys
import sysconfig
import wave
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.corpus import describe
from byteloom.errors import InvalidInputError
from byteloom.tasks.identify import GROUP_OF, NgramNetwork, content_map, identify, shipped_network
from byteloom.tasks.identify.identification import _likeliest
from byteloom.tasks.identify.labels import CODE_OF, WITHIN
from byteloom.tasks.identify.network import SHIPPED
from byteloom.tasks.identify.picture import cell_spans, draw_map, shares_of
from byteloom.tasks.identify.signatures import signed

_LIBRARY = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
SOURCES = [path for path in _LIBRARY if path.stat().st_size > 20_000][:20]
SOURCE = SOURCES[0].read_bytes()


def png() -> bytes:
    """A picture of 64 x 64 pixels, by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"".join(b"\0" + bytes((x * y) % 256 for x in range(64)) for y in range(64))
    head = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def wav() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes((np.sin(np.arange(8000) / 20) * 9000).astype("<i2").tobytes())
    return stream.getvalue()


def code() -> tuple[bytes, str] | None:
    """Machine code of this Python, and its label."""
    data = Path(sys.executable).resolve().read_bytes()
    info = describe(data)
    label = CODE_OF.get(info.architecture or "")
    for section in info.sections:
        if label and section.kind == "code" and section.size > 30_000:
            return data[section.offset : section.offset + section.size], label
    return None


def test_the_shipped_network_is_small_and_knows_how_good_it_is():
    assert SHIPPED.stat().st_size < 5_000_000
    network = shipped_network()
    assert isinstance(network, NgramNetwork) and len(network.labels) >= 45
    assert set(network.labels) <= set(GROUP_OF)
    assert set(network.facts["test"]) == {"512", "4096", "65536"}
    assert set(WITHIN.values()) <= set(network.labels)


@pytest.mark.parametrize(
    "label, data",
    [
        ("gzip", gzip.compress(SOURCE)),
        ("bzip2", bz2.compress(SOURCE)),
        ("xz", lzma.compress(SOURCE)),
        ("png", png()),
        ("wav", wav()),
        ("pdf", b"%PDF-1.4\n" + SOURCE),
        ("sqlite", b"SQLite format 3\0" + bytes(200)),
        ("zip", b"PK\x03\x04" + bytes(100)),
        ("utf-16 text", SOURCE.decode().encode("utf-16")),
        ("java class", b"\xca\xfe\xba\xbe\0\0\0\x3d" + bytes(50)),
        ("tar", bytes(257) + b"ustar" + bytes(300)),
    ],
)
def test_signatures_are_believed(label, data):
    found = identify(data)
    assert (found.label, found.by, found.probability) == (label, "signature", 1.0)
    assert signed(data[:512]) == label


@pytest.mark.parametrize(
    "label, text",
    [
        ("python", b"#!/usr/bin/env python3\nprint(1)\n"),
        ("shell", b"#!/bin/sh\nls\n"),
        ("xml", b'<?xml version="1.0"?>\n<a/>\n'),
        ("svg", b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="2"/>\n'),
        ("html", b"<!DOCTYPE html>\n<html></html>\n"),
        ("json", b'{"a": [1, 2, {"b": null}]}'),
        ("tex", b"% a comment\n\\documentclass{article}\n"),
        ("php", b"<?php echo 1;\n"),
    ],
)
def test_texts_that_say_what_they_are_are_believed(label, text):
    assert (identify(text).label, identify(text).by) == (label, "signature")


def test_executables_tell_their_architecture():
    found = identify(Path(sys.executable).resolve().read_bytes())
    assert found.group == "executable" and found.by == "signature"
    assert found.details


def test_source_is_told_from_its_text_alone():
    told = [identify(path.read_bytes()).label for path in SOURCES]
    assert told.count("python") >= 0.9 * len(told)
    assert all(GROUP_OF.get(label, label) in ("source", "text") for label in told)


def test_fragments_from_the_middle_are_told():
    found = code()
    if found is not None:
        data, label = found
        rng = random.Random(0)
        starts = [rng.randrange(4096, len(data) - 600) for _ in range(40)]
        told = [identify(data[start : start + 512]).label for start in starts]
        assert told.count(label) >= 0.8 * len(told)
    packed = gzip.compress(b"".join(path.read_bytes() for path in SOURCES))
    groups = [identify(packed[at : at + 2048]).group for at in range(1024, len(packed) - 2048, 8192)]
    assert groups.count("compressed") >= 0.9 * len(groups)


def test_nothing_filling_and_a_byte_or_two():
    assert identify(b"").label == "empty" and identify(b"").alternatives == (("empty", 1.0),)
    assert identify(bytes(5000)).label == "zeros"
    assert identify(b"\xff" * 600).label == "zeros"
    for size in (1, 2, 3, 5, 20, 200):
        found = identify(os.urandom(size))
        assert 0 < found.probability <= 1 and found.size == size
    short, long = identify(SOURCE[:40]), identify(SOURCE)
    assert short.probability <= long.probability + 0.1


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=3000))
def test_anything_gets_an_honest_answer(data):
    found = identify(memoryview(data))
    assert 0 < found.probability <= 1.0001
    assert sum(chance for _, chance in found.alternatives) <= 1.001
    spans = content_map(data, window=256)
    assert spans[0].offset == 0 and sum(span.size for span in spans) == len(data)
    assert all(one.offset + one.size == other.offset for one, other in pairwise(spans))
    assert all(one.label != other.label for one, other in pairwise(spans))


def test_a_map_tells_what_lies_where():
    text = b"".join(path.read_bytes() for path in SOURCES)
    parts = [text[:40_960], bytes(40_960), gzip.compress(text, 9)[1000:33_768], text[-20_480:]]
    spans = content_map(b"".join(parts))
    assert [span.group for span in spans] == ["source", "program data", "compressed", "source"]
    assert spans[1].label == "zeros"
    edges = np.cumsum([0, *map(len, parts)])[:-1]
    for span, edge in zip(spans, edges, strict=True):
        assert abs(span.offset - edge) <= 4096
    assert spans[1].entropy == 0 and spans[2].entropy > 7.5
    assert content_map(b"") == []
    with pytest.raises(InvalidInputError, match="256 bytes or more"):
        content_map(b"abc", window=64)


def test_the_course_of_labels_is_the_likeliest():
    """Against all courses, in a small case."""
    rng = np.random.default_rng(0)
    found = rng.dirichlet([0.3] * 3, 5).astype(np.float32)
    change, stay = np.log(0.02 / 2), np.log(0.98)
    courses = np.array(np.meshgrid(*[range(3)] * 5)).reshape(5, -1).T

    def score(course):
        own = np.log(np.maximum(found[range(5), course], 1e-6)).sum()
        return own + sum(stay if one == other else change for one, other in pairwise(course))

    best = max(courses.tolist(), key=score)
    assert _likeliest(found, None).tolist() == best
    assert _likeliest(found[:1] * 0 + 1 / 3, 2).tolist() == [2]


def test_a_large_sparse_file_is_mapped_in_pieces(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(SOURCE[:8192])
        file.truncate(48 << 20)
    from byteloom.files import open_bytes

    steps = []
    spans = content_map(open_bytes(path), window=65_536, progress=lambda what, done, total: steps.append((done, total)))
    assert [span.label for span in spans][-1] == "zeros" and spans[-1].size > 47 << 20
    assert len(steps) >= 3 and steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_map_is_drawn(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    spans = content_map(SOURCE + bytes(9000))
    draw_map(spans, tmp_path / f"map.{suffix}")
    assert (tmp_path / f"map.{suffix}").stat().st_size > 1000
    cells = cell_spans(spans, 100)
    assert len(cells) == 100 and cells[0] == spans[0] and cells[-1] == spans[-1]
    assert sum(share for _, _, share in shares_of(spans)) == pytest.approx(1)
    with pytest.raises(InvalidInputError, match=r"\.svg"):
        draw_map(spans, tmp_path / "map.txt")


def test_a_classifier_of_ones_own_is_asked_alone():
    class Parity:
        labels = ("even", "odd")

        def probabilities(self, windows, at_start=None):
            odd = [np.frombuffer(window, np.uint8)[0] % 2 for window in windows]
            return np.array([[0.1, 0.9] if each else [0.9, 0.1] for each in odd], np.float32)

    found = identify(b"\x03" * 300 + b"\x02", Parity())
    assert (found.label, found.group) == ("odd", "odd")
    assert [span.label for span in content_map(b"\x01\x02" * 4096, classifier=Parity())] == ["odd"]
