import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom import files
from byteloom.errors import FileError, InvalidInputError
from byteloom.generate import NgramModel
from tests.reference.ngram_model import ReferenceNgramModel


@st.composite
def corpora(draw):
    size = draw(st.sampled_from([1, 2, 5, 300]))
    documents = st.lists(st.lists(st.integers(0, size - 1), max_size=30), max_size=12)
    return size, draw(documents), draw(st.integers(2, 6)), draw(st.integers(1, 3))


@settings(max_examples=150, deadline=None)
@given(corpora(), st.data())
def test_probabilities_are_those_of_dictionaries(corpus, data):
    size, documents, order, least = corpus
    model = NgramModel.from_documents(documents, vocab_size=size, max_order=order, min_count=least)
    twin = ReferenceNgramModel(documents, order, least)
    assert model.sizes == {n: sum(len(gram) == n for gram in twin.counts) for n in range(2, order + 1)}
    histories = [
        [],
        *(document[:at] for document in documents for at in (1, 3, len(document))),
        data.draw(st.lists(st.integers(0, size - 1), max_size=9)),
    ]
    weights = [1.0, 0.5, 0.25, 0.2, 0.1][: order - 1]
    model.weights = np.array(weights, np.float32)
    candidates = sorted({token for document in documents for token in document} | {0})
    expected = [[twin.prob(history, token, weights) for token in candidates] for history in histories]
    np.testing.assert_allclose(model.prob_batch(histories, candidates), expected, rtol=1e-5)
    np.testing.assert_allclose(model.prob(histories[-1], candidates), expected[-1], rtol=1e-5)


def test_many_tokens_are_counted_like_few():
    rng = np.random.default_rng(0)
    # Skewed, so that what follows a token is sorted by digits as well as by comparison; and wide keys.
    for size in (40, 1 << 24):
        documents = [(size * rng.random(2_000) ** 8).astype(np.int64) for _ in range(4)]
        model = NgramModel.from_documents(documents, vocab_size=size)
        twin = ReferenceNgramModel([document.tolist() for document in documents], 6)
        assert model.sizes == {n: sum(len(gram) == n for gram in twin.counts) for n in range(2, 7)}
        histories = [document[at : at + 5].tolist() for document in documents for at in range(0, 1_900, 100)]
        candidates = np.unique(np.concatenate(documents))[:200]
        expected = [[twin.prob(history, token, model.weights) for token in candidates] for history in histories]
        np.testing.assert_allclose(model.prob_batch(histories, candidates), expected, rtol=1e-5)


def test_a_seen_history_has_a_distribution_and_an_unseen_one_nothing():
    model = NgramModel.from_documents([[1, 2, 3, 1, 2, 4], [4, 1]], vocab_size=6, max_order=3, weights=[1, 0])
    for history, total in (([1], 1), ([2], 1), ([4], 1), ([3], 1), ([5], 0), ([], 0)):
        assert model.prob(history, range(6)).sum() == pytest.approx(total)
    assert model.prob([2], [3, 4, 1]).tolist() == [0.5, 0.5, 0]
    assert model.prob([3], [4]) == 0  # that is the next document's


def test_histories_as_an_array_and_candidates_by_group():
    model = NgramModel.from_documents([[1, 2, 3], [1, 2, 4]], vocab_size=5, max_order=3, weights=[1, 10])
    histories = np.array([[0, 9, 1, 2], [7, 7, -1, 2], [0, 0, -1, -1], [0, 0, 0, 1]])
    np.testing.assert_allclose(
        model.prob_batch(histories, [[3, 4], [2, 3]]), [[5.5, 5.5], [0.5, 0.5], [0, 0], [1, 0]], rtol=1e-6
    )
    assert model.prob_batch([], [1, 2]).shape == (0, 2)


def test_files(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 50, 300) for _ in range(5)]
    model = NgramModel.from_documents(documents, vocab_size=50, max_order=4, weights=[1, 2, 3], tokenizer="abc")
    path = tmp_path / "deep" / "grams.ngr"
    model.save(path)
    for threshold in (files.MAP_THRESHOLD, 0):  # read, and mapped
        monkeypatch.setattr(files, "MAP_THRESHOLD", threshold)
        same = NgramModel.load(path, tokenizer="abc")
        assert (same.vocab_size, same.max_order, same.sizes, same.nbytes, same.tokenizer) == (
            *(50, 4, model.sizes, model.nbytes, "abc"),
        )
        assert np.array_equal(same.weights, model.weights)
        histories = [document[:9].tolist() for document in documents]
        assert np.array_equal(same.prob_batch(histories, range(50)), model.prob_batch(histories, range(50)))
    same.save(path)  # over the file that it is mapped from
    assert NgramModel.load(path).sizes == model.sizes
    with pytest.raises(InvalidInputError, match="made with the tokenizer 'abc', not 'xyz'"):
        NgramModel.load(path, tokenizer="xyz")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "grams.ngr"
    model = NgramModel.from_documents([[1, 2, 3, 1, 2]], vocab_size=4, max_order=3)
    model.save(path)
    whole = path.read_bytes()
    for size in (0, 3, 70, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError):
            NgramModel.load(path)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with pytest.raises(FileError):
            NgramModel.load(path)
    # Damage that the checksum has overlooked, or malice: an error or wrong numbers, and no crash.
    start = whole.index(b"\n") + 1
    for _ in range(300):
        body = bytearray(whole[:-4])
        for at in rng.integers(start, len(body), 3):
            body[at] = rng.integers(256)
        path.write_bytes(bytes(body) + zlib.crc32(body).to_bytes(4, "little"))
        try:
            damaged = NgramModel.load(path)
        except FileError:
            continue
        damaged.prob_batch([[1, 2], [2, 3], [3, 1], [0, 0]], range(4))
    for head in (
        b'{"format": "byteloom n-grams 1"}',
        b'{"format": "byteloom n-grams 1", "tokenizer": 1, "weights": "a"}',
    ):
        body = head.ljust(start - 1) + whole[start - 1 : -4]
        path.write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
        with pytest.raises(FileError, match="is damaged"):
            NgramModel.load(path)
    with pytest.raises(FileError, match="does not exist"):
        NgramModel.load(tmp_path / "none")


def test_what_a_user_can_get_wrong():
    with pytest.raises(InvalidInputError, match="max_order is 2 to 6"):
        NgramModel.from_documents([], vocab_size=4, max_order=7)
    with pytest.raises(InvalidInputError, match="min_count at least 1"):
        NgramModel.from_documents([], vocab_size=4, min_count=0)
    with pytest.raises(InvalidInputError, match="vocab_size is 1 to"):
        NgramModel.from_documents([], vocab_size=0)
    for document in ([1, 4], [-1], [[1, 2]], [0.5]):
        with pytest.raises(InvalidInputError, match="document 1 is not one row of token ids below 4"):
            NgramModel.from_documents([[1], document], vocab_size=4)
    with pytest.raises(InvalidInputError, match="take 2 weights"):
        NgramModel.from_documents([], vocab_size=4, max_order=3, weights=[1])
