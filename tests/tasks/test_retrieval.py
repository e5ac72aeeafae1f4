import pytest

from byteloom.tasks.retrieval import bm25, words


def test_words_are_runs_of_letters_and_digits() -> None:
    assert words("def load_Model2(Größe):".encode()) == [b"def", b"load", b"model2", "größe".encode()]
    assert words(b" ,;\n") == []


def test_the_text_with_the_rare_word_comes_first() -> None:
    texts = [b"the cat sat on the mat", b"the dog ran", b"a zebra and the dog", b""]
    scores = bm25(b"the zebra", texts)
    assert scores.index(max(scores)) == 2 and scores[3] == 0
    assert bm25(b"unknown", texts) == [0, 0, 0, 0] and bm25(b"x", []) == []


def test_the_score_is_that_of_the_definition() -> None:
    scores = bm25(b"cat", [b"cat cat dog", b"dog"])
    rare = 0.6931471805599453  # log(1 + 1.5 / 1.5)
    assert scores == [pytest.approx(rare * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2))), 0]
    # Saying a word again helps less and less, and long texts have it more easily.
    once, twice, long = bm25(b"cat", [b"cat", b"cat cat", b"cat " + b"dog " * 20])
    assert once < twice < 2 * once and long < once
