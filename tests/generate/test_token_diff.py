from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import InvalidInputError
from byteloom.generate import Edit, token_edits
from tests.reference.token_diff import longest_common


def applied(old, edits):
    new = list(old)
    for edit in reversed(edits):
        new[edit.start : edit.stop] = edit.tokens
    return new


@st.composite
def texts_and_edited(draw):
    vocabulary = draw(st.sampled_from([1, 2, 4, 60]))
    tokens = st.lists(st.integers(0, vocabulary), max_size=120)
    old = draw(tokens) * draw(st.integers(1, 3))
    new = list(old)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(new)))
        stop = draw(st.integers(start, min(len(new), start + 30)))
        new[start:stop] = draw(st.lists(st.integers(0, vocabulary), max_size=8))
    return (old, new) if draw(st.booleans()) else (old, draw(tokens))


@given(texts_and_edited(), st.sampled_from([1, 2, 8, 30]))
@settings(max_examples=150, deadline=None)
def test_edits_are_exact_sorted_disjoint_and_apart(texts, min_keep):
    old, new = texts
    edits = token_edits(old, new, min_keep=min_keep)
    assert applied(old, edits) == new
    assert all(edit.tokens or edit.stop > edit.start for edit in edits)
    for edit, following in pairwise(edits):
        assert edit.stop + min_keep <= following.start
    if edits and edits[-1].stop < len(old):
        assert edits[-1].stop + min_keep <= len(old)


@given(st.integers(0, 1 << 30))
@settings(max_examples=30, deadline=None)
def test_little_is_replaced_that_stayed(seed):
    draw = random.Random(seed)
    old = [draw.randrange(500) for _ in range(300)]
    new, edits = list(old), draw.randrange(1, 5)
    for _ in range(edits):
        start = draw.randrange(len(new))
        new[start : start + draw.randrange(9)] = [draw.randrange(500) for _ in range(draw.randrange(9))]
    kept = len(old) - sum(edit.stop - edit.start for edit in token_edits(old, new))
    # Runs shorter than min_keep are given up between edits.
    assert longest_common(old, new) - 8 * (edits + 1) <= kept <= longest_common(old, new)


def test_plain_cases():
    old = list(range(100))
    assert token_edits(old, old) == [] == token_edits([], [])
    assert token_edits([], [1, 2]) == [Edit(0, 0, (1, 2))]
    assert token_edits([1, 2], []) == [Edit(0, 2)]
    assert token_edits(old, [*old[:40], 7, *old[40:]]) == [Edit(40, 40, (7,))]
    assert token_edits(old, old[:40] + old[45:]) == [Edit(40, 45)]
    assert token_edits(np.array(old, np.uint32), [*old[:95], 7, 8, *old[96:]]) == [
        Edit(95, 100, (7, 8, 96, 97, 98, 99))
    ]
    assert token_edits(old, [*old[:20], 7, *old[21:70], 8, *old[71:]]) == [Edit(20, 21, (7,)), Edit(70, 71, (8,))]


def test_blocks_that_moved_are_kept_once():
    draw = random.Random(0)
    blocks = [[draw.randrange(5000) for _ in range(40)] for _ in range(5)]
    old, new = ([token for at in order for token in blocks[at]] for order in (range(5), (0, 3, 1, 2, 4)))
    edits = token_edits(old, new)
    assert applied(old, edits) == new
    assert sum(edit.stop - edit.start for edit in edits) == 40


def test_a_text_that_repeats_itself_is_matched_within_the_gaps():
    draw = random.Random(0)
    line = [draw.randrange(50) for _ in range(10)]
    old = [token for at in range(100, 140) for token in (*line, at)]
    new = list(old)
    for place in (50, 200, 380):
        new[place] = 77
    edits = token_edits(old, new)
    assert [(edit.start, edit.stop) for edit in edits] == [(50, 51), (200, 201), (380, 381)]


def test_min_keep_is_positive():
    with pytest.raises(InvalidInputError, match="at least 1"):
        token_edits([1], [2], min_keep=0)
