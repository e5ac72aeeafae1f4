"""A corpus: documents from files, folders, globs, archives, FASTA and record files, filtered, deduplicated, streamed.

Use it wherever bytes come in. Memory is one document (large files are mapped) and one SHA-256 a document kept.
"""

from __future__ import annotations

import copy
import glob
import hashlib
import io
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from byteloom.corpus.archives import ARCHIVE_ERRORS, HEAD_BYTES, MEMBER_LIMIT, archive_kind, members
from byteloom.corpus.documents import Document
from byteloom.corpus.fasta import foreign_letters, sequence_kind, sequences
from byteloom.corpus.formats import FORMATS, possible_formats, recognise
from byteloom.corpus.records import record_kind, records
from byteloom.errors import ByteloomError, FileError, InvalidInputError
from byteloom.files import StrPath, open_bytes

_NESTING = 2  # an archive and one archive inside it are opened
_ENOUGH = 0.99  # a sample that has this share of the wanted bytes is complete


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or member that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Source:
    """A regular file on disk. key: its path below the named folder, the same wherever that folder lies."""

    path: str
    key: str
    size: int

    @property
    def name(self) -> str:
        return _printable(self.path)


class Corpus:
    """Documents found under `paths`, streamed in a fixed order: paths sorted, folders walked in sorted order.

    paths: files, folders (walked; links to files are followed, links to folders are not), glob patterns (with "**").
    formats: names of byteloom.corpus.FORMATS to keep, all when None; "mach-o" takes fat files too.
    min_size, max_size: bytes of a document; an archive member above max_size is never unpacked whole.
    entropy: (lowest, highest) order-0 entropy to keep, bits per byte; (0.0, 7.2) keeps packed content out.
    dedup: keep the first of documents with equal SHA-256.
    archives: read archives (byteloom.corpus.archives) and the nucleotide sequences of FASTA and FASTQ files
        (byteloom.corpus.fasta) instead of taking the files as documents; an APK is taken as one document when "apk"
        is among `formats`.
    field: take this field of the records of JSONL and Parquet files (also inside archives), and nothing else.
    strict: raise FileError at the first file or member that cannot be read, instead of recording it in `skipped`.

    `skipped` (what could not be read) and `filtered` (how many documents each filter kept out) tell about the latest
    pass, `visited_bytes` how many of the `size_on_disk()` bytes it has come past.
    Raises InvalidInputError for unusable arguments and FileError for a path that does not exist.

    >>> for document in Corpus(["/usr/bin"], formats=["elf"]):
    ...     print(document.name, document.info.architecture)
    """

    def __init__(
        self,
        paths: StrPath | Iterable[StrPath],
        *,
        formats: Collection[str] | None = None,
        min_size: int = 1,
        max_size: int | None = None,
        entropy: tuple[float, float] | None = None,
        dedup: bool = True,
        archives: bool = True,
        field: str | None = None,
        strict: bool = False,
    ) -> None:
        self._roots = _roots([paths] if isinstance(paths, (str, os.PathLike)) else paths)
        self._formats = _checked_formats(formats)
        if max_size is not None and max_size < min_size:
            raise InvalidInputError(f"max_size ({max_size}) must not be below min_size ({min_size})")
        if entropy is not None and not 0.0 <= entropy[0] <= entropy[1]:
            raise InvalidInputError(f"entropy must be (lowest, highest) in bits per byte, not {entropy}")
        self._min_size = min_size
        self._max_size = max_size
        self._entropy = entropy
        self._dedup = dedup
        self._archives = archives
        self._field = field
        self._strict = strict
        self._keep: tuple[Callable[[Document], bool], ...] = ()
        self._forget()

    def _forget(self) -> None:
        self.skipped: list[Skipped] = []
        self.filtered: Counter[str] = Counter()
        self.visited_bytes = 0

    def __iter__(self) -> Iterator[Document]:
        self._forget()
        seen: set[str] = set()
        for source in self._sources():
            yield from self._documents(source, seen)
            self.visited_bytes += source.size

    def size_on_disk(self) -> int:
        """Bytes of all files that a pass looks at, before any filter and unpacking; reads no content."""
        return sum(source.size for source in copy.copy(self)._sources())

    def split(self, validation: float = 0.1) -> tuple[Corpus, Corpus]:
        """(training, validation) parts; about the share `validation` of the documents is in the second.

        A document's side follows from its own SHA-256 alone, so it stays when files are added, renamed or removed.
        """
        if not 0.0 < validation < 1.0:
            raise InvalidInputError(f"validation must lie between 0 and 1, not {validation}")
        return (
            self._narrowed(lambda document: _position("split", document.sha256) >= validation),
            self._narrowed(lambda document: _position("split", document.sha256) < validation),
        )

    def sample(self, total_bytes: int, seed: int = 0) -> Corpus:
        """A part of about `total_bytes` bytes, never more, the same for the same files and `seed`.

        Files are put in the order of a hash of `seed` and their path below the named folder, sizes known and contents
        unread; then they are read in that order, one at a time, until the sum is within 1% of the wanted bytes. A
        document that does not fit in what is left is passed over; an archive or record file that does not fit gives
        a part of its members, chosen by their SHA-256.
        Raises InvalidInputError when no document fits.
        """
        left = total_bytes
        seen: set[str] = set()
        paths: list[str] = []
        digests: set[str] = set()
        reader = copy.copy(self)
        reader._forget()
        for source in sorted(reader._sources(), key=lambda source: _position(str(seed), source.key)):
            share = min(1.0, left / max(source.size, 1))
            reader._max_size = left if self._max_size is None else min(left, self._max_size)
            for document in reader._documents(source, seen):
                if document.size <= left and _position(str(seed), document.sha256) < share:
                    left -= document.size
                    digests.add(document.sha256)
                    if source.path not in paths[-1:]:
                        paths.append(source.path)
            if left < (1 - _ENOUGH) * total_bytes:
                break
        if not paths:
            raise reader.nothing_found(f"of at most {total_bytes} bytes")
        sampled = self._narrowed(lambda document: document.sha256 in digests)
        sampled._roots = sorted(paths)
        return sampled

    def nothing_found(self, wanted: str = "that fits the filters") -> InvalidInputError:
        """The error to raise when a pass gave no document; it says what the pass met instead."""
        met = [f"{count} kept out by {name}" for name, count in self.filtered.most_common()]
        if self.skipped:
            met.append(f"{len(self.skipped)} unreadable, the first because: {self.skipped[0].reason}")
        where = ", ".join(map(_printable, self._roots[:3])) + (", ..." if len(self._roots) > 3 else "")
        instead = "; ".join(met) or "no files there"
        return InvalidInputError(f"no document {wanted} in {where} ({instead}); check the path or loosen the filters")

    def _narrowed(self, keep: Callable[[Document], bool]) -> Corpus:
        part = copy.copy(self)
        part._keep = (*self._keep, keep)
        part._forget()
        return part

    def _skip(self, name: str, reason: str) -> None:
        if self._strict:
            raise FileError(f"cannot read {name}: {reason}")
        self.skipped.append(Skipped(name, reason))

    # --- files ------------------------------------------------------------------------------------------------

    def _sources(self) -> Iterator[_Source]:
        """Regular files under the roots; a file reached twice, by links or overlapping roots, comes once if `dedup`."""
        seen: set[tuple[int, int]] = set()
        for root in self._roots:
            for path, key in self._walk(root):
                try:
                    status = os.stat(path)  # noqa: PTH116 - a Path for each of 100,000 files takes seconds
                except OSError as error:
                    if not os.path.islink(path):  # noqa: PTH114 - a dangling link is no file at all
                        self._skip(_printable(path), _reason(error))
                    continue
                if not stat.S_ISREG(status.st_mode):
                    if path == root:
                        self._skip(_printable(path), "not a regular file")
                    continue
                identity = (status.st_dev, status.st_ino)
                if self._dedup and identity in seen:
                    continue
                seen.add(identity)
                yield _Source(path, key, status.st_size)

    def _walk(self, root: str) -> Iterator[tuple[str, str]]:
        """Files below `root`, each with its path from there; `root` itself when it is no folder."""
        if not Path(root).is_dir():
            yield root, Path(root).name
            return

        def unreadable(error: OSError) -> None:
            self._skip(_printable(error.filename), _reason(error))

        for folder, folders, files in os.walk(root, onerror=unreadable):
            folders.sort()
            below = folder[len(root) :].replace(os.sep, "/").lstrip("/")
            for name in sorted(files):
                yield os.path.join(folder, name), f"{below}/{name}"  # noqa: PTH118

    # --- what is in a file ------------------------------------------------------------------------------------

    def _documents(self, source: _Source, seen: set[str]) -> Iterator[Document]:
        """The documents of one file that pass all filters."""
        for document in self._unfiltered(source):
            if self._passes(document, seen):
                yield document

    def _unfiltered(self, source: _Source) -> Iterator[Document]:
        try:
            with Path(source.path).open("rb") as file:
                head = file.read(HEAD_BYTES)
                file.seek(0)
                if self._is_container(head):
                    if self._is_wanted_apk(head, source):
                        yield from self._whole_file(source)
                    else:
                        yield from self._contents(file, head, source.name, depth=0)
                    return
        except ByteloomError:
            raise
        except OSError as error:
            self._skip(source.name, _reason(error))
            return
        if self._field is not None:
            self.filtered["field"] += 1
        elif self._has_size(source.size) and self._may_have_format(head):
            yield from self._whole_file(source)

    def _whole_file(self, source: _Source) -> Iterator[Document]:
        try:
            data = open_bytes(source.path)
        except FileError as error:
            self._skip(source.name, str(error).removeprefix(f"cannot read {source.path}: "))
            return
        if len(data) < source.size:
            self._skip(source.name, "it shrank while it was read")
            return
        yield Document(source.name, data, Path(source.path))

    def _is_container(self, head: bytes) -> bool:
        return bool((self._archives and archive_kind(head)) or self._record_kind(head))

    def _record_kind(self, head: bytes) -> str | None:
        """The kind of a file of records that are documents: those of a named field, else nucleotide sequences."""
        if self._field is not None:
            return record_kind(head)
        return sequence_kind(head) if self._archives else None

    def _is_wanted_apk(self, head: bytes, source: _Source) -> bool:
        wanted = self._formats is not None and "apk" in self._formats and archive_kind(head) == "zip"
        try:
            return wanted and recognise(open_bytes(source.path)) == "apk"
        except FileError:  # reading its members will fail and say so
            return False

    def _contents(self, stream: BinaryIO, head: bytes, name: str, depth: int) -> Iterator[Document]:
        """The documents in an archive or record file; damage is recorded where it is met."""
        kind = self._record_kind(head)
        archive = archive_kind(head) if self._archives and kind is None else None
        try:
            if depth and (kind == "parquet" or archive in ("zip", "ar")):  # these seek; a member is a one-way stream
                stream = io.BytesIO(_bounded_read(stream, MEMBER_LIMIT))
            if kind in ("fasta", "fastq"):
                yield from self._sequences(stream, kind, name)
            elif kind is not None:
                yield from self._records(stream, kind, name)
            else:
                for member in members(stream, archive or "", name):
                    yield from self._member(member.open, member.size, f"{name}!{member.name}", depth + 1)
        except ByteloomError:
            raise
        except ARCHIVE_ERRORS as error:
            self._skip(name, f"damaged {archive or kind} file: {_reason(error)}")

    def _records(self, stream: BinaryIO, kind: str, name: str) -> Iterator[Document]:
        problems: Counter[str] = Counter()
        for number, data, problem in records(stream, kind, self._field or ""):
            if data is None:
                if self._strict:
                    self._skip(f"{name}#{number}", problem)
                problems[problem] += 1
            elif self._has_size(len(data)):
                yield Document(f"{name}#{number}", data)
        for problem, count in problems.items():  # one entry a kind of problem: a file can have millions of records
            self._skip(name, f"{problem} in {count} record{'s' * (count > 1)}")

    def _sequences(self, stream: BinaryIO, kind: str, name: str) -> Iterator[Document]:
        foreign, problems = 0, []
        try:
            for record in sequences(stream, kind):
                problem = record.problem or (foreign_letters(record.foreign) if self._strict and record.foreign else "")
                if problem:
                    if self._strict:
                        self._skip(f"{name}!{record.name}", problem)
                    problems.append(problem)
                elif self._has_size(len(record.seq)):
                    foreign += record.foreign
                    yield Document(f"{name}!{record.name}", record.seq)
        finally:  # a damaged file has them too; one entry a kind of problem, since a file can have millions of records
            if problems:
                self._skip(name, problems[0] + (f"; {len(problems) - 1} more like it" if problems[1:] else ""))
            if foreign:
                self._skip(name, f"{foreign_letters(foreign)} became N")

    def _member(
        self, open_member: Callable[[], BinaryIO], size: int | None, name: str, depth: int
    ) -> Iterator[Document]:
        try:
            stream = io.BufferedReader(cast(io.RawIOBase, open_member()), 1 << 16)
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
            if depth < _NESTING and self._is_container(head):
                yield from self._contents(cast(BinaryIO, stream), head, name, depth)
                return
            if self._field is not None:
                self.filtered["field"] += 1
                return
            if (size is not None and not self._has_size(size)) or not self._may_have_format(head):
                return
            data = _bounded_read(cast(BinaryIO, stream), min(self._max_size or MEMBER_LIMIT, MEMBER_LIMIT))
        except ByteloomError:
            raise
        except _TooLargeError as error:
            if self._max_size is not None:
                self.filtered["max_size"] += 1
            else:
                self._skip(name, str(error))
            return
        except ARCHIVE_ERRORS as error:
            self._skip(name, f"cannot unpack it: {_reason(error)}")
            return
        if size is not None and len(data) < size:
            self._skip(name, "cannot unpack it: it ends early")
        elif size is not None or self._has_size(len(data)):
            yield Document(name, data)

    # --- filters ----------------------------------------------------------------------------------------------

    def _has_size(self, size: int) -> bool:
        if size < self._min_size:
            self.filtered["min_size"] += 1
        elif self._max_size is not None and size > self._max_size:
            self.filtered["max_size"] += 1
        else:
            return True
        return False

    def _may_have_format(self, head: bytes) -> bool:
        if self._formats is None or self._formats & possible_formats(head):
            return True
        self.filtered["format"] += 1
        return False

    def _passes(self, document: Document, seen: set[str]) -> bool:
        if self._formats is not None and document.format not in self._formats:
            self.filtered["format"] += 1
            return False
        if self._entropy is not None and not self._entropy[0] <= document.entropy <= self._entropy[1]:
            self.filtered["entropy"] += 1
            return False
        if self._dedup:
            if document.sha256 in seen:
                self.filtered["duplicate"] += 1
                return False
            seen.add(document.sha256)
        return all(keep(document) for keep in self._keep)


