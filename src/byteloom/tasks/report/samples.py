"""The held-out documents that `fit` keeps, so that a report can look at real bytes again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from byteloom.files import open_bytes, read_json


@dataclass(frozen=True)
class Part:
    """A named section of a sample: bytes [offset, offset + size); kinds are those of byteloom.corpus.Section."""

    name: str
    offset: int
    size: int
    kind: str


@dataclass(frozen=True)
class Sample:
    """One held-out document, at most the first 256 KiB of it."""

    name: str
    format: str
    architecture: str | None
    sections: tuple[Part, ...]
    data: bytes
    path: Path  # of the copy that fit kept

    @cached_property
    def section_of_byte(self) -> np.ndarray:
        """For each byte the index of its section, of nested ones the innermost; -1 outside; int16 [size]."""
        owner = np.full(len(self.data), -1, np.int16)
        for index in sorted(range(len(self.sections)), key=lambda i: -self.sections[i].size):
            part = self.sections[index]
            owner[part.offset : part.offset + part.size] = index
        return owner


def read_samples(folder: Path) -> list[Sample]:
    """The samples of a fitted folder, in its order; none when it has none. Raises FileError."""
    index = folder / "samples" / "samples.json"
    if not index.exists():
        return []
    samples = []
    for entry in read_json(index):
        path = index.parent / Path(entry["file"]).name
        data = bytes(open_bytes(path))
        parts = (
            Part(s["name"], s["offset"], min(s["size"], len(data) - s["offset"]), s["kind"]) for s in entry["sections"]
        )
        sections = tuple(part for part in parts if part.size > 0)
        samples.append(Sample(entry["name"], entry["format"], entry["architecture"], sections, data, path))
    return samples
