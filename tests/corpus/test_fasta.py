import bz2
import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.corpus import Corpus, SequenceRecord, Skipped, fasta, read_fasta
from byteloom.corpus.fasta import sequence_kind, sequences
from byteloom.errors import FileError, InvalidInputError
from tests.corpus import samples

FASTA = b">one first\nACGTACGTAC\nGTac\n\n;comment\n>two\r\nacgur-n\r\n>three\nTTTT"
FASTQ = b"@a/1 x\nACGTA\n+\nIIII@\n@b\nacgun\n+b\n@@@@@\n\n"
PROTEIN = b"MKLVFFAEDVGSNKGAIIGLMVGGVVIATPQLE" * 3


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _found(corpus: Corpus) -> dict[str, bytes]:
    return {Path(document.name).name: bytes(document.data) for document in corpus}


def test_fasta(tmp_path: Path) -> None:
    records = list(read_fasta(_write(tmp_path / "a.fa", FASTA)))
    assert [(r.name, r.seq, r.qual, r.line) for r in records] == [
        ("one", b"ACGTACGTACGTAC", None, 1),
        ("two", b"ACGTNNN", None, 6),
        ("three", b"TTTT", None, 8),
    ]
    assert not any(record.foreign for record in records)


def test_fastq(tmp_path: Path) -> None:
    assert list(read_fasta(_write(tmp_path / "a.fq", FASTQ))) == [
        SequenceRecord("a/1", b"ACGTA", b"IIII@", 1),
        SequenceRecord("b", b"ACGTN", b"@@@@@", 5),
    ]


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lambda data: gzip.compress(FASTA[:9]) + gzip.compress(FASTA[9:])]
)
def test_compressed(tmp_path: Path, compress) -> None:
    plain = list(read_fasta(_write(tmp_path / "a.fa", FASTA)))
    assert list(read_fasta(_write(tmp_path / "b", compress(FASTA)))) == plain


def test_every_letter_has_its_place() -> None:
    letters = b"ACGTUacgtuRYSWKMBDHVNryswkmbdhvn-."
    (record,) = sequences(io.BytesIO(b">x\n" + letters), "fasta")
    assert record == SequenceRecord("x", b"ACGTTACGTT" + b"N" * 24, None, 1)


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.text("abz09|._", min_size=1), st.binary().map(lambda b: bytes(b"ACGTN"[x % 5] for x in b))),
        min_size=1,
    ),
    st.integers(1, 7),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_what_is_written_is_read(records: list[tuple[str, bytes]], width: int, newline: bytes) -> None:
    text = b"".join(
        b">" + name.encode() + newline + b"".join(seq[i : i + width] + newline for i in range(0, len(seq), width))
        for name, seq in records
    )
    assert [(r.name, r.seq) for r in sequences(io.BytesIO(text), "fasta")] == records
    text = b"".join(newline.join([b"@" + n.encode(), s, b"+", b"I" * len(s), b""]) for n, s in records)
    assert [(r.name, r.seq, r.qual) for r in sequences(io.BytesIO(text), "fastq")] == [
        (n, s, b"I" * len(s)) for n, s in records
    ]


FASTQ_PARTS = [b"@", b"@a b", b"+", b"+a", b"ACGT", b"acgu", b"RYN-", b"AC*G", b"MKLE", b"IIII", b"III", b" ", b""]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(FASTQ_PARTS), max_size=24), st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 40))
def test_blocks_of_fastq_are_what_its_records_are_one_by_one(parts: list[bytes], newline: bytes, block: int) -> None:
    text = newline.join(parts)

    def found(read: Callable[[], Iterator[SequenceRecord]]) -> list[SequenceRecord | str]:
        records: list[SequenceRecord | str] = []
        try:
            records.extend(read())
        except ValueError as error:
            records.append(str(error))
        return records

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta, "_BLOCK", block)
        assert found(lambda: sequences(io.BytesIO(text), "fastq")) == found(
            lambda: fasta._any_records(text.split(b"\n"), 1)
        )


def test_a_fastq_record_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fasta, "_BLOCK", 8)
    monkeypatch.setattr(fasta, "SEQUENCE_LIMIT", 30)
    text = b"@a\nAC\n+\nII\n@b\n" + b"ACGT" * 20
    with pytest.raises(ValueError, match="line 5: a record of more than"):
        list(sequences(io.BytesIO(text), "fastq"))


