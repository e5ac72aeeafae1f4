import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from byteloom.corpus import Corpus, Skipped
from byteloom.errors import FileError
from tests.corpus import samples


def _found(corpus: Corpus) -> dict[str, bytes]:
    return {Path(document.name).name: bytes(document.data) for document in corpus}


def test_jsonl(tmp_path: Path) -> None:
    lines = [{"text": "grün", "n": 1}, {"text": ""}, {"text": "lone \ud800"}]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    corpus = Corpus([tmp_path], field="text")
    assert _found(corpus) == {"a.jsonl#1": "grün".encode(), "a.jsonl#5": b"lone \xed\xa0\x80"}
    assert corpus.filtered["min_size"] == 1


def test_bad_records_are_counted_once_a_file_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\nnot JSON\n{"other": 1}\n{"text": 7}\n{"text": 8}\n[1]\n')
    corpus = Corpus([path], field="text")
    assert _found(corpus) == {"a.jsonl#1": b"good"}
    assert corpus.skipped == [
        Skipped(str(path), "a line that is not JSON in 1 record"),
        Skipped(str(path), "no field 'text' in 2 records"),
        Skipped(str(path), "field 'text' is neither text nor bytes in 2 records"),
    ]
    with pytest.raises(FileError, match=r"a\.jsonl#2: a line that is not JSON"):
        list(Corpus([path], field="text", strict=True))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    values = [b"one", b"two", None, b"three"]
    table = pa.table({"content": pa.array(values, pa.binary()).cast(kind), "other": [1, 2, 3, 4]})
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    corpus = Corpus([tmp_path], field="content")
    assert _found(corpus) == {"a.parquet#1": b"one", "a.parquet#2": b"two", "a.parquet#4": b"three"}
    assert len(corpus.skipped) == 1


def test_binary_values_stay_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"content": pa.array([samples.elf()], pa.binary())})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    (document,) = Corpus([tmp_path], field="content", formats=["elf"])
    assert bytes(document.data) == samples.elf()


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    corpus = Corpus([tmp_path], field="content")
    assert list(corpus) == []
    assert "no column 'content'; there are: text" in corpus.skipped[0].reason


def test_damaged_parquet(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"text": ["a"] * 100}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    corpus = Corpus([tmp_path], field="text")
    assert list(corpus) == []
    assert corpus.skipped[0].reason.startswith("damaged parquet file: ")


def test_records_inside_archives(tmp_path: Path) -> None:
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    pa.parquet.write_table(pa.table({"text": ["three"]}), tmp_path / "b.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "b.zip").write_bytes(samples.zipped({"b.parquet": (tmp_path / "b.parquet").read_bytes()}))
    (tmp_path / "b.parquet").unlink()
    assert _found(Corpus([tmp_path], field="text")) == {
        "a.jsonl.gz!a.jsonl#1": b"one",
        "a.jsonl.gz!a.jsonl#2": b"two",
        "b.zip!b.parquet#1": b"three",
    }


def test_other_files_give_nothing_when_a_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("read me")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    corpus = Corpus([tmp_path], field="text")
    assert _found(corpus) == {"a.jsonl#1": b"one"}
    assert corpus.filtered["field"] == 1
