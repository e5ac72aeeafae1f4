"""Labelled documents: one folder a label, or a table of paths and labels."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from byteloom.corpus.corpus import Corpus
from byteloom.corpus.documents import Document
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath

FEWEST = 5  # documents of a label
_DELIMITERS = {".tsv": "\t", ".csv": ","}


@dataclass(frozen=True)
class LabelledDocuments:
    """labels: the names, sorted. documents: each with the number of its label."""

    labels: tuple[str, ...]
    documents: tuple[tuple[Document, int], ...]

    def split(self, validation: float) -> tuple[LabelledDocuments, LabelledDocuments]:
        """(training, validation): of each label the share with the smallest SHA-256, and never less than one.

        Raises InvalidInputError when `validation` does not lie between 0 and 1.
        """
        if not 0.0 < validation < 1.0:
            raise InvalidInputError(f"validation must lie between 0 and 1, not {validation}")
        groups = defaultdict(list)
        for document, label in self.documents:
            groups[label].append((document, label))
        train, held_out = [], []
        for group in groups.values():
            group.sort(key=lambda entry: entry[0].sha256)
            count = max(1, round(validation * len(group)))
            held_out += group[:count]
            train += group[count:]
        return LabelledDocuments(self.labels, tuple(train)), LabelledDocuments(self.labels, tuple(held_out))


def labelled_documents(path: StrPath, table: StrPath | None = None) -> LabelledDocuments:
    """The documents under the folder `path`, labelled by its sub-folders, or by `table`.

    table: a .tsv or .csv file without a header whose rows are a path below `path` and a label. Equal documents count
    once. Archives are documents, not folders.
    Raises InvalidInputError for fewer than two labels and for a label with fewer than FEWEST documents, FileError for
    a file that cannot be read; the messages name the folder, or the line.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder; name one with a sub-folder for each label")
    found = _by_table(folder, Path(table)) if table is not None else _by_folder(folder)
    if len(found) < 2:
        where = f"{table} names" if table is not None else f"{folder} has sub-folders for"
        raise InvalidInputError(f"{where} {len(found)} label{'s' * (len(found) != 1)}; at least two are needed")
    labels = tuple(sorted(found))
    documents = []
    for number, label in enumerate(labels):
        if len(found[label]) < FEWEST:
            raise InvalidInputError(
                f"the label {label!r} has {len(found[label])} different documents; at least {FEWEST} are needed"
            )
        documents += [(document, number) for document in found[label]]
    return LabelledDocuments(labels, tuple(documents))


def _by_folder(folder: Path) -> dict[str, list[Document]]:
    try:
        places = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise FileError(f"cannot read {folder}: {error.strerror}") from error
    return {Path(place).name: list(Corpus(place, archives=False, strict=True)) for place in places}


def _by_table(folder: Path, table: Path) -> dict[str, list[Document]]:
    if table.suffix not in _DELIMITERS:
        raise InvalidInputError(f"labels come in a .tsv or a .csv file of paths and labels; got {table}")
    paths = defaultdict(list)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in (reader := csv.reader(file, delimiter=_DELIMITERS[table.suffix])):
                if not row:
                    continue
                if len(row) != 2 or not row[1].strip():
                    raise InvalidInputError(f"{table}, line {reader.line_num}: a path and a label are needed")
                if not (folder / row[0]).is_file():
                    raise FileError(f"{table}, line {reader.line_num}: there is no file {folder / row[0]}")
                paths[row[1].strip()].append(folder / row[0])
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot read {table}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{table} is no table of paths and labels: {error}") from error
    return {label: list(Corpus(of_label, archives=False, strict=True)) for label, of_label in paths.items()}
