"""Bytes in: documents from files, folders, archives and record files; their formats, sections and statistics.

>>> from byteloom.corpus import Corpus
>>> train, validation = Corpus(["/usr/bin"], formats=["elf"]).sample(32 << 20).split(0.1)
>>> for document in train:
...     print(document.name, document.size, document.info.architecture)
"""

from byteloom.corpus.binaries import FileInfo, Section, describe
from byteloom.corpus.corpus import Corpus, Skipped
from byteloom.corpus.documents import Document, entropy
from byteloom.corpus.fasta import SequenceRecord, read_fasta
from byteloom.corpus.formats import FORMATS, recognise
from byteloom.corpus.machine import machine_executables, machine_format
from byteloom.corpus.reads import reverse_complement, simulate_reads
from byteloom.corpus.statistics import CorpusStatistics, corpus_statistics

__all__ = [
    "FORMATS",
    "Corpus",
    "CorpusStatistics",
    "Document",
    "FileInfo",
    "Section",
    "SequenceRecord",
    "Skipped",
    "corpus_statistics",
    "describe",
    "entropy",
    "machine_executables",
    "machine_format",
    "read_fasta",
    "recognise",
    "reverse_complement",
    "simulate_reads",
]
