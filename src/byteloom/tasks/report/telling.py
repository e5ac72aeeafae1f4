"""Which learned tokens say most about what the tokenizer found: code, strings, magic numbers, padding, numbers.

A token is classed by where it occurs in held-out files and by its bytes; within a class the long and frequent
ones come first, and one that much resembles a token already chosen is passed over. Meanings are guesses.
Source of the idea: Binary BPE, arXiv 2511.17573 (top tokens by format with a guess of meaning).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from byteloom.tasks.report.disassembly import disassemble, purpose
from byteloom.tasks.report.samples import Sample

if TYPE_CHECKING:
    from byteloom.tokenize import BPE

# Kinds in the order in which the report shows them, and how many of each.
QUOTAS = {"Machine code": 14, "Strings": 12, "Magic numbers": 4, "Numbers and tables": 6, "Padding": 3}

CANDIDATES = 6000  # tokens looked at, by length times log count; the rest cannot win a place
CODE_SHARE = 0.6  # of a token's occurrences that lie in code sections, for it to count as code

MAGIC = (  # bytes, what they open; only unmistakable ones
    (b"\x7fELF", "ELF header"),
    (b"\xcf\xfa\xed\xfe", "Mach-O header, 64-bit"),
    (b"\xce\xfa\xed\xfe", "Mach-O header, 32-bit"),
    (b"\xca\xfe\xba\xbe", "Mach-O fat header or Java class"),
    (b"PE\x00\x00", "PE header"),
    (b"MZ\x90\x00", "DOS header of a PE file"),
    (b"This program cannot be run in DOS mode", "DOS stub of a PE file"),
    (b"\x00asm", "WebAssembly header"),
    (b"dex\n03", "DEX header"),
    (b"PK\x03\x04", "ZIP member"),
    (b"\x89PNG", "PNG image"),
    (b"GCC: (", "compiler's signature"),
    (b"clang version", "compiler's signature"),
    (b"GNU\x00", "GNU note (build id, ABI)"),
    (b"/lib64/ld-linux", "path of the dynamic loader"),
    (b"/lib/ld-linux", "path of the dynamic loader"),
)


@dataclass(frozen=True)
class TellingToken:
    """One row of the report's table."""

    kind: str  # a key of QUOTAS
    id: int
    data: bytes
    count: int  # occurrences in the samples
    files: int  # samples that contain it
    section: str  # the section that holds most occurrences; "" outside sections
    meaning: str
    instructions: tuple[str, ...]  # of a code token, all of it


def telling_tokens(tokenizer: BPE, samples: Sequence[Sample]) -> list[TellingToken]:
    """Learned tokens worth showing, by kind in the order of QUOTAS; few or none when there are few to show."""
    if not samples:
        return []
    usage = _Usage(tokenizer, samples)
    lengths = tokenizer.token_lengths.astype(np.int64)
    weight = lengths * np.log2(1 + usage.count) * (lengths >= 2) * (usage.count >= 2)
    candidates = [int(i) for i in np.argsort(-weight, kind="stable")[:CANDIDATES] if weight[i] > 0]
    scored: dict[str, list[tuple[float, TellingToken]]] = {kind: [] for kind in QUOTAS}
    for token in candidates:
        classed = _classify(token, tokenizer.token_bytes(token), usage)
        if classed:
            substance = len(classed.instructions) or len(classed.data)
            spread = 1 + math.log2(classed.files)
            scored[classed.kind].append((substance * math.log2(1 + classed.count) * spread, classed))
    chosen: list[TellingToken] = []
    for kind, quota in QUOTAS.items():
        rows: list[TellingToken] = []
        for _, row in sorted(scored[kind], key=lambda pair: (-pair[0], pair[1].id)):
            if len(rows) < quota and not any(_alike(row, other) for other in rows):
                rows.append(row)
        chosen += rows
    return chosen


