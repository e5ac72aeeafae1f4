"""Which learned tokens say most about what the tokenizer found: code, strings, magic numbers, padding, numbers.

A token is classed by where it occurs in held-out files and by its bytes; within a class the long and frequent
ones come first, and one that much resembles a token already chosen is passed over. A token counts as code when
most of its occurrences start where an instruction starts and it is whole instructions. Meanings are guesses.
Source of the idea: Binary BPE, arXiv 2511.17573 (top tokens by format with a guess of meaning).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from byteloom.tasks.report.disassembly import disassemble, instruction_starts, purpose
from byteloom.tasks.report.samples import Sample
from byteloom.tokenize.analysis import guess_meaning

if TYPE_CHECKING:
    from byteloom.tokenize import Tokenizer

# Kinds in the order in which the report shows them: how many of each, and how many that resemble each other in
# meaning (code) or place (the others).
QUOTAS = {
    "Machine code": (14, 2),
    "Strings": (12, 5),
    "Magic numbers": (4, 4),
    "Numbers and tables": (6, 2),
    "Padding and runs": (3, 3),
}

CANDIDATES = 6000  # tokens looked at, by length times log count; the rest cannot win a place
CODE_SHARE = 0.6  # of a token's occurrences that start an instruction, for it to count as code
INSTRUCTIONS = 5  # beyond as many a code token gains nothing by one more
ZEROS_AS_CODE = "add byte ptr [rax], al"  # how two zero bytes read as x86-64: padding, never code
LETTERS = 4  # that a string has at least
NUMBERS = ("integer", "small numbers", "relocation", "symbol table", "DWARF")  # what guess_meaning calls them


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


def token_table(tokenizer: Tokenizer, samples: Sequence[Sample]) -> list[TellingToken]:
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
            substance = min(len(classed.instructions), INSTRUCTIONS) or len(classed.data)
            spread = 1 + math.log2(classed.files)
            scored[classed.kind].append((substance * math.log2(1 + classed.count) * spread, classed))
    chosen: list[TellingToken] = []
    for kind, (quota, alike) in QUOTAS.items():
        rows: list[TellingToken] = []
        taken: Counter[str] = Counter()
        for _, row in sorted(scored[kind], key=lambda pair: (-pair[0], pair[1].id)):
            family = row.meaning if row.instructions else row.section
            if len(rows) < quota and taken[family] < alike and not any(_alike(row, other) for other in rows):
                rows.append(row)
                taken[family] += 1
        chosen += rows
    return chosen


class _Usage:
    """Where tokens occur in the samples."""

    def __init__(self, tokenizer: Tokenizer, samples: Sequence[Sample]) -> None:
        size = tokenizer.vocab_size
        self.count = np.zeros(size, np.int64)
        self.files = np.zeros(size, np.int64)
        self.as_code = np.zeros(size, np.int64)  # occurrences that start where an instruction starts
        self.by_architecture: dict[str, np.ndarray] = {}
        self._by_section: dict[str, np.ndarray] = {}
        for sample in samples:
            ids = tokenizer.encode(sample.data).astype(np.int64)
            lengths = tokenizer.token_lengths[ids].astype(np.int64)
            counts = np.bincount(ids, minlength=size)
            self.count += counts
            self.files += counts > 0
            starts = np.cumsum(lengths) - lengths
            owner = sample.section_of_byte[starts]
            for index in np.unique(owner[owner >= 0]):
                section = sample.sections[index]
                here = np.bincount(ids[owner == index], minlength=size)
                self._by_section[section.name] = self._by_section.get(section.name, 0) + here
                if section.kind == "code" and sample.architecture:
                    code = sample.data[section.offset : section.offset + section.size]
                    inside = owner == index
                    opens = instruction_starts(code, sample.architecture)[starts[inside] - section.offset]
                    aligned = np.bincount(ids[inside][opens], minlength=size)
                    self.as_code += aligned
                    before = self.by_architecture.get(sample.architecture, 0)
                    self.by_architecture[sample.architecture] = before + aligned

    def architecture(self, token: int) -> str | None:
        """The architecture in whose code `token` starts an instruction most often."""
        return max(self.by_architecture, key=lambda name: self.by_architecture[name][token], default=None)

    def section(self, token: int) -> str:
        """The section that holds most occurrences of `token`; "" when most lie outside sections."""
        name = max(self._by_section, key=lambda name: self._by_section[name][token], default="")
        return name if name and 2 * self._by_section[name][token] >= self.count[token] else ""


def _classify(token: int, data: bytes, usage: _Usage) -> TellingToken | None:
    meaning = guess_meaning(data)
    instructions: tuple[str, ...] = ()
    if len(set(data)) == 1:
        kind, meaning = "Padding and runs", f"{len(data)} bytes, {meaning}"
    elif meaning.startswith("magic number: "):
        kind = "Magic numbers"
    elif usage.as_code[token] >= CODE_SHARE * usage.count[token]:
        instructions = disassemble(data, usage.architecture(token))
        kind, meaning = "Machine code", purpose(instructions)
        if not instructions or ZEROS_AS_CODE in instructions:
            return None
    elif meaning.startswith("text"):
        kind = "Strings"
        if len(re.findall(rb"[A-Za-z]", data)) < LETTERS:
            return None
    elif meaning.startswith(NUMBERS):
        kind = "Numbers and tables"
    else:
        return None
    return TellingToken(
        kind=kind,
        id=token,
        data=data,
        count=int(usage.count[token]),
        files=int(usage.files[token]),
        section=usage.section(token),
        meaning=meaning.removeprefix("magic number: ").removeprefix("text: "),
        instructions=instructions,
    )


def _alike(a: TellingToken, b: TellingToken) -> bool:
    if a.data in b.data or b.data in a.data:
        return True
    if a.instructions:
        return [i.split()[0] for i in a.instructions] == [i.split()[0] for i in b.instructions]
    grams_a, grams_b = ({d[i : i + 4] for i in range(max(1, len(d) - 3))} for d in (a.data, b.data))
    return 2 * len(grams_a & grams_b) > min(len(grams_a), len(grams_b))
