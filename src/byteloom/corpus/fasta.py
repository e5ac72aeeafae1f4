"""FASTA and FASTQ: nucleotide sequences without their line breaks, streamed, plain or compressed.

Letters follow one rule, so that equal sequences are equal bytes: soft-masked lower case becomes upper case, U becomes
T, and everything else that is not A, C, G or T, the ambiguity codes of IUPAC among it, becomes N.
Cost: about 300 MB/s of FASTA and 500 MB/s of FASTQ, 400 from gzip; memory of one record or block.

>>> import io
>>> list(sequences(io.BytesIO(b">phage first\\nACGT\\nacgu\\n"), "fasta"))
[SequenceRecord(name='phage', seq=b'ACGTACGT', qual=None, line=1, foreign=0, problem='')]
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from itertools import repeat, zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from byteloom.corpus.archives import ARCHIVE_ERRORS, HEAD_BYTES, archive_kind, members
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath

SEQUENCE_LIMIT = 1 << 30  # bases of one record
_BLOCK = 1 << 18  # bytes read at once; its lines stay in the second-level cache

_IUPAC = b"ACGTURYSWKMBDHVN"
_SPACE = b" \t\r\n\v\f"
_CODES = _IUPAC + _IUPAC.lower() + b"-."  # - and . are gaps
_KNOWN = _CODES + _SPACE  # what may stand in a sequence
_FOLD = bytes({"A": 65, "C": 67, "G": 71, "T": 84, "U": 84}.get(chr(byte).upper(), 78) for byte in range(256))
_PLAIN = b"ACGTUNacgtun"
_PLAIN_SHARE = 0.75  # of the letters that a file begins with; protein and English have about 0.3
_PROTEIN = b"EFILPQXZJOefilpqxzjo"  # amino acids that are no nucleotide codes: a third of a protein
_PROTEIN_SHARE = 0.1


class SequenceRecord(NamedTuple):
    """One record. seq: of A, C, G, T and N. qual: as in the file, a byte a base, None in FASTA. line: of the header.

    foreign: how many characters became N that are neither nucleotide codes nor gaps. problem: why the record cannot
    be used (`seq` is empty then), else "".
    """

    name: str
    seq: bytes
    qual: bytes | None
    line: int
    foreign: int = 0
    problem: str = ""


def sequence_kind(head: bytes) -> str | None:
    """ "fasta" or "fastq" when a file that begins with `head` (some hundred bytes) holds nucleotides, else None."""
    lines = head.split(b"\n")
    if head.startswith(b">"):
        return "fasta" if _is_plain(b"".join(line for line in lines if not line.startswith((b">", b";")))) else None
    if head.startswith(b"@") and len(lines) > 1 and _is_plain(lines[1]):
        return "fastq" if len(lines) == 2 or lines[2][:1] in (b"+", b"") else None
    return None


def sequences(stream: BinaryIO, kind: str) -> Iterator[SequenceRecord]:
    """The records of a FASTA or FASTQ stream in file order; one that cannot be used carries its `problem`.

    Raises ValueError, naming the line, where the structure of the file ends: no header, a FASTQ record of fewer than
    four lines, a record above SEQUENCE_LIMIT.
    """
    return _fasta(stream) if kind == "fasta" else _fastq(stream)


def read_fasta(path: StrPath, *, strict: bool = False) -> Iterator[SequenceRecord]:
    """The records of one FASTA or FASTQ file, plain or compressed, told by content.

    strict: a character that is neither a nucleotide code nor a gap is an error instead of N. Raises InvalidInputError
    with file and line for anything malformed, for protein, and when there is no record; FileError when the file
    cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            archive = archive_kind(head)
            if archive is None:
                yield from _checked(file, path, strict)
            else:
                for member in members(file, archive, Path(path).name):
                    stream = io.BufferedReader(cast(io.RawIOBase, member.open()), 1 << 18)
                    yield from _checked(cast(BinaryIO, stream), path, strict)
    except InvalidInputError:
        raise
    except ARCHIVE_ERRORS as error:
        raise FileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _checked(stream: BinaryIO, path: StrPath, strict: bool) -> Iterator[SequenceRecord]:
    first = stream.peek(1)[:1]  # type: ignore[attr-defined]
    found = False
    try:
        for record in sequences(stream, "fastq" if first == b"@" else "fasta"):
            found = True
            if record.problem or (strict and record.foreign):
                raise ValueError(
                    record.problem or f"{foreign_letters(record.foreign)}, in the record of line {record.line}"
                )
            yield record
    except ValueError as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error
    if not found:
        raise InvalidInputError(f"cannot read {path}: it has no records; give a FASTA or FASTQ file with some")


