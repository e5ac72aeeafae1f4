"""One document: its bytes, its name, and what can be said about it, computed when asked for."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from byteloom.corpus.binaries import FileInfo, describe
from byteloom.corpus.formats import recognise
from byteloom.entropy import entropy


class Document:
    """Bytes with a name. The other attributes are computed on first use and kept.

    name: a path, "archive!member" or "file.jsonl#12". data: read-only bytes (memory-mapped for large files).
    """

    def __init__(self, name: str, data: bytes | memoryview, path: Path | None = None) -> None:
        self.name = name
        self.data = memoryview(data).cast("B").toreadonly()
        self._path = path  # where exactly these bytes lie, if they lie in a file of their own

    def __repr__(self) -> str:
        return f"Document({self.name!r}, {self.size} bytes, {self.format})"

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def format(self) -> str:
        """One of byteloom.corpus.FORMATS."""
        return recognise(self.data)

    @cached_property
    def info(self) -> FileInfo:
        """Format, architecture and section map."""
        return describe(self.data, self._path)

    @cached_property
    def entropy(self) -> float:
        """Order-0 entropy in bits per byte."""
        return entropy(self.data)
