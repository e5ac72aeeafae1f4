import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from byteloom.bench import agglutinative, subword_asr
from byteloom.bench.result import Result
from byteloom.errors import FileError


@pytest.fixture(scope="module")
def result() -> Result:
    return subword_asr.run("smoke")


def test_subwords_recognise_what_words_cannot(result: Result) -> None:
    rows = {row["system"]: row for row in result.rows if row["table"] == "Sentences"}
    assert rows[subword_asr.LISTED]["unseen words wrong, separation 2"] == 1
    assert rows["BPE 150"]["WER, separation 2"] < rows[subword_asr.LISTED]["WER, separation 2"]
    assert rows["BPE 150"]["pieces/word"] > 1


def test_dictionaries_cut_where_suffixes_begin_more_often_than_chance(result: Result) -> None:
    rows = [row for row in result.rows if str(row["table"]).startswith("Cuts")]
    assert len(rows) == 3
    for row in rows:
        assert row["found (%)"] > row["found by as many random cuts (%)"]


def test_boundaries_by_hand() -> None:
    def halves(words: Sequence[str]) -> list[list[str]]:
        return [[word[:2], word[2:]] for word in words]

    forms = [("abx", "abcd"), ("ab", "abcd"), ("abcd", "abcd"), ("q", "abcd"), ("abc", "abcd")]
    hits, expected, count = subword_asr.boundary_hits(halves, forms, "codepoint")
    assert (hits, expected, count) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 3)


def test_without_files_the_notes_say_so_and_nothing_is_promised(result: Result) -> None:
    assert "invented language" in result.notes[0]
    assert all(figure.met is None for figure in result.numbers.values())


def test_files_are_found_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert agglutinative.indic_texts(tmp_path) is None
    folder = tmp_path / "indic-text"
    folder.mkdir()
    texts = {agglutinative.SENTENCES: "a b\n", agglutinative.TAMIL: "a\n", agglutinative.KANNADA: "c\n"}
    for name, text in (texts | {agglutinative.FORMS: "a\tab\tN\n"}).items():
        (folder / name).write_bytes(gzip.compress(text.encode()))
    for place in (tmp_path, folder):
        found = agglutinative.indic_texts(place)
        assert found is not None
        assert (found.sentences, found.words, found.isolated, found.forms) == (["a b"], ["a"], ["c"], [("a", "ab")])
    (folder / agglutinative.TAMIL).write_bytes(b"no gzip")
    with pytest.raises(FileError, match=agglutinative.TAMIL):
        agglutinative.indic_texts(tmp_path)
