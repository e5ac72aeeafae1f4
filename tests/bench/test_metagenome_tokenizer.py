import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteloom.bench import metagenome_tokenizer
from byteloom.bench.metagenome_tokenizer import KMers
from byteloom.bench.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("byteloom.tasks.small_models.usable_cores", lambda: 1)
        return metagenome_tokenizer.run("smoke")


def test_every_part_is_measured(result: Result) -> None:
    assert {row["table"] for row in result.rows} == {
        "Vocabularies",
        "Encoding on one thread",
        "Reading FASTQ.gz",
        "Packing into rows of 512",
        "Training on reads of 100 to 300 bases, rows of 256",
        "One model for each tokenization",
    }
    assert all(figure.met is None for figure in result.numbers.values())
    assert any("Markov" in note for note in result.notes)
    assert any("not compared" in note for note in result.notes)


def test_packed_and_padded_losses_agree(result: Result) -> None:
    assert result.numbers["packed training: loss over padded, less one"].value < 1e-4


def test_models_have_seen_the_same_bases(result: Result) -> None:
    seen = [row["bases seen"] for row in result.rows if row["table"] == "One model for each tokenization"]
    assert len(seen) == 3
    assert max(seen) < 1.2 * min(seen)


@given(st.text("ACGTN").map(str.encode))
def test_words_of_bases_decode(text: bytes) -> None:
    words = KMers(3)
    ids = words.encode(text)
    assert words.decode(ids) == text
    assert len(ids) <= len(text)
    if b"N" not in text:
        assert len(ids) == len(text) // 3 + len(text) % 3
