"""Equal-info windows: text cut so that each window's arithmetic code fits into the same number of bits.

The coder and the model's context begin afresh at every window, so each token, or group of tokens, stands for some
bytes on its own, and a language model can learn what it could not from one long code. Use it to study the scheme; to
make a tokenizer use `train_equal_info`, its compiled form, which is exact, fast, and needs no model at run time.
Source: Training LLMs over Neurally Compressed Text, Lester et al., TMLR 2024, arXiv 2404.03626, sections 3.2, 3.3 and
A.5 ("Delay", here "minimal"). Cost: one question to the model a byte, and integers of 14 bits a byte of a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from byteloom.errors import InvalidInputError
from byteloom.tokenize.arithmetic import cut_tokens
from byteloom.tokenize.byte_model import TOTAL, ByteModel, checked_cumulative

if TYPE_CHECKING:
    from typing_extensions import Buffer

WindowRule = Literal["minimal", "greedy"]

_REMEMBERED = 1 << 15  # tables kept: 32 MB
_TABLE_BITS = TOTAL.bit_length() - 1


class Span(NamedTuple):
    """The share [low, low + range) / 2^depth of all texts: those that begin with the bytes read so far."""

    low: int
    range: int
    depth: int

    def part(self, table: npt.NDArray[np.uint32], byte: int) -> Span:
        """The share of those that go on with `byte`."""
        start, end = int(table[byte]), int(table[byte + 1])
        return Span(
            (self.low << _TABLE_BITS) + self.range * start, self.range * (end - start), self.depth + _TABLE_BITS
        )

    def codeword(self, bits: int) -> int | None:
        """The lowest m with [m, m + 1) / 2^bits inside; None when no such cell fits."""
        value = -((-self.low << bits) >> self.depth)  # rounded up
        return value if (value + 1) << self.depth <= (self.low + self.range) << bits else None

    def shortest(self, bits: int) -> int:
        """The shortest code whose cell lies inside, filled with zeros to `bits`; some cell of `bits` must."""
        for fewer in range(bits):
            if (value := self.codeword(fewer)) is not None:
                return value << (bits - fewer)
        value = self.codeword(bits)
        assert value is not None
        return value


_WHOLE = Span(0, 1, 0)


class WindowCoder:
    """Bytes to tokens of `token_bits` bits by windows of `window_bits` bits, and back.

    rule: "minimal": of all strings with one code the window is the shortest; decoding is exact. "greedy": as many
    bytes as fit, as the paper's main experiments; different strings get equal tokens, so `decode` raises.
    Raises InvalidInputError for windows under 16 bits, tokens that are not 8 or 16 bits, and unknown rules.

    >>> from byteloom.tokenize.byte_model import StaticModel
    >>> coder = WindowCoder(StaticModel())
    >>> coder.encode(b"abc").tolist() == [ord("a") * 256 + ord("b"), ord("c") * 256]
    True
    >>> coder.decode(coder.encode(b"abc"))
    b'abc'
    """

    def __init__(
        self, model: ByteModel, window_bits: int = 16, token_bits: int = 16, rule: WindowRule = "minimal"
    ) -> None:
        if window_bits < 16:
            raise InvalidInputError(
                "windows under 16 bits cannot hold every byte at 14-bit precision; use rule='dictionary' "
                "(vocab_size=4096 for 12 bits), which is train_equal_info"
            )
        if token_bits not in (8, 16):
            raise InvalidInputError(f"token_bits must be 8 or 16; got {token_bits}")
        if rule not in get_args(WindowRule):
            raise InvalidInputError(f"rule must be one of {', '.join(get_args(WindowRule))}; got {rule!r}")
        self.model = model
        self.window_bits = window_bits
        self.token_bits = token_bits
        self.rule = rule
        self._tables: dict[bytes, npt.NDArray[np.uint32]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of ids: 2^token_bits."""
        return 1 << self.token_bits

    def encode(self, data: Buffer) -> npt.NDArray[np.uint32]:
        """Token ids of `data`: uint32 [n]. The windows follow one another bit by bit, high bits first."""
        width = -(-self.window_bits // 8)
        codes = b"".join(code.to_bytes(width, "big") for _, code in self.windows(data))
        rows = np.unpackbits(np.frombuffer(codes, np.uint8).reshape(-1, width), axis=1)
        stream = np.packbits(rows[:, 8 * width - self.window_bits :])
        return cut_tokens(stream.tobytes(), self.token_bits)

    def windows(self, data: Buffer) -> list[tuple[bytes, int]]:
        """The windows of `data`, and the code of each."""
        text = bytes(memoryview(data).cast("B"))
        found = []
        at = 0
        while at < len(text):
            window, code = self._window(text, at)
            found.append((window, code))
            at += len(window)
        return found

    def decode(self, ids: npt.ArrayLike) -> bytes:
        """The bytes that `ids` stand for. Raises InvalidInputError for the rule "greedy" and for ids of no text."""
        if self.rule == "greedy":
            raise InvalidInputError(
                "greedy windows do not determine their text; train with rule='minimal' or 'dictionary'"
            )
        tokens = np.asarray(ids, dtype=np.int64)
        if tokens.ndim != 1:
            raise InvalidInputError(f"decode takes a one-dimensional array of integers; got {tokens.ndim} dimensions")
        bad = np.flatnonzero((tokens < 0) | (tokens >= self.vocab_size))
        if bad.size:
            raise InvalidInputError(
                f"id {tokens[bad[0]]} at position {bad[0]} is not in the vocabulary of {self.vocab_size} tokens"
            )
        stream = tokens.astype(">u2" if self.token_bits == 16 else np.uint8).view(np.uint8)
        bits = np.unpackbits(stream)
        count = len(bits) // self.window_bits
        rows, unused = np.split(bits, [count * self.window_bits])
        if len(unused) >= self.token_bits or unused.any():
            raise InvalidInputError(
                f"{len(tokens)} tokens are not a whole number of windows of {self.window_bits} bits; give all ids of a "
                "text"
            )
        padded = np.pad(rows.reshape(count, self.window_bits), ((0, 0), (-self.window_bits % 8, 0)))
        codes = [int.from_bytes(row.tobytes(), "big") for row in np.packbits(padded, axis=1)]
        return b"".join(self._text(code, number) for number, code in enumerate(codes))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id. Raises InvalidInputError where a window is more than one token: those have no text."""
        if self.token_bits != self.window_bits:
            raise InvalidInputError(
                f"a token of {self.token_bits} bits is a part of a window of {self.window_bits}; decode whole windows"
            )
        return self.decode([token])

    def _window(self, text: bytes, at: int) -> tuple[bytes, int]:
        """The window that begins at a byte, and its code."""
        span, end = _WHOLE, at
        code = shortest = 0
        last: int | None = None
        while end < len(text):
            longer = span.part(self._table(text[at:end]), text[end])
            fitting = longer.codeword(self.window_bits)
            if fitting is None:
                break
            span, end = longer, end + 1
            if fitting != last:
                code = last = fitting
                shortest = end
        assert end > at  # a byte takes at most 16 bits
        if self.rule == "greedy":
            return text[at:end], span.shortest(self.window_bits)
        return text[at:shortest], code

    def _text(self, code: int, number: int) -> bytes:
        """The shortest string with a code."""
        span, text = _WHOLE, b""
        while True:
            table = self._table(text)
            # The byte whose part holds the lower end of the code's cell.
            above = (code << span.depth) - (span.low << self.window_bits)
            place = (above << _TABLE_BITS) // (span.range << self.window_bits)
            if not 0 <= place < TOTAL:
                break
            byte = int(np.searchsorted(table, place, side="right")) - 1
            span, text = span.part(table, byte), text + bytes([byte])
            fitting = span.codeword(self.window_bits)
            if fitting == code:
                return text
            if fitting is None:
                break
        raise InvalidInputError(f"the code {code} of window {number} stands for no text; it was not made by this model")

    def _table(self, prefix: bytes) -> npt.NDArray[np.uint32]:
        """uint32 [257]. One prefix at a time, both ways: a batch may change the last bit of a float."""
        context = self.model.context
        known = prefix if context is None else prefix[max(0, len(prefix) - context) :]
        table = self._tables.get(known)
        if table is None:
            if len(self._tables) >= _REMEMBERED:
                self._tables.clear()
            table = self._tables[known] = checked_cumulative(self.model, [known])[0]
        return table
