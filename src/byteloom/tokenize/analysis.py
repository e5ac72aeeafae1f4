"""What a vocabulary learned: how long its tokens are, which are used, what they seem to mean, what changed.

Use it to judge a tokenizer before training on it. Source: section "analysis" of Binary BPE, arXiv 2511.17573,
which reports token lengths, the share of 3-byte tokens and the share of the vocabulary that a corpus uses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from byteloom.tokenize.tokenizer import Codec

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True)
class LengthStatistics:
    """Lengths of the learned tokens and single bytes of a vocabulary, special tokens left out."""

    tokens: int
    histogram: dict[int, int]  # token length in bytes -> number of tokens
    mean: float  # bytes
    longest: int  # bytes
    three_byte_share: float  # of all tokens; the published family has 0.20 to 0.22


def length_statistics(tokenizer: Codec) -> LengthStatistics:
    """How long the tokens of a vocabulary are."""
    lengths = tokenizer.token_lengths[tokenizer.token_lengths > 0]
    histogram = dict(sorted(Counter(lengths.tolist()).items()))
    return LengthStatistics(
        tokens=len(lengths),
        histogram=histogram,
        mean=float(lengths.mean()),
        longest=int(lengths.max()),
        three_byte_share=histogram.get(3, 0) / len(lengths),
    )


def token_counts(tokenizer: Codec, documents: Iterable[Buffer]) -> npt.NDArray[np.int64]:
    """int64 [vocab_size]: how often each id occurs in the encodings of `documents`, one at a time."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for document in documents:
        counts += np.bincount(tokenizer.encode(document), minlength=tokenizer.vocab_size)
    return counts


def used_share(tokenizer: Codec, counts: npt.NDArray[np.int64]) -> float:
    """The share of the vocabulary, special tokens left out, that occurs at all in `counts` of `token_counts`."""
    ordinary = tokenizer.token_lengths > 0
    return float((counts[ordinary] > 0).mean())


def telling_tokens(
    tokenizer: Codec,
    here: npt.NDArray[np.int64],
    elsewhere: npt.NDArray[np.int64] | None = None,
    limit: int = 20,
) -> list[int]:
    """The learned tokens that say most about documents with the counts `here`, most telling first.

    A token counts for the bytes that it saves, one less than its length each time. Given the counts `elsewhere`,
    say of other formats, it counts only as far as it is more frequent here than there (log ratio of its rates).
    Parts of tokens already chosen, and more than three that look alike, are passed over.
    """
    saved = here * (tokenizer.token_lengths.astype(np.int64) - 1).clip(0)
    score = saved.astype(np.float64)
    if elsewhere is not None:
        score *= np.log((here + 0.5) / (here.sum() + 1) / ((elsewhere + 0.5) / (elsewhere.sum() + 1))).clip(0)
    chosen: dict[int, bytes] = {}
    alike: Counter[str] = Counter()
    for token in np.argsort(-score, kind="stable").tolist():
        if len(chosen) >= limit or score[token] <= 0:
            break
        data = tokenizer.token_bytes(token)
        meaning = guess_meaning(data)
        if (meaning and alike[meaning] >= 3) or any(data in other or other in data for other in chosen.values()):
            continue
        chosen[token] = data
        alike[meaning] += 1
    return list(chosen)


@dataclass(frozen=True)
class VocabularyDifference:
    """Two vocabularies compared by the bytes of their tokens, special tokens left out."""

    shared: int
    only_first: tuple[bytes, ...]  # in the order of the first's ids
    only_second: tuple[bytes, ...]
    same_ids: int  # ids that stand for the same bytes in both: how much of an embedding can be kept