class _Usage:
    """Where tokens occur in the samples."""

    def __init__(self, tokenizer: BPE, samples: Sequence[Sample]) -> None:
        size = tokenizer.vocab_size
        self.count = np.zeros(size, np.int64)
        self.files = np.zeros(size, np.int64)
        self.in_code = np.zeros(size, np.int64)
        self.by_architecture: dict[str, np.ndarray] = {}
        self._by_section: dict[str, np.ndarray] = {}
        for sample in samples:
            ids = tokenizer.encode(sample.data).astype(np.int64)
            lengths = tokenizer.token_lengths[ids].astype(np.int64)
            counts = np.bincount(ids, minlength=size)
            self.count += counts
            self.files += counts > 0
            owner = sample.section_of_byte[np.cumsum(lengths) - lengths]
            for index in np.unique(owner[owner >= 0]):
                section = sample.sections[index]
                here = np.bincount(ids[owner == index], minlength=size)
                self._by_section[section.name] = self._by_section.get(section.name, 0) + here
                if section.kind == "code":
                    self.in_code += here
                    architecture = sample.architecture or ""
                    self.by_architecture[architecture] = self.by_architecture.get(architecture, 0) + here

    def architecture(self, token: int) -> str | None:
        """The architecture whose code holds most occurrences of `token`."""
        return max(self.by_architecture, key=lambda name: self.by_architecture[name][token], default=None)

    def section(self, token: int) -> str:
        """The section that holds most occurrences of `token`; "" when most lie outside sections."""
        name = max(self._by_section, key=lambda name: self._by_section[name][token], default="")
        return name if name and 2 * self._by_section[name][token] >= self.count[token] else ""


def _classify(token: int, data: bytes, usage: _Usage) -> TellingToken | None:
    kind, meaning, instructions = "", "", ()
    magic = next((meaning for magic, meaning in MAGIC if magic in data), None)
    if magic:
        kind, meaning = "Magic numbers", magic
    elif len(set(data)) == 1:
        kind, meaning = "Padding", _padding(data)
    elif usage.in_code[token] >= CODE_SHARE * usage.count[token]:
        instructions = disassemble(data, usage.architecture(token))
        if instructions:
            kind, meaning = "Machine code", purpose(instructions)
    elif text := _as_text(data):
        kind, meaning = "Strings", text
    elif number := _as_numbers(data):
        kind, meaning = "Numbers and tables", number
    if not kind:
        return None
    return TellingToken(
        kind=kind,
        id=token,
        data=data,
        count=int(usage.count[token]),
        files=int(usage.files[token]),
        section=usage.section(token),
        meaning=meaning,
        instructions=instructions,
    )


def _padding(data: bytes) -> str:
    names = {0x00: "zeros", 0xFF: "all ones", 0xCC: "int3 between functions", 0x90: "nop between functions"}
    name = names.get(data[0]) or ("spaces" if data[0] == 0x20 else f"byte {data[0]:02x}")
    return f"{len(data)} × {name}" if data[0] in (0x00, 0x20) else f"run of {len(data)}: {name}"


def _as_text(data: bytes) -> str:
    """What text `data` is, "" when it is not text of four letters or more."""
    if len(data) >= 8 and not any(data[1::2]) and re.fullmatch(rb"[\x20-\x7e]{4,}", data[::2]):
        return "UTF-16 text"
    if not re.fullmatch(rb"[\x00\t\n\r]*[\x20-\x7e\n\r\t]+[\x00\n\r]*", data):
        return ""
    if len(re.findall(rb"[A-Za-z]", data)) < 4:
        return ""
    if re.search(rb"\.so\b|\.dll\b|\.dylib\b", data):
        return "library name"
    if re.match(rb"\x00?(_Z|\?\?|_R)", data):
        return "mangled symbol"
    if re.search(rb"%[-0-9.*]*[a-zA-Z]", data):
        return "format string"
    if b"/" in data:
        return "path"
    if re.fullmatch(rb"\x00?\.[a-z_.]+\x00?", data):
        return "section name"
    if re.fullmatch(rb"\x00?[A-Za-z0-9_.@]*_[A-Za-z0-9_.@]*\x00?", data):
        return "symbol name"
    return "text, ends with NUL" if data.endswith(b"\x00") else "text"


def _as_numbers(data: bytes) -> str:
    """What table of little-endian integers `data` looks like, "" when like none."""
    for width, name in ((8, "64-bit"), (4, "32-bit")):
        if len(data) % width == 0:
            values = np.frombuffer(data, f"<u{width}").tolist()
            if all(value < 1 << 16 or value >= (1 << (8 * width)) - 256 for value in values) and any(values):
                signed = [v - (1 << (8 * width)) if v >> (8 * width - 1) else v for v in values]
                return f"{name} integer{'s' * (len(values) > 1)} " + ", ".join(map(str, signed))
    return ""


def _alike(a: TellingToken, b: TellingToken) -> bool:
    if a.data in b.data or b.data in a.data:
        return True
    if a.instructions:
        return [i.split()[0] for i in a.instructions] == [i.split()[0] for i in b.instructions]
    grams_a, grams_b = _grams(a.data), _grams(b.data)
    return 2 * len(grams_a & grams_b) > min(len(grams_a), len(grams_b))


def _grams(data: bytes) -> set[bytes]:
    return {data[i : i + 4] for i in range(max(1, len(data) - 3))}
