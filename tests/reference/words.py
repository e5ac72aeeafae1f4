"""The splitting into words, as regular expressions."""

from __future__ import annotations

import re

_WORD = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^A-Za-z\x80-\xff0-9\s]+|\s+")


def split(data: bytes, max_bytes: int = 16) -> list[bytes]:
    """The words of `data`; a longer run is cut every `max_bytes`, and what is left of it is matched anew."""
    words, at = [], 0
    while at < len(data):
        word = _WORD.match(data, at)[0]
        if max_bytes == 1:
            word = word[:1]
        words.append(word[:max_bytes])
        at += len(words[-1])
    return words