def foreign_letters(count: int) -> str:
    """What to call `count` characters that are neither codes nor gaps."""
    return (
        "1 character that is no nucleotide code" if count == 1 else f"{count} characters that are no nucleotide codes"
    )


def _is_plain(letters: bytes) -> bool:
    letters = letters.translate(None, _SPACE)
    return bool(letters) and len(letters) - len(letters.translate(None, _PLAIN)) >= _PLAIN_SHARE * len(letters)


def _fasta(stream: BinaryIO) -> Iterator[SequenceRecord]:
    header: bytes | None = None
    parts: list[bytes] = []
    start = size = 0
    for number, line in enumerate(iter(partial(stream.readline, SEQUENCE_LIMIT), b""), 1):
        if line.startswith(b">"):
            if header is not None:
                yield _record(header, b"".join(parts), start)
            header, parts, start, size = line, [], number, 0
        elif header is not None:
            if not line.startswith(b";"):  # a comment
                parts.append(line)
                size += len(line)
                if size >= SEQUENCE_LIMIT:
                    raise ValueError(f"line {start}: a record of more than {SEQUENCE_LIMIT >> 30} GiB")
        elif not line.isspace() and not line.startswith(b";"):
            raise ValueError(f"line {number}: a sequence without a header, which begins with >")
    if header is not None:
        yield _record(header, b"".join(parts), start)


def _fastq(stream: BinaryIO) -> Iterator[SequenceRecord]:
    start = 1
    tail = b""
    while block := stream.read(max(_BLOCK, len(tail))):  # a long record doubles the block until it fits
        lines = (tail + block).split(b"\n")
        whole = (len(lines) - 1) // 4 * 4
        tail = b"\n".join(lines[whole:])
        if len(tail) > SEQUENCE_LIMIT:
            raise ValueError(f"line {start + whole}: a record of more than {SEQUENCE_LIMIT >> 30} GiB")
        yield from _plain_records(lines[:whole], start) or _any_records(lines[:whole], start)
        start += whole
    if tail:
        yield from _any_records(tail.split(b"\n"), start)


def _plain_records(lines: list[bytes], start: int) -> Iterator[SequenceRecord] | None:
    """The records of `lines`, from line `start` on, judged all at once; None when one of them needs a closer look."""
    headers, bases, plus, quality = (lines[i::4] for i in range(4))
    letters = b"".join(bases)
    names = b"\n".join(headers).split(b"\n@")
    if (
        letters.translate(None, _CODES)
        or set(plus) != {b"+"}
        or len(names) != len(headers)
        or not names[0].startswith(b"@")
        or list(map(len, bases)) != list(map(len, quality))
    ):
        return None
    if letters.translate(None, b"ACGTN"):
        bases = [line.translate(_FOLD) for line in bases]
    names[0] = names[0][1:]
    named = map(_name, names, range(start, start + len(lines), 4))
    fields = zip(named, bases, quality, range(start, start + len(lines), 4), repeat(0), repeat(""))
    return map(partial(tuple.__new__, SequenceRecord), fields)


def _any_records(lines: list[bytes], start: int) -> Iterator[SequenceRecord]:
    """The records of `lines`, one by one; groups of blank lines are passed over."""
    for header, letters, plus, quality in zip_longest(*(lines[i::4] for i in range(4)), fillvalue=b""):
        if not (header.startswith(b"@") and plus.startswith(b"+")):
            if (header + letters + plus + quality).strip():
                raise ValueError(f"line {start}: not a FASTQ record of four lines, @name, bases, + and qualities")
        else:
            quality = quality.rstrip(b"\r")
            record = _record(header, letters, start, quality)
            if len(quality) != len(record.seq) and not record.problem:
                what = f"line {start + 3}: {len(quality)} qualities for {len(record.seq)} bases"
                record = record._replace(seq=b"", problem=what)
            yield record
        start += 4


def _name(header: bytes, line: int) -> str:
    """The first word of a header without its mark."""
    words = header.split(None, 1)
    return words[0].decode("utf-8", "backslashreplace") if words else f"#{line}"


def _record(header: bytes, letters: bytes, line: int, qual: bytes | None = None) -> SequenceRecord:
    name = _name(header[1:], line)
    seq = letters.translate(_FOLD, _SPACE)
    if foreign := len(letters.translate(None, _KNOWN)):
        protein = len(letters) - len(letters.translate(None, _PROTEIN))
        if protein > _PROTEIN_SHARE * len(seq):
            what = f"line {line}: {name} looks like protein, not nucleotides"
            return SequenceRecord(name, b"", None, line, problem=what)
    return SequenceRecord(name, seq, qual, line, foreign)
