import json
from pathlib import Path

import pytest

from byteloom.corpus import Corpus, corpus_statistics
from byteloom.corpus.statistics import ENTROPY_BINS
from tests.corpus import samples


def test_rows_by_format_and_architecture(tmp_path: Path) -> None:
    files = {"x64": samples.elf(), "x64b": samples.elf() + b"1", "arm": samples.elf(183), "text": b"ab", "copy": b"ab"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b\x08broken")
    (tmp_path / "cut").write_bytes(samples.elf()[:300])
    calls: list[tuple[str, int, int]] = []
    corpus = Corpus([tmp_path])
    statistics = corpus_statistics(corpus, lambda *call: calls.append(call))
    rows = {(row.format, row.architecture): (row.files, row.bytes) for row in statistics.rows}
    size = len(samples.elf())
    assert rows == {("elf", "x86-64"): (3, 2 * size + 301), ("elf", "aarch64"): (1, size), ("text", None): (1, 2)}
    assert [row.bytes for row in statistics.rows] == sorted((row.bytes for row in statistics.rows), reverse=True)
    assert (statistics.files, statistics.bytes) == (5, 3 * size + 303)
    assert statistics.duplicates == 1
    assert statistics.problems == {"the section table is damaged or cut off": 1}
    assert [skipped.name for skipped in statistics.skipped] == [str(tmp_path / "broken.gz")]
    assert sum(statistics.entropy_histogram) == 5 and len(statistics.entropy_histogram) == ENTROPY_BINS
    assert calls[-1] == ("reading", corpus.size_on_disk(), corpus.size_on_disk())
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert json.loads(json.dumps(statistics.to_json()))["rows"][0]["format"] == "elf"


def test_entropy_is_the_mean_over_documents(tmp_path: Path) -> None:
    for name, data in {"a": b"aaaa", "b": b"abab" * 100, "c": b"abcd"}.items():
        (tmp_path / name).write_bytes(data)
    (row,) = corpus_statistics(Corpus([tmp_path])).rows
    assert row.entropy == pytest.approx(1.0)


def test_an_empty_corpus(tmp_path: Path) -> None:
    statistics = corpus_statistics(Corpus([tmp_path]))
    assert statistics.files == 0 and statistics.rows == []
