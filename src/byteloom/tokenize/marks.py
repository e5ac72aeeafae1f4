"""Words as marked pieces, and back: what a language model or a recogniser sees between spaces.

Use `mark` on the pieces of one word before they go into a text of tokens, and `join` on the tokens that come out of a
recogniser. On well-formed sequences they are inverse, whatever the style.
Source: Smit, Virpioja and Kurimo, Interspeech 2017 (subword lexicons); spec of arXiv 2207.13331. Cost: linear.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from byteloom.errors import InvalidInputError

MarkStyle = Literal["suffix", "prefix", "both", "boundary"]

_UNUSABLE = re.compile(r"[\s\ud800-\udfff]")


def mark(pieces: Sequence[str], style: MarkStyle = "suffix", symbol: str = "+") -> list[str]:
    """The pieces of one word as tokens.

    - "suffix": every piece but the last ends in the symbol; "prefix": every piece but the first begins with it.
    - "both": both of these, so that a token tells the side on which the word goes on.
    - "boundary": the pieces as they are, and the symbol alone behind the word.

    Raises InvalidInputError for an empty piece, and for one that holds the symbol or white space.

    >>> mark(["pu", "tti", "l"]), mark(["pu", "tti", "l"], "both")
    (['pu+', 'tti+', 'l'], ['pu+', '+tti+', '+l'])
    """
    check_symbol(symbol)
    for piece in pieces:
        check_text(piece, symbol, "a piece")
    if style == "boundary":
        return [*pieces, symbol] if pieces else []
    before, after = _sides(style, symbol)
    last = len(pieces) - 1
    return [(before if i > 0 else "") + piece + (after if i < last else "") for i, piece in enumerate(pieces)]


def join(tokens: Sequence[str], style: MarkStyle = "suffix", symbol: str = "+") -> str:
    """The words that tokens spell, with single spaces between them.

    Every sequence has a result: a word that the last token leaves open ends there, one that the first token goes on
    with begins there; with "both", a mark on either side is enough to join two tokens.

    >>> join(["pu+", "tti+", "l", "a"]), join(["pu", "+tti", "+l", "a"], "prefix")
    ('puttil a', 'puttil a')
    """
    check_symbol(symbol)
    if style == "boundary":
        words = [""]
        for token in tokens:
            if token == symbol:
                words.append("")
            else:
                words[-1] += token
        return " ".join(word for word in words if word)
    before, after = _sides(style, symbol)
    text = ""
    is_open = True  # no space before the first token
    for token in tokens:
        goes_on = bool(before) and token.startswith(before)
        left = token[len(before) :] if goes_on else token
        opens = bool(after) and left.endswith(after)
        text += ("" if is_open or goes_on else " ") + (left[: -len(after)] if opens else left)
        is_open = opens or not text
    return text


def check_symbol(symbol: str) -> None:
    """Raises InvalidInputError when `symbol` cannot mark pieces."""
    if not symbol or any(map(str.isspace, symbol)):
        raise InvalidInputError(f"a mark must be one or more characters without white space; got {symbol!r}")


def check_text(text: str, symbol: str, what: str = "a word") -> None:
    """Raises InvalidInputError when a word or piece is empty or holds what separates words or pieces."""
    if not text:
        raise InvalidInputError(f"{what} is empty; leave it out")
    if symbol in text:
        raise InvalidInputError(f"{what} holds the mark {symbol!r}: {text!r}; choose another mark")
    if found := _UNUSABLE.search(text):
        if found[0].isspace():
            raise InvalidInputError(f"{what} holds white space: {text!r}; split the text into words first")
        raise InvalidInputError(f"{what} holds half a surrogate pair, which is no text: {text!r}")


def _sides(style: str, symbol: str) -> tuple[str, str]:
    """What stands before a piece that goes on with a word, and after one that is not its end."""
    sides = {"suffix": ("", symbol), "prefix": (symbol, ""), "both": (symbol, symbol)}
    if style not in sides:
        raise InvalidInputError(f"style must be one of {', '.join(get_args(MarkStyle))}; got {style!r}")
    return sides[style]
