"""The printable characters that stand for bytes in vocabulary files: the byte alphabet of GPT-2.

Printable Latin-1 characters stand for themselves, the other 68 byte values for U+0100 and up, in order.
`tokenizers` calls this ByteLevel. Source: GPT-2 (Radford et al. 2019).

>>> to_characters(b"\\x7fELF \\x00")
'ġELFĠĀ'
>>> to_bytes('ġELFĠĀ')
b'\\x7fELF \\x00'
"""

from __future__ import annotations


def _alphabet() -> str:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


BYTE_CHARACTERS = _alphabet()  # the character of byte b is BYTE_CHARACTERS[b]
_BYTE_OF = {ord(character): byte for byte, character in enumerate(BYTE_CHARACTERS)}


def to_characters(data: bytes) -> str:
    """`data` in the alphabet, one character a byte."""
    return data.decode("latin-1").translate(BYTE_CHARACTERS)


def to_bytes(text: str) -> bytes:
    """The bytes that `text` stands for. Raises ValueError when a character is not in the alphabet."""
    try:
        return bytes([_BYTE_OF[ord(character)] for character in text])
    except KeyError as error:
        raise ValueError(f"{chr(error.args[0])!r} is not a character of the byte alphabet") from error
