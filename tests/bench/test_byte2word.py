from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from byteloom.bench import byte2word
from byteloom.bench.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    torch.set_num_threads(1)
    return byte2word.run("smoke")


def test_every_part_is_measured(result: Result) -> None:
    tables = {str(row["table"]) for row in result.rows}
    assert tables == {byte2word.HIDDEN, byte2word.LEARNING, byte2word.NOISE, byte2word.SPEED, byte2word.READING}
    assert {plot.table for plot in result.plots} <= tables
    assert result.numbers and all(figure.met is None for figure in result.numbers.values())
    assert all(np.isfinite(figure.value) for figure in result.numbers.values())


@given(st.binary(max_size=80), st.integers(0, 9))
def test_noise_changes_words_alone(text: bytes, seed: int) -> None:
    assert byte2word.noisy(text, 0.0, random.Random(seed)) == text
    changed = byte2word.noisy(text, 1.0, random.Random(seed))
    strip = bytes.maketrans(b"", b"")
    letters = bytes(byte for byte in range(256) if chr(byte).isascii() and chr(byte).isalpha())
    assert changed.translate(strip, letters) == text.translate(strip, letters)


def test_noise_is_one_edit_a_word() -> None:
    found = {byte2word.noisy(b"word it", 1.0, random.Random(seed)) for seed in range(300)}
    assert {b"wrd it", b"owrd it", b"wrod it"} <= found and all(text.endswith(b" it") for text in found)
    assert {len(text) for text in found} == {6, 7, 8}


def test_both_models_are_asked_the_same() -> None:
    plan = byte2word._PLANS["smoke"]
    texts = byte2word._texts(None, plan)
    targets = byte2word._WordPiece(texts.train, plan.vocab)
    windows = byte2word._Windows(texts, targets, plan)
    hidden = 0
    for step in range(20):
        words, pieces = windows.words(step), windows.pieces(step)
        asked = words["labels"][words["labels"] != -100]
        assert torch.equal(asked, pieces["labels"][pieces["labels"] != -100])
        assert (pieces["input_ids"][:, 0] == byte2word.CLS_ID).all()
        masks = pieces["input_ids"] == byte2word.MASK_ID
        assert (pieces["labels"][masks] != -100).all()
        hidden += int(masks.sum())
        document = windows.documents(step)[0]
        plain = targets.rows([document], plan.words)["input_ids"][0]
        row, labels = pieces["input_ids"][0], pieces["labels"][0]
        told = torch.where(labels != -100, labels, row)[pieces["attention_mask"][0].bool()]
        if len(told) == len(plain):  # no word of more pieces than are asked for
            assert torch.equal(told, plain)
    assert hidden
