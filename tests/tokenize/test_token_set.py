from itertools import combinations

import numpy as np
import pytest

from byteloom.errors import FileError, InvalidInputError
from byteloom.tokenize import BPE, Segmenter, TokenSet, byte_tokenizer, export_unordered, leakage, train_bpe

TEXT = b"the cat sat on the mat; the rat ate the bat and the cat; " * 50


@pytest.fixture(scope="module")
def trained() -> BPE:
    return train_bpe([TEXT], vocab_size=290, min_frequency=2, threads=1)


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_ids_are_permuted_and_special_tokens_stay(trained: BPE, seed: int | None) -> None:
    released, permutation = export_unordered(trained, seed)
    assert sorted(permutation.tolist()) == list(range(trained.vocab_size))
    assert permutation[:7].tolist() == list(range(7))
    assert released.special_tokens == trained.special_tokens
    for token in range(7, trained.vocab_size):
        assert released.texts[permutation[token]] == trained.token_bytes(token)


@pytest.mark.parametrize("inference", ["greedy", "greedy_right", "minimal", "longest_first"])
def test_the_set_segments_as_the_tokenizer_does(trained: BPE, inference: str) -> None:
    released, permutation = export_unordered(trained, seed=1)
    ids = Segmenter(trained, inference=inference).encode(TEXT)
    assert np.array_equal(Segmenter(released, inference=inference).encode(TEXT), permutation[ids])


def test_lexicographic_order_is_the_default(trained: BPE) -> None:
    released, _ = export_unordered(trained)
    assert list(released.texts[7:]) == sorted(released.texts[7:])


def test_leakage(trained: BPE) -> None:
    same = np.arange(trained.vocab_size, dtype=np.uint32)
    assert leakage(trained, same).id_order == 1
    assert leakage(trained, same[::-1]).id_order == -1
    _, permutation = export_unordered(trained, seed=0)
    left = leakage(trained, permutation)
    assert abs(left.id_order) < 0.3
    assert left.token_length == leakage(trained, same).token_length > 0.3  # the report shows what is not hidden


def test_leakage_by_its_definitions(trained: BPE) -> None:
    _, permutation = export_unordered(trained, seed=4)
    order = np.arange(263, trained.vocab_size)
    pairs = list(combinations(permutation[order].tolist(), 2))
    left = leakage(trained, permutation)
    assert left.id_order == pytest.approx(sum(1 if a < b else -1 for a, b in pairs) / len(pairs))
    lengths = trained.token_lengths[order]
    ranks = [(lengths < length).sum() + ((lengths == length).sum() + 1) / 2 for length in lengths]
    assert left.token_length == pytest.approx(np.corrcoef(ranks, order)[0, 1])


def test_a_tokenizer_without_order(trained: BPE) -> None:
    with pytest.raises(InvalidInputError, match="no merge order"):
        leakage(byte_tokenizer(), np.arange(263, dtype=np.uint32))
    pairs = BPE([(7, 7), (8, 8)])
    assert leakage(pairs, np.arange(265, dtype=np.uint32)).token_length == 0


def test_files(trained: BPE, tmp_path) -> None:
    released, _ = export_unordered(trained, seed=2)
    released.save(tmp_path / "set.json")
    assert TokenSet.load(tmp_path / "set.json") == released
    (tmp_path / "other.json").write_text('{"format": "other"}')
    (tmp_path / "list.json").write_text("[]")
    for name in ("other.json", "list.json"):
        with pytest.raises(InvalidInputError, match="no token set"):
            TokenSet.load(tmp_path / name)
    text = (tmp_path / "set.json").read_text()
    (tmp_path / "damaged.json").write_text(text.replace('"<|mask|>": 6', '"<|mask|>": 99999'))
    with pytest.raises(InvalidInputError, match="special token"):
        TokenSet.load(tmp_path / "damaged.json")
    with pytest.raises(FileError):
        TokenSet.load(tmp_path / "missing.json")