def vocabulary_difference(first: Codec, second: Codec) -> VocabularyDifference:
    """Which tokens are lost and gained from `first` to `second`."""
    ours, theirs = ([t.token_bytes(i) for i in np.flatnonzero(t.token_lengths).tolist()] for t in (first, second))
    gone, new = set(ours) - set(theirs), set(theirs) - set(ours)
    common = range(min(first.vocab_size, second.vocab_size))
    return VocabularyDifference(
        shared=len(set(ours) & set(theirs)),
        only_first=tuple(token for token in ours if token in gone),
        only_second=tuple(token for token in theirs if token in new),
        same_ids=sum(first.token_bytes(i) == second.token_bytes(i) for i in common),
    )


def guess_meaning(token: bytes) -> str:
    """What the bytes of a token look like, in a few words; "" when they look like nothing in particular.

    >>> guess_meaning(bytes.fromhex("f30f1efa"))
    'x86: endbr64, where an indirect call may land'
    >>> guess_meaning(b"\\x00" * 8)
    'zeros: padding'
    """
    if len(token) >= 2 and len(set(token)) == 1:
        return _FILL.get(token[0], f"run of 0x{token[0]:02x}")
    for magic, meaning in _MAGIC:
        if token.startswith(magic):
            return meaning
    return _text(token) or _structure(token) or _instructions(token) or _integer(token)


_FILL = {
    0x00: "zeros: padding",
    0xFF: "0xff: minus one, or erased flash",
    0x90: "x86: nop padding",
    0xCC: "x86: int3 padding between functions",
    0x20: "spaces",
}

_MAGIC = (
    (b"\x7fELF", "magic number: ELF executable"),
    (b"MZ\x90\x00", "magic number: DOS header of a PE file"),
    (b"PE\x00\x00", "magic number: PE header"),
    (b"\xcf\xfa\xed\xfe", "magic number: Mach-O, 64-bit"),
    (b"\xce\xfa\xed\xfe", "magic number: Mach-O, 32-bit"),
    (b"\xca\xfe\xba\xbe", "magic number: Java class or Mach-O fat file"),
    (b"dex\n", "magic number: Android DEX"),
    (b"\x00asm", "magic number: WebAssembly"),
    (b"!<arch>\n", "magic number: ar archive, static library"),
    (b"PK\x03\x04", "magic number: ZIP member"),
    (b"\x1f\x8b\x08", "magic number: gzip"),
    (b"\xfd7zXZ", "magic number: xz"),
    (b"\x28\xb5\x2f\xfd", "magic number: zstd"),
    (b"\x89PNG", "magic number: PNG image"),
    (b"%PDF-", "magic number: PDF"),
    (b"#!/", "magic number: script"),
)

# Longest first where one is the start of another. "..." stands for an operand that the token does not hold.
_X86 = (
    ("f30f1efa", "endbr64, where an indirect call may land"),
    ("f30f1efb", "endbr32, where an indirect call may land"),
    ("554889e5", "function prologue: push rbp; mov rbp, rsp"),
    ("5589e5", "function prologue: push ebp; mov ebp, esp"),
    ("41574156", "function prologue: pushes of saved registers"),
    ("4883ec", "sub rsp, ...: makes a stack frame"),
    ("4883c4", "add rsp, ...: drops a stack frame"),
    ("c9c3", "function epilogue: leave; ret"),
    ("5dc3", "function epilogue: pop rbp; ret"),
    ("5bc3", "function epilogue: pop rbx; ret"),
    ("415e415f", "function epilogue: pops of saved registers"),
    ("662e0f1f84", "long nop: alignment"),
    ("660f1f84", "long nop: alignment"),
    ("660f1f44", "long nop: alignment"),
    ("0f1f84", "long nop: alignment"),
    ("0f1f80", "long nop: alignment"),
    ("0f1f44", "long nop: alignment"),
    ("0f1f40", "long nop: alignment"),
    ("0f1f00", "nop: alignment"),
    ("ff25", "jmp [...]: jump through an import table"),
    ("ff15", "call [...]: call through an import table"),
    ("488d05", "lea rax, [rip + ...]"),
    ("488d0d", "lea rcx, [rip + ...]"),
    ("488d15", "lea rdx, [rip + ...]"),
    ("488d35", "lea rsi, [rip + ...]"),
    ("488d3d", "lea rdi, [rip + ...]"),
    ("488b05", "mov rax, [rip + ...]"),
    ("64488b", "mov from thread-local storage"),
    ("4885c0", "test rax, rax"),
    ("85c0", "test eax, eax"),
    ("31c0", "xor eax, eax"),
    ("0f84", "je ..."),
    ("0f85", "jne ..."),
    ("4889", "mov, 64-bit"),
    ("488b", "mov from memory, 64-bit"),
    ("488d", "lea, 64-bit"),
    ("4c89", "mov, 64-bit"),
    ("4c8b", "mov from memory, 64-bit"),
)
_X86_BYTES = tuple((bytes.fromhex(code), meaning) for code, meaning in _X86)

