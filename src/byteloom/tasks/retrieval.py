"""Which texts share the words of a question: BM25, a lexical score that needs no model and no index.

Use it to choose the few of many texts that a model shall see. It knows words, not meanings: ask in the words of the
texts. Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond. Cost: one pass over
the texts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(rb"[0-9a-z\x80-\xff]+")
SATURATION, LENGTH = 1.5, 0.75  # k1 and b, as is usual


def words(text: bytes) -> list[bytes]:
    """Runs of letters and digits in lower case; parts of an identifier with underscores are words of their own."""
    return _WORD.findall(text.lower())


def bm25(question: bytes, texts: Sequence[bytes]) -> list[float]:
    """A score for each text, 0 for one that shares no word with the question."""
    asked = set(words(question))
    counts = [Counter(words(text)) for text in texts]
    lengths = [count.total() for count in counts]
    mean = sum(lengths) / max(1, len(lengths)) or 1.0
    spread = {word: sum(word in count for count in counts) for word in asked}
    weight = {word: math.log(1 + (len(texts) - held + 0.5) / (held + 0.5)) for word, held in spread.items()}
    return [
        sum(
            weight[word]
            * count[word]
            * (SATURATION + 1)
            / (count[word] + SATURATION * (1 - LENGTH + LENGTH * length / mean))
            for word in sorted(asked & count.keys())
        )
        for count, length in zip(counts, lengths, strict=True)
    ]
