"""Text in a language that chains suffixes: Tamil and Kannada files where there are some, else an invented language.

The invented one needs no file and shows that the code runs; its figures say nothing about any real language.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from byteloom.errors import FileError

SENTENCES, TAMIL, KANNADA, FORMS = (
    "tamil_sentences.txt.gz",
    "tamil_words.txt.gz",
    "kannada_words.txt.gz",
    "kannada_unimorph.tsv.gz",
)


@dataclass(frozen=True)
class Texts:
    """What the benchmark of subwords reads."""

    name: str
    sentences: list[str]
    words: list[str]  # of the same language, most frequent first
    isolated_name: str
    isolated: list[str]  # words of a language without sentences, most frequent first
    forms: list[tuple[str, str]]  # lemma and inflected form, in the language of `isolated`


def indic_texts(folder: Path) -> Texts | None:
    """The Tamil and Kannada files in `folder`, or in `folder`/indic-text; None where they are not.

    Raises FileError when only some of them are there, or one cannot be read.
    """
    here = next((place for place in (folder, folder / "indic-text") if (place / SENTENCES).exists()), None)
    if here is None:
        return None
    forms = [tuple(line.split("\t")[:2]) for line in _lines(here / FORMS)]
    return Texts(
        "Tamil", _lines(here / SENTENCES), _lines(here / TAMIL), "Kannada", _lines(here / KANNADA),
        [(pair[0], pair[1]) for pair in forms if len(pair) == 2],
    )  # fmt: skip


def invented_texts(sentences: int, words: int, seed: int = 0) -> Texts:
    """Stems of two or three syllables with up to three suffixes; sentences draw stems by Zipf's law."""
    generator = np.random.default_rng(seed)
    syllables = [consonant + vowel for consonant in "kgcjtdnpbmyrlvsh" for vowel in "aeiou"]
    n_stems = max(50, words // 20)
    stems = ["".join(generator.choice(syllables, generator.integers(2, 4))) for _ in range(n_stems)]
    suffixes = [["", *generator.choice(syllables, 6, replace=False)] for _ in range(3)]
    chance = 1 / np.arange(1, n_stems + 1)
    chance /= chance.sum()

    def forms(count: int) -> list[tuple[str, str]]:
        lemmas = generator.choice(stems, count, p=chance)
        return [(str(lemma), str(lemma) + "".join(map(generator.choice, suffixes))) for lemma in lemmas]

    lines = [" ".join(form for _, form in forms(int(generator.integers(3, 7)))) for _ in range(sentences)]
    listed = list(dict.fromkeys(form for _, form in forms(words)))
    return Texts("an invented language", lines, listed, "the invented language", listed, forms(500))


def _lines(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}; get the files again") from error