# DW_CFA_def_cfa_offset (0x0e) with a multiple of 8, and DW_CFA_advance_loc (0x40 and up), in turns.
_UNWIND = re.compile(rb"[\x41-\x7f]?(\x0e[\x08-\xf8][\x41-\x7f])+\x0e?")

_AARCH64 = {
    0xD503201F: "nop",
    0xD65F03C0: "ret",
    0xD503245F: "bti c, where an indirect call may land",
    0xD503233F: "paciasp: signs the return address",
    0xD50323BF: "autiasp: checks the return address",
    0x910003FD: "function prologue: mov x29, sp",
}


def _instructions(token: bytes) -> str:
    for code, meaning in _X86_BYTES:
        if token.startswith(code):
            return f"x86: {meaning}"
    if len(token) >= 4:
        word = int.from_bytes(token[:4], "little")
        if word in _AARCH64:
            return f"AArch64: {_AARCH64[word]}"
        if word & 0xFFC07FFF == 0xA9807BFD:
            return "AArch64: function prologue: stp x29, x30, [sp, ...]!"
        if word & 0xFFC07FFF == 0xA8C07BFD:
            return "AArch64: function epilogue: ldp x29, x30, [sp], ..."
    return ""


def _text(token: bytes) -> str:
    words = token.strip(b"\x00")
    if len(words) >= 2 and all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in words):
        if not any(chr(byte).isalpha() for byte in words):
            return ""
        if words.startswith((b"_Z", b"?")) or b"_ZN" in words:
            return "text: mangled C++ name"
        if words.startswith((b"GLIBC", b"GCC_", b"CXXABI")):
            return "text: symbol version"
        if words.startswith(b".") and len(words) >= 4:
            return "text: name of a section or file"
        return "text, ends with NUL" if token.endswith(b"\x00") else "text"
    if len(token) >= 4 and not any(token[1::2]) and all(0x20 <= byte < 0x7F for byte in token[::2]):
        return "text: UTF-16"
    return ""


def _structure(token: bytes) -> str:
    if b"\x00\x00\x00\x00\x08" + bytes(7) in token:
        return "relocation entry: R_X86_64_RELATIVE"
    if b"\x12" + bytes(12) in token:
        return "symbol table: imported function"
    if len(token) >= 4 and _UNWIND.fullmatch(token):
        return "DWARF unwind table: stack offset changes"
    return ""


def _integer(token: bytes) -> str:
    if len(token) <= 3 and token.endswith((b"\xff\xff", b"\xfe\xff", b"\xfd\xff")):
        return "upper bytes of a negative number, such as a jump backwards"
    if len(token) in (4, 8):
        value = int.from_bytes(token, "little", signed=True)
        if abs(value) < 1 << 16:
            return f"integer {value}, little-endian, {8 * len(token)} bits"
    zeros = token.count(0)
    return "small numbers, mostly zeros" if len(token) >= 4 and zeros * 4 >= 3 * len(token) else ""
