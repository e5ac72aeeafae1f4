"""A token as machine instructions, where all of its bytes are instructions with nothing left over.

Decoding is capstone's. A relative branch is shown as a signed distance, counted as its instruction set counts
it (x86: from the end of the instruction, ARM: from its start), because a token does not know its address.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np


def disassemble(code: bytes, architecture: str | None) -> tuple[str, ...]:
    """Instructions of `code`, or () when it is not a whole number of instructions.

    `architecture` is as byteloom.corpus names it: "x86-64", "x86", "aarch64" or "arm"; any other, or an
    installation without capstone, gives (). 32-bit ARM is read as A32 and, where that fails, as Thumb.
    """
    for decoder in _decoders(architecture):
        instructions = list(decoder.engine.disasm(code, 0))
        if instructions and sum(instruction.size for instruction in instructions) == len(code):
            return tuple(_text(instruction, decoder) for instruction in instructions)
    return ()


def instruction_starts(code: bytes, architecture: str | None) -> np.ndarray:
    """Where instructions of `code` start, by linear sweep; bool [len(code)], all False where it cannot be told.

    Linear sweep is right nearly everywhere in what compilers emit, and falls back into step soon after data.
    """
    best = np.zeros(len(code), bool)
    fewest_skipped = len(code)
    for decoder in _decoders(architecture):
        sweep = [(address, name) for address, _, name, _ in decoder.sweeper.disasm_lite(code, 0)]
        skipped = sum(name == ".byte" for _, name in sweep)
        if skipped < fewest_skipped:
            fewest_skipped = skipped
            best = np.zeros(len(code), bool)
            best[[address for address, name in sweep if name != ".byte"]] = True
    return best


def purpose(instructions: tuple[str, ...]) -> str:
    """A guess, from well-known idioms of compilers, at what `instructions` are for; "" when none fits."""
    text = "; ".join(instructions)
    return next((name for name, pattern in _IDIOMS if re.search(pattern, text)), "")


_IDIOMS = (  # the first that matches names the token
    ("padding between functions", r"^(?:[a-z ]*nop[^;]*|int3|xchg ax, ax)(?:; (?:[a-z ]*nop[^;]*|int3|xchg ax, ax))*$"),
    ("stack protector", r"[fg]s:\[0x(28|14)\]"),
    ("function entry", r"^(endbr|bti c|paciasp)"),
    ("return, then padding", r"\bret\b.*; ([a-z ]*nop|int3|xchg ax, ax)"),
    ("jump through a table", r"notrack jmp|\bbr x"),
    ("frame set-up", r"mov [re]bp, [re]sp|stp x29, x30|push \{.*lr\}"),
    ("restores registers, returns", r"(pop|leave|ldp|add [re]sp).*; (ret|bx lr)|pop \{.*pc\}"),
    ("saves registers", r"push .*; push |stp .*; stp "),
    ("restores registers", r"pop .*; pop |ldp .*; ldp "),
    ("return", r"(^|; )(ret|bx lr)$"),
    ("call and check the result", r"call [^;]*; (test|cmp)|\bbl [^;]*; (cmp|cbn?z)"),
    ("compare and branch", r"(test|cmp)\b.*; (j|b\.)|^(cbn?z|tbn?z) "),
    ("compare", r"(^|; )(test|cmp) "),
    ("call", r"\b(call|blr?) "),
    ("clears a register", r"^xor (\w+), \1$"),
    ("stack frame", r"(sub|add) ([re]sp|sp, sp), "),
)  # fmt: skip


class _Decoder(NamedTuple):
    engine: Any  # capstone.Cs with details: groups and operands, by which a relative branch is recognised
    sweeper: Any  # capstone.Cs that steps over data
    bits: int  # of an address
    from_end: bool  # branch distances count from the end of the instruction


@cache
def _decoders(architecture: str | None) -> tuple[_Decoder, ...]:
    try:
        import capstone as cs
    except ImportError:
        return ()
    a32, thumb = (cs.CS_ARCH_ARM, cs.CS_MODE_ARM), (cs.CS_ARCH_ARM, cs.CS_MODE_THUMB)
    modes = {
        "x86-64": [(cs.CS_ARCH_X86, cs.CS_MODE_64)],
        "x86": [(cs.CS_ARCH_X86, cs.CS_MODE_32)],
        "aarch64": [(cs.CS_ARCH_ARM64, cs.CS_MODE_ARM)],
        "arm": [a32, thumb],
    }
    decoders = []
    for mode in modes.get(architecture or "", []):
        engine, sweeper = cs.Cs(*mode), cs.Cs(*mode)
        engine.detail = True
        sweeper.skipdata = True
        bits = 64 if architecture in ("x86-64", "aarch64") else 32
        decoders.append(_Decoder(engine, sweeper, bits, from_end=mode[0] == cs.CS_ARCH_X86))
    return tuple(decoders)


def _text(instruction: Any, decoder: _Decoder) -> str:
    from capstone import CS_GRP_BRANCH_RELATIVE, CS_OP_IMM

    operands = instruction.op_str
    targets = [operand.imm for operand in instruction.operands if operand.type == CS_OP_IMM]
    if targets and instruction.group(CS_GRP_BRANCH_RELATIVE):
        distance = targets[-1] - instruction.address - (instruction.size if decoder.from_end else 0)
        half = 1 << (decoder.bits - 1)
        distance = (distance + half) % (2 * half) - half
        operands = ", ".join([*operands.split(", ")[:-1], f"{distance:+#x}"])
    return f"{instruction.mnemonic} {operands}".strip()