@given(st.sampled_from(["fasta", "fastq"]), st.binary() | st.text(">@+ACGT\n").map(str.encode))
def test_any_bytes_give_records_or_a_sentence(kind: str, data: bytes) -> None:
    try:
        for record in sequences(io.BytesIO(data), kind):
            assert set(record.seq) <= set(b"ACGTN")
    except ValueError as error:
        assert str(error).startswith("line ")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"ACGT\n", "line 1: a sequence without a header"),
        (b"", "no records"),
        (b"@a\nACGT\n+\nIII\n", "line 4: 3 qualities for 4 bases"),
        (b"@a\nACGT\n+\nIIII\n@b\nAC", "line 5: not a FASTQ record"),
        (b"@a\nACGT\nACGT\nIIII\n", "line 1: not a FASTQ record"),
        (b">p\n" + PROTEIN, "line 1: p looks like protein"),
    ],
)
def test_malformed_files_name_the_line(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        list(read_fasta(_write(tmp_path / "a", content)))


def test_foreign_letters_become_n_or_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.fa", b">x\nACGTACGTACGT*7\n")
    (record,) = read_fasta(path)
    assert (record.seq, record.foreign) == (b"ACGTACGTACGTNN", 2)
    with pytest.raises(InvalidInputError, match="2 characters that are no nucleotide codes, in the record of line 1"):
        list(read_fasta(path, strict=True))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        list(read_fasta(tmp_path / "none"))
    with pytest.raises(FileError, match="end-of-stream"):
        list(read_fasta(_write(tmp_path / "a.gz", gzip.compress(FASTA)[:-20])))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (FASTA, "fasta"),
        (FASTA[:25], "fasta"),
        (FASTQ, "fastq"),
        (b"@a\n" + b"ACGT" * 200, "fastq"),
        (b">p\n" + PROTEIN, None),
        (b"> Thanks for the quick answer\nThat is what I meant.\n", None),
        (b"@echo off\ncat file\n", None),
        (b"@cat\nattach\nself\n", None),
        (b">only a header", None),
        (b"ACGT", None),
        (b"", None),
    ],
)
def test_recognised_by_content(head: bytes, kind: str | None) -> None:
    assert sequence_kind(head) == kind


# In a corpus


def test_records_are_documents(tmp_path: Path) -> None:
    _write(tmp_path / "a.fa", FASTA)
    _write(tmp_path / "b.fastq.gz", gzip.compress(FASTQ))
    _write(tmp_path / "c.zip", samples.zipped({"d.fna": b">z\nGGGGG\n"}))
    _write(tmp_path / "p.faa", b">p\n" + PROTEIN)
    found = {document.name[len(str(tmp_path)) + 1 :]: bytes(document.data) for document in Corpus([tmp_path])}
    assert found == {
        "a.fa!one": b"ACGTACGTACGTAC",
        "a.fa!two": b"ACGTNNN",
        "a.fa!three": b"TTTT",
        "b.fastq.gz!b.fastq!a/1": b"ACGTA",
        "b.fastq.gz!b.fastq!b": b"ACGTN",
        "c.zip!d.fna!z": b"GGGGG",
        "p.faa": b">p\n" + PROTEIN,
    }


def test_off_with_archives_or_a_field(tmp_path: Path) -> None:
    _write(tmp_path / "a.fa", FASTA)
    assert _found(Corpus([tmp_path], archives=False)) == {"a.fa": FASTA}
    corpus = Corpus([tmp_path], field="text")
    assert _found(corpus) == {}
    assert corpus.filtered["field"] == 1


def test_filters_apply_to_records(tmp_path: Path) -> None:
    _write(tmp_path / "a.fa", b">a\nACGT\n>b\nACGTACGT\n>c\nacgt\n>d\nACGTACGTACGT\n")
    corpus = Corpus([tmp_path], min_size=4, max_size=8)
    assert _found(corpus) == {"a.fa!a": b"ACGT", "a.fa!b": b"ACGTACGT"}
    assert corpus.filtered == {"duplicate": 1, "max_size": 1}


def test_bad_records_are_skipped_or_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.fq", b"@a\nACGT\n+\nIII\n@b\nAC\n+\nI\n@c\nACGTAAAA*\n+\nIIIIIIIII\n@d\nA")
    corpus = Corpus([path])
    assert _found(corpus) == {"a.fq!c": b"ACGTAAAAN"}
    assert corpus.skipped == [
        Skipped(str(path), "line 4: 3 qualities for 4 bases; 1 more like it"),
        Skipped(str(path), "1 character that is no nucleotide code became N"),
        Skipped(
            str(path), "damaged fastq file: line 13: not a FASTQ record of four lines, @name, bases, + and qualities"
        ),
    ]
    with pytest.raises(FileError, match=r"a\.fq!a: line 4: 3 qualities"):
        list(Corpus([path], strict=True))
    with pytest.raises(FileError, match=r"b\.fa!x: 1 character"):
        list(Corpus([_write(tmp_path / "b.fa", b">x\nACGTACGTACGT*\n")], strict=True))
