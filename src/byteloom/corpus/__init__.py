"""Bytes in: documents from files, folders, archives and record files; their formats, sections and statistics.

>>> from byteloom.corpus import Corpus
>>> train, validation = Corpus(["/usr/bin"], formats=["elf"]).sample(32 << 20).split(0.1)
>>> for document in train:
...     print(document.name, document.size, document.info.architecture)
"""

from byteloom.corpus.binaries import FileInfo, Section, describe
from byteloom.corpus.corpus import Corpus, Skipped
from byteloom.corpus.documents import Document, entropy
from byteloom.corpus.formats import FORMATS, recognise
from byteloom.corpus.machine import machine_executables, machine_format
from byteloom.corpus.statistics import CorpusStatistics, corpus_statistics

__all__ = [
    "FORMATS",
    "Corpus",
    "CorpusStatistics",
    "Document",
    "FileInfo",
    "Section",
    "Skipped",
    "corpus_statistics",
    "describe",
    "entropy",
    "machine_executables",
    "machine_format",
    "recognise",
]
