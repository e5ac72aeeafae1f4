from pathlib import Path

import pytest

from byteloom.corpus.labels import labelled_documents
from byteloom.errors import FileError, InvalidInputError


@pytest.fixture
def folder(tmp_path) -> Path:
    for label in ("b", "a"):
        (tmp_path / label).mkdir()
        for number in range(10):
            (tmp_path / label / f"{number}.bin").write_bytes(f"{label}{number}".encode())
    return tmp_path


def contents(labelled) -> set[tuple[bytes, str]]:
    return {(bytes(document.data), labelled.labels[label]) for document, label in labelled.documents}


def test_sub_folders_are_labels(folder):
    found = labelled_documents(folder)
    assert found.labels == ("a", "b")
    assert contents(found) == {(f"{label}{number}".encode(), label) for label in "ab" for number in range(10)}


def test_a_table_names_labels(folder):
    rows = [f"{label}/{number}.bin\tis {label}\n" for label in "ab" for number in range(6)]
    (folder / "labels.tsv").write_text("".join(rows) + "\n")
    found = labelled_documents(folder, folder / "labels.tsv")
    assert found.labels == ("is a", "is b")
    assert contents(found) == {(f"{label}{number}".encode(), f"is {label}") for label in "ab" for number in range(6)}


def test_a_part_of_each_label_is_held_out_and_stays(folder):
    train, held_out = labelled_documents(folder).split(0.2)
    assert not contents(train) & contents(held_out)
    assert contents(train) | contents(held_out) == contents(labelled_documents(folder))
    assert [label for _, label in held_out.documents] == [0, 0, 1, 1]
    for path in folder.glob("*/*"):
        path.rename(path.with_suffix(".renamed"))
    assert contents(labelled_documents(folder).split(0.2)[1]) == contents(held_out)
    assert len(labelled_documents(folder).split(0.01)[1].documents) == 2
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        labelled_documents(folder).split(1.0)


def test_bad_folders_and_tables_are_told(folder, tmp_path):
    with pytest.raises(FileError, match="no folder"):
        labelled_documents(folder / "a" / "0.bin")
    with pytest.raises(InvalidInputError, match="0 labels; at least two"):
        labelled_documents(folder / "a")
    (folder / "c").mkdir()
    (folder / "c" / "one").write_bytes(b"one")
    (folder / "c" / "same").write_bytes(b"one")
    with pytest.raises(InvalidInputError, match="'c' has 1 different document"):
        labelled_documents(folder)
    for name, text, part in (
        ("t.txt", "", ".tsv or a .csv"),
        ("t.tsv", "a/0.bin\ta\na/1.bin\n", "line 2: a path and a label"),
        ("t.csv", "a/0.bin,\n", "line 1: a path and a label"),
        ("t.csv", "a/99.bin,x\n", "line 1: there is no file"),
        ("t.csv", "a/1.bin,x\n", "names 1 label; at least two"),
    ):
        (folder / name).write_text(text)
        with pytest.raises((InvalidInputError, FileError), match=part):
            labelled_documents(folder, folder / name)
    (folder / "t.csv").write_bytes(b"\xff\xfe,x\n")
    with pytest.raises(InvalidInputError, match="no table"):
        labelled_documents(folder, folder / "t.csv")
    with pytest.raises(FileError, match="cannot read"):
        labelled_documents(folder, folder / "missing.csv")