class _TooLargeError(ValueError):
    pass


def _bounded_read(stream: BinaryIO, limit: int) -> bytes:
    """All of `stream`. Raises _TooLargeError, having unpacked no more than `limit` bytes, when there is more."""
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise _TooLargeError(f"larger than {limit} bytes once unpacked")
    return data


def _roots(paths: Iterable[StrPath]) -> list[str]:
    """Existing files and folders, glob patterns expanded, sorted, each once."""
    roots: set[str] = set()
    for path in paths:
        text = os.fspath(path)
        if os.path.lexists(text):
            roots.add(str(Path(text)))
        elif glob.has_magic(text):
            found = glob.glob(text, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not found:
                raise InvalidInputError(f"no file matches the pattern {text}; check it, and quote it in the shell")
            roots.update(found)
        else:
            raise FileError(f"cannot read {text}: it does not exist; check the path")
    if not roots:
        raise InvalidInputError("a corpus needs at least one path; name a file, a folder or a glob pattern")
    return sorted(roots)


def _checked_formats(formats: Collection[str] | None) -> frozenset[str] | None:
    if formats is None:
        return None
    names = frozenset([formats] if isinstance(formats, str) else formats)
    if not names or not names <= set(FORMATS):
        unknown = ", ".join(sorted(names - set(FORMATS))) or "an empty list"
        raise InvalidInputError(f"unknown format: {unknown}; the formats are {', '.join(FORMATS)}")
    return names | {"mach-o fat"} if "mach-o" in names else names


def _position(salt: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing but `salt` and `key`."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _printable(path: StrPath) -> str:
    """A path as text that can be printed: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return text[:1].lower() + text[1:]
