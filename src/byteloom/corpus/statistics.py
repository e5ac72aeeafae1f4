"""What a corpus consists of: files, bytes and entropy by format and architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from byteloom.corpus.corpus import Corpus, Skipped

ENTROPY_BINS = 32  # of 0.25 bits per byte each


@dataclass(slots=True)
class Row:
    """Documents of one format and architecture. entropy: mean over the documents, bits per byte."""

    format: str
    architecture: str | None
    files: int = 0
    bytes: int = 0
    entropy: float = 0.0


@dataclass(slots=True)
class CorpusStatistics:
    """Counts of one pass over a corpus.

    rows: largest first. entropy_histogram: documents by order-0 entropy, ENTROPY_BINS equal bins over 0 to 8 bits per
    byte. problems: executables whose headers could not be read or trusted, by reason. filtered: documents that a
    filter kept out, by filter; duplicates is one of them. skipped: what could not be read.
    """

    files: int = 0
    bytes: int = 0
    rows: list[Row] = field(default_factory=list)
    entropy_histogram: list[int] = field(default_factory=lambda: [0] * ENTROPY_BINS)
    problems: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers."""
        return asdict(self)


def corpus_statistics(corpus: Corpus, progress: Callable[[str, int, int], None] | None = None) -> CorpusStatistics:
    """Read `corpus` once and count. progress: called with ("reading", bytes of files done, bytes of all files)."""
    statistics = CorpusStatistics()
    rows: dict[tuple[str, str | None], Row] = {}
    problems: Counter[str] = Counter()
    total = corpus.size_on_disk() if progress else 0
    for document in corpus:
        info = document.info
        row = rows.setdefault((info.format, info.architecture), Row(info.format, info.architecture))
        row.files += 1
        row.bytes += document.size
        row.entropy += (document.entropy - row.entropy) / row.files
        statistics.entropy_histogram[min(int(document.entropy * ENTROPY_BINS / 8), ENTROPY_BINS - 1)] += 1
        if info.problem:
            problems[info.problem] += 1
        if progress:
            progress("reading", corpus.visited_bytes, total)
    if progress:
        progress("reading", total, total)
    statistics.rows = sorted(rows.values(), key=lambda row: (-row.bytes, row.format, row.architecture or ""))
    statistics.files = sum(row.files for row in statistics.rows)
    statistics.bytes = sum(row.bytes for row in statistics.rows)
    statistics.problems = dict(problems.most_common())
    statistics.filtered = dict(corpus.filtered.most_common())
    statistics.duplicates = corpus.filtered["duplicate"]
    statistics.skipped = list(corpus.skipped)
    return statistics
